//! Scope of an agent: the hosts, paths, delivery modes and limits that it may use.

use std::collections::HashMap;

use hookward_core::clock::UnixMillis;
use hookward_core::limits::size_text;
use hookward_core::names::{AgentName, HostName};
use hookward_core::path::PathPattern;
use hookward_core::rate::Rate;
use hookward_gate::policy::{DeliveryMode, Policy};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::credentials;
use super::{AgentId, TakenHost};
use crate::storage::hosts::HOSTS_PER_AGENT;
use crate::storage::{StorageError, Store, acts, note_agents_changed};

/// Limits of the tunnels that an agent may open, set by the administrator. An empty list or `None` sets none
/// beyond those of the relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
// An unknown limit must not be ignored.
#[serde(default, deny_unknown_fields)]
pub struct AgentScope {
    /// Hosts of its tunnels; empty for free names below the relay's domain.
    pub hosts: Vec<HostName>,
    /// Prefixes that every path of its policies has.
    pub paths: Vec<String>,
    /// Delivery modes of its policies.
    pub delivery: Vec<DeliveryMode>,
    /// Maximum rate of each tunnel.
    pub rate: Option<Rate>,
    /// Maximum size of a body that a check reads, in bytes.
    pub max_body: Option<u64>,
    /// Maximum number of hosts.
    pub max_hosts: Option<u32>,
    /// Life of each of its credentials, in milliseconds; `None` for credentials that never expire.
    pub credential_life_ms: Option<u64>,
}

/// Result of a change of an agent's scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScopeChange {
    /// The scope is in force.
    Done {
        /// Hosts that belonged to other agents.
        taken: Vec<TakenHost>,
        /// Hosts that the agent had, and has no more.
        freed: Vec<HostName>,
    },
    /// There is no agent of this name.
    Unknown,
    /// The agent owns these hosts, more than the new maximum.
    OwnsMore(Vec<String>),
    /// The scope of another agent names the host.
    Conflict {
        host: HostName,
        /// Name of the other agent.
        agent: String,
    },
}

impl AgentScope {
    /// Returns `true` if all that `before` allows is allowed.
    pub(crate) fn includes(&self, before: &Self) -> bool {
        let is_below = |path: &String| {
            let pattern = prefix_pattern(path);
            let prefixes = self
                .paths
                .iter()
                .filter_map(|prefix| prefix_pattern(prefix));
            pattern.is_some_and(|pattern| prefixes.into_iter().any(|own| own.covers(&pattern)))
        };
        let has_paths =
            self.paths.is_empty() || !before.paths.is_empty() && before.paths.iter().all(is_below);
        let has_rate = self.rate.is_none_or(|now| {
            before
                .rate
                .is_some_and(|before| now.cost() <= before.cost())
        });
        let has_body = self
            .max_body
            .is_none_or(|now| before.max_body.is_some_and(|before| before <= now));
        includes(&self.hosts, &before.hosts)
            && includes(&self.delivery, &before.delivery)
            && has_paths
            && has_rate
            && has_body
    }

    /// Returns `true` if a session that began under `before` may go on with its open tunnels. They have
    /// the rate and the size of bodies of their opening.
    pub(crate) fn keeps_open(&self, before: &Self) -> bool {
        let is_same = (self.rate, self.max_body) == (before.rate, before.max_body);
        is_same && self.includes(before)
    }

    /// Returns `true` if the agent may open this host, unless another agent owns it.
    pub(crate) fn allows_host(&self, host: &HostName) -> bool {
        self.hosts.is_empty() || self.hosts.contains(host)
    }

    /// Returns the maximum number of hosts.
    pub(crate) fn host_limit(&self) -> i64 {
        let own = self.max_hosts.map_or(HOSTS_PER_AGENT, i64::from);
        own.min(HOSTS_PER_AGENT)
    }

    /// Returns each part of a policy that is outside this scope.
    pub(crate) fn exceeded_by(&self, policy: &Policy) -> Vec<String> {
        let mut found = Vec::new();
        let allowed: Vec<_> = self
            .paths
            .iter()
            .filter_map(|prefix| prefix_pattern(prefix))
            .collect();
        for route in &policy.routes {
            let patterns = route
                .paths
                .iter()
                .map(|path| (path, PathPattern::parse(path)));
            for (path, pattern) in patterns.filter(|_| !self.paths.is_empty()) {
                let is_inside =
                    pattern.is_ok_and(|pattern| allowed.iter().any(|own| own.covers(&pattern)));
                if !is_inside {
                    found.push(format!(
                        "route {:?} has the path {path}, and the relay gives this agent {} only; its administrator can \
                         change that: hookward-relay agent set",
                        route.name,
                        self.paths.join(", ")
                    ));
                }
            }

            let mode = route.delivery.as_ref().map(|delivery| delivery.mode);
            let mode = mode.unwrap_or(DeliveryMode::Direct);
            let is_allowed = match mode {
                // Direct where nothing may be stored.
                DeliveryMode::Preset => {
                    self.allows_mode(DeliveryMode::Fallback)
                        || self.allows_mode(DeliveryMode::Direct)
                }
                mode => self.allows_mode(mode),
            };
            if !is_allowed {
                let allowed: Vec<_> = self.delivery.iter().map(|mode| mode.as_str()).collect();
                found.push(format!(
                    "route {:?} has delivery = {:?}, and the relay gives this agent {} only",
                    route.name,
                    mode.as_str(),
                    allowed.join(", ")
                ));
            }
        }
        found
    }

    fn allows_mode(&self, mode: DeliveryMode) -> bool {
        self.delivery.is_empty() || self.delivery.contains(&mode)
    }

    /// Lowers the maximum sizes of bodies, and makes routes without a delivery mode of their own direct
    /// if the agent has no fallback.
    pub(crate) fn apply_to(&self, policy: &mut Policy) {
        for route in &mut policy.routes {
            route.max_body = route.max_body.min(self.max_body.unwrap_or(u64::MAX));
            let mode = route.delivery.as_ref().map(|delivery| delivery.mode);
            let is_preset = mode == Some(DeliveryMode::Preset);
            if is_preset && !self.allows_mode(DeliveryMode::Fallback) {
                route.delivery = None;
            }
        }
    }

    /// Returns the limits as lines for the administrator; none if there are none.
    pub(crate) fn lines(&self) -> Vec<String> {
        let list = |name: &str, values: Vec<String>| {
            (!values.is_empty()).then(|| format!("{name} {}", values.join(", ")))
        };
        let modes = self.delivery.iter().map(|mode| mode.as_str().to_owned());
        let lines = [
            list(
                "hosts",
                self.hosts.iter().map(HostName::to_string).collect(),
            ),
            list("paths", self.paths.clone()),
            list("delivery", modes.collect()),
            self.rate.map(|rate| format!("rate {rate}")),
            self.max_body
                .map(|bytes| format!("max body {}", size_text(bytes))),
            self.max_hosts.map(|count| format!("max hosts {count}")),
            self.credential_life_ms
                .map(|life| format!("credentials expire after {}", duration_text(life))),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// Returns `true` if a list has all values of an earlier one. An empty list has all values.
fn includes<T: PartialEq>(now: &[T], before: &[T]) -> bool {
    let has_all = || before.iter().all(|value| now.contains(value));
    now.is_empty() || !before.is_empty() && has_all()
}

/// Returns a duration in its largest whole unit, as the command line takes it.
fn duration_text(ms: u64) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1000),
    ];
    let unit = units
        .into_iter()
        .find(|(_, length)| ms.is_multiple_of(*length));
    unit.map_or_else(
        || format!("{ms}ms"),
        |(name, length)| format!("{}{name}", ms / length),
    )
}

/// Returns the pattern of all paths with a prefix, whose last segment is complete.
pub(crate) fn prefix_pattern(prefix: &str) -> Option<PathPattern> {
    PathPattern::parse(&format!("{}/**", prefix.trim_end_matches('/'))).ok()
}

impl Store {
    /// Changes what an agent may open. Running sessions see it within a second.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn set_scope(
        &self,
        name: &AgentName,
        scope: AgentScope,
        now: UnixMillis,
    ) -> Result<ScopeChange, StorageError> {
        let (name, actor) = (name.clone(), self.actor.clone());
        self.write(move |db| {
            let Some(agent) = credentials::id_of(db, &name)? else {
                return Ok(ScopeChange::Unknown);
            };
            if let Some(conflict) = conflict(db, &name, &scope)? {
                return Ok(conflict);
            }
            if let Some(owned) = owned_beyond(db, agent, &scope)? {
                return Ok(ScopeChange::OwnsMore(owned));
            }
            let (taken, freed) = set(db, agent, &scope, now)?;
            let details = scope.lines().join("; ");
            acts::add(
                db,
                "agent_limited",
                name.as_str(),
                &actor,
                Some(&details),
                now,
            )?;
            Ok(ScopeChange::Done { taken, freed })
        })
    }
}

impl Store {
    /// Returns what the agents with a credential may open. One whose scope cannot be read is left out.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub(crate) fn scopes(&self) -> Result<HashMap<AgentId, AgentScope>, StorageError> {
        self.read(|db| {
            let select = "SELECT id, scope FROM agents
                          WHERE EXISTS (SELECT 1 FROM credentials WHERE agent = agents.id)";
            let mut query = db.prepare(select)?;
            let rows = query.query_map([], |row| Ok((AgentId(row.get(0)?), read(row, 1).ok())))?;
            let readable = |(agent, scope): (AgentId, Option<AgentScope>)| Some((agent, scope?));
            rows.map(|row| row.map(readable))
                .filter_map(Result::transpose)
                .collect()
        })
    }

    /// Returns what an agent may open, or `None` if there is no agent of this name.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub(crate) fn scope_of(&self, name: &AgentName) -> Result<Option<AgentScope>, StorageError> {
        let name = name.clone();
        self.read(move |db| {
            let agent = credentials::id_of(db, &name)?;
            agent.map(|agent| of(db, agent)).transpose()
        })
    }
}

/// Returns the first host of a scope that the scope of another agent names.
pub(super) fn conflict(
    db: &Connection,
    name: &AgentName,
    scope: &AgentScope,
) -> rusqlite::Result<Option<ScopeChange>> {
    let others = "SELECT name, host.value FROM agents, json_each(scope, '$.hosts') AS host
                  WHERE name <> ?1";
    let mut others = db.prepare(others)?;
    let mut rows = others.query([name.as_str()])?;
    while let Some(row) = rows.next()? {
        let (agent, theirs): (String, String) = (row.get(0)?, row.get(1)?);
        if let Some(host) = scope.hosts.iter().find(|host| host.as_str() == theirs) {
            let host = host.clone();
            return Ok(Some(ScopeChange::Conflict { host, agent }));
        }
    }
    Ok(None)
}

/// Returns the hosts of an agent, if they are more than the maximum of its new scope.
pub(super) fn owned_beyond(
    db: &Connection,
    agent: i64,
    scope: &AgentScope,
) -> rusqlite::Result<Option<Vec<String>>> {
    // Hosts outside of a list are freed.
    if !scope.hosts.is_empty() {
        return Ok(None);
    }
    let mut query = db.prepare("SELECT host FROM hosts WHERE agent = ?1 ORDER BY host")?;
    let rows = query.query_map([agent], |row| row.get(0))?;
    let owned: Vec<String> = rows.collect::<rusqlite::Result<_>>()?;
    Ok((owned.len() as i64 > scope.host_limit()).then_some(owned))
}

/// Puts a scope in force, gives the agent its hosts, and shortens the life of its credentials.
/// Returns the hosts that belonged to other agents, and those that the agent has no more.
pub(super) fn set(
    db: &Connection,
    agent: i64,
    scope: &AgentScope,
    now: UnixMillis,
) -> rusqlite::Result<(Vec<TakenHost>, Vec<HostName>)> {
    let json = serde_json::to_string(scope)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let update = "UPDATE agents SET scope = ?2 WHERE id = ?1";
    db.execute(update, params![agent, json])?;

    let (mut taken, mut freed) = (Vec::new(), Vec::new());
    if !scope.hosts.is_empty() {
        let outside = "DELETE FROM hosts WHERE agent = ?1
                       AND host NOT IN (SELECT value FROM json_each(?2, '$.hosts')) RETURNING host";
        let mut outside = db.prepare(outside)?;
        let mut rows = outside.query(params![agent, json])?;
        while let Some(row) = rows.next()? {
            freed.extend(HostName::parse(&row.get::<_, String>(0)?));
        }
    }
    for host in &scope.hosts {
        taken.extend(take_host(db, agent, host)?);
    }
    if let Some(life) = scope.credential_life_ms {
        credentials::bound(db, agent, (life / 3 * 2, life), now)?;
    }
    note_agents_changed(db)?;
    Ok((taken, freed))
}

/// Gives a host to an agent. Returns it with its previous owner, if that was another one.
fn take_host(db: &Connection, agent: i64, host: &HostName) -> rusqlite::Result<Option<TakenHost>> {
    let of_another = "SELECT name FROM hosts JOIN agents ON agents.id = hosts.agent
                      WHERE host = ?1 AND hosts.agent <> ?2";
    let from: Option<String> = db
        .query_row(of_another, params![host.as_str(), agent], |row| row.get(0))
        .optional()?;
    let give = "INSERT INTO hosts (host, agent) VALUES (?1, ?2)
                ON CONFLICT (host) DO UPDATE SET agent = ?2";
    db.execute(give, params![host.as_str(), agent])?;
    let host = host.clone();
    Ok(from.map(|from| TakenHost { host, from }))
}

/// Moves the host of an agent's name to it, if another agent owns it and the agent may have it.
pub(super) fn take_own_host(
    db: &Connection,
    agent: i64,
    host: HostName,
) -> rusqlite::Result<Option<TakenHost>> {
    // One that another agent was given stays its own.
    let is_taken = "SELECT EXISTS (SELECT 1 FROM hosts WHERE host = ?1 AND agent <> ?2)
                    AND NOT EXISTS (SELECT 1 FROM agents, json_each(scope, '$.hosts') AS given
                                    WHERE given.value = ?1 AND agents.id <> ?2)";
    let is_taken = db.query_row(is_taken, params![host.as_str(), agent], |row| row.get(0))?;
    match is_taken && of(db, agent)?.allows_host(&host) {
        true => take_host(db, agent, &host),
        false => Ok(None),
    }
}

/// Returns the scope of an agent.
pub(crate) fn of(db: &Connection, agent: i64) -> rusqlite::Result<AgentScope> {
    let select = "SELECT scope FROM agents WHERE id = ?1";
    db.prepare_cached(select)?
        .query_row([agent], |row| read(row, 0))
}

/// Reads a scope from a column.
pub(super) fn read(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<AgentScope> {
    let json: String = row.get(column)?;
    // An unreadable scope must not become one without limits.
    serde_json::from_str(&json).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
    })
}

#[cfg(test)]
mod tests {
    use hookward_core::clock::Clock;
    use hookward_core::secret::Secret;
    use hookward_gate::policy::file;
    use hookward_runtime::secrets::VettedSecrets;

    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn policy(route: &str) -> Policy {
        let text = format!("[[route]]\n{route}\n[[route.accept]]\nopen = true");
        let now = Clock::default().now();
        file::read("test", &text, &VettedSecrets, now)
            .unwrap()
            .policy
    }

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    fn of_hosts(hosts: &[&str]) -> AgentScope {
        AgentScope {
            hosts: hosts.iter().map(|name| host(name)).collect(),
            ..AgentScope::default()
        }
    }

    #[test]
    fn a_path_must_be_below_a_prefix() {
        let scope = AgentScope {
            paths: vec!["/rest/webhooks/".to_owned(), "/hooks".to_owned()],
            ..AgentScope::default()
        };
        let is_inside = |path: &str| {
            scope
                .exceeded_by(&policy(&format!("path = '{path}'")))
                .is_empty()
        };
        for inside in ["/rest/webhooks/**", "/rest/webhooks", "/hooks/*/x"] {
            assert!(is_inside(inside), "{inside}");
        }
        for outside in [
            "/**",
            "/rest/**",
            "/rest/*/x",
            "/rest/webhooksx",
            "/*/webhooks",
            "/HOOKS",
        ] {
            assert!(!is_inside(outside), "{outside}");
        }
        let list = policy("path = ['/hooks', '/admin']");
        assert_eq!(scope.exceeded_by(&list).len(), 1);
    }

    #[test]
    fn delivery_modes_and_bodies_are_limited() {
        let scope = |delivery: &[DeliveryMode]| AgentScope {
            delivery: delivery.to_vec(),
            max_body: Some(1000),
            ..AgentScope::default()
        };
        let (direct, queue) = (
            scope(&[DeliveryMode::Direct]),
            scope(&[DeliveryMode::Queue]),
        );
        let stores = policy("path = '/a'\ndelivery = 'fallback'");
        assert_eq!(direct.exceeded_by(&stores).len(), 1);

        // Without a mode of its own, a route is direct where nothing may be stored.
        let mut preset = policy("path = '/a'");
        preset.routes[0].delivery = preset.routes[0].preset_delivery();
        assert!(preset.routes[0].delivery.is_some());
        assert!(direct.exceeded_by(&preset).is_empty());
        assert_eq!(queue.exceeded_by(&preset).len(), 1);
        direct.apply_to(&mut preset);
        assert!(preset.routes[0].delivery.is_none());
        assert_eq!(preset.routes[0].max_body, 1000);
    }

    #[test]
    fn a_wider_scope_leaves_tunnels_open() {
        let none = of_hosts(&[]);
        let (one, two) = (of_hosts(&["a.test"]), of_hosts(&["a.test", "b.test"]));
        assert!(none.includes(&one) && two.includes(&one) && one.includes(&one));
        assert!(!one.includes(&two) && !one.includes(&none));

        let paths = |paths: &[&str]| AgentScope {
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            ..AgentScope::default()
        };
        assert!(paths(&["/a", "/x"]).includes(&paths(&["/a/b", "/a/c"])));
        assert!(!paths(&["/a/b"]).includes(&paths(&["/a"])) && !paths(&["/a"]).includes(&none));

        let rate = |text: &str| AgentScope {
            rate: Rate::parse(text).ok(),
            ..AgentScope::default()
        };
        assert!(rate("5/s").includes(&rate("4/s")) && none.includes(&rate("4/s")));
        assert!(!rate("4/s").includes(&rate("5/s")) && !rate("4/s").includes(&none));
        assert!(
            !rate("5/s").keeps_open(&rate("4/s")),
            "open tunnels get the new rate"
        );
        let life = AgentScope {
            credential_life_ms: Some(1),
            ..AgentScope::default()
        };
        assert!(none.keeps_open(&life));
    }

    #[test]
    fn hosts_of_a_scope_are_the_agents_and_stay_so() {
        let store = Store::in_memory().unwrap();
        store.set_domain(&host("hooks.test")).unwrap();
        let name = |name: &str| AgentName::parse(name).unwrap();
        let add = |agent: &str| {
            let secret = Secret::generate().unwrap();
            store.add_agent(&name(agent), &secret, NOW).unwrap()
        };
        add("b");
        let set = |agent: &str, hosts: &[&str]| store.set_scope(&name(agent), of_hosts(hosts), NOW);
        set("b", &["a.hooks.test"]).unwrap();
        // The host of its own name was given to another agent.
        assert_eq!(add("a"), None);
        let owner = |wanted: &str| {
            let agents = store.list_agents().unwrap().into_iter();
            let mut agents = agents.filter(|row| row.hosts.iter().any(|host| host == wanted));
            agents.next().map(|row| row.name)
        };
        assert_eq!(owner("a.hooks.test").as_deref(), Some("b"));
        let conflict = ScopeChange::Conflict {
            host: host("a.hooks.test"),
            agent: "b".to_owned(),
        };
        assert_eq!(set("a", &["a.hooks.test"]).unwrap(), conflict);

        let moved = ScopeChange::Done {
            taken: Vec::new(),
            freed: vec![host("a.hooks.test")],
        };
        assert_eq!(set("b", &["other.test"]).unwrap(), moved);
        assert_eq!(owner("a.hooks.test"), None);
        assert_eq!(set("nobody", &["x.test"]).unwrap(), ScopeChange::Unknown);
    }

    #[test]
    fn an_unknown_limit_is_no_missing_one() {
        assert!(serde_json::from_str::<AgentScope>(r#"{"countries": ["ch"]}"#).is_err());
        assert!(serde_json::from_str::<AgentScope>("{}").is_ok());
    }
}
