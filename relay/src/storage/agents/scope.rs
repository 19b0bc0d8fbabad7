//! What an agent may open.

use hookward_core::clock::UnixMillis;
use hookward_core::names::{AgentName, HostName};
use hookward_core::path::PathPattern;
use hookward_core::rate::Rate;
use hookward_gate::policy::{DeliveryMode, Policy};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};

use super::TakenHost;
use super::credentials;
use crate::storage::hosts::HOSTS_PER_AGENT;
use crate::storage::{StorageError, Store, acts, note_agents_changed};

/// What an agent may open, as its administrator has set it. An empty list or `None` sets no limit
/// beyond those of the relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
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
    /// The scope is in force. These hosts belonged to other agents.
    Done(Vec<TakenHost>),
    /// There is no agent of this name.
    Unknown,
    /// The scope of another agent names the host.
    Conflict {
        host: HostName,
        /// Name of the other agent.
        agent: String,
    },
}

impl AgentScope {
    /// Returns `true` if both allow the same tunnels.
    pub(crate) fn allows_same_as(&self, other: &Self) -> bool {
        let other = Self {
            credential_life_ms: self.credential_life_ms,
            ..other.clone()
        };
        *self == other
    }

    /// Returns `true` if the agent may store webhooks at the relay.
    pub(crate) fn stores(&self) -> bool {
        let stores = |mode: &DeliveryMode| *mode != DeliveryMode::Direct;
        self.delivery.is_empty() || self.delivery.iter().any(stores)
    }

    /// Returns `true` if the agent may open this host, when nobody else owns it.
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
                        "route {:?} has the path {path}, and the relay gives this agent {} only",
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

    /// Makes the routes without a delivery mode of their own direct, if the agent has no fallback.
    pub(crate) fn apply_to(&self, policy: &mut Policy) {
        if self.allows_mode(DeliveryMode::Fallback) {
            return;
        }
        for route in &mut policy.routes {
            let mode = route.delivery.as_ref().map(|delivery| delivery.mode);
            if mode == Some(DeliveryMode::Preset) {
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
            self.max_body.map(|bytes| format!("max body {bytes} bytes")),
            self.max_hosts.map(|count| format!("max hosts {count}")),
            self.credential_life_ms
                .map(|life| format!("credentials expire after {} h", life.div_ceil(3_600_000))),
        ];
        lines.into_iter().flatten().collect()
    }
}

/// Returns the pattern of all paths with a prefix, which ends at a slash.
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
            let find = "SELECT id FROM agents WHERE name = ?1";
            let agent = db.query_row(find, [name.as_str()], |row| row.get(0));
            let Some(agent) = agent.optional()? else {
                return Ok(ScopeChange::Unknown);
            };
            if let Some(conflict) = conflict(db, &name, &scope)? {
                return Ok(conflict);
            }
            let taken = set(db, agent, &scope, now)?;
            let details = scope.lines().join("; ");
            acts::add(
                db,
                "agent_limited",
                name.as_str(),
                &actor,
                Some(&details),
                now,
            )?;
            Ok(ScopeChange::Done(taken))
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

/// Puts a scope in force, gives the agent its hosts, and shortens the life of its credentials.
/// Returns the hosts that belonged to other agents.
pub(super) fn set(
    db: &Connection,
    agent: i64,
    scope: &AgentScope,
    now: UnixMillis,
) -> rusqlite::Result<Vec<TakenHost>> {
    let json = serde_json::to_string(scope)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let update = "UPDATE agents SET scope = ?2 WHERE id = ?1";
    db.execute(update, params![agent, json])?;

    let mut taken = Vec::new();
    if !scope.hosts.is_empty() {
        let outside = "DELETE FROM hosts WHERE agent = ?1
                       AND host NOT IN (SELECT value FROM json_each(?2, '$.hosts'))";
        db.execute(outside, params![agent, json])?;
    }
    for host in &scope.hosts {
        taken.extend(take_host(db, agent, host)?);
    }
    if let Some(life) = scope.credential_life_ms {
        credentials::shorten(db, agent, life, now)?;
    }
    note_agents_changed(db)?;
    Ok(taken)
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
    let is_taken = "SELECT EXISTS (SELECT 1 FROM hosts WHERE host = ?1 AND agent <> ?2)";
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
