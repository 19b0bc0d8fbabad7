//! Agents and their join tokens; their [`credentials`], and the [`scope`] of what they may open.

mod credentials;
mod scope;

use hookward_core::clock::UnixMillis;
use hookward_core::limits::JOIN_TOKEN_LIFE_MS;
use hookward_core::names::{AgentName, HostName};
use hookward_core::secret::Secret;
use rusqlite::params;

pub(crate) use self::credentials::{Authentication, KnownAgent, Renewal};
pub(super) use self::scope::of as scope_of;
pub(crate) use self::scope::prefix_pattern;
pub(crate) use self::scope::{AgentScope, ScopeChange};
use super::{StorageError, Store, acts, millis, note_agents_changed};

/// Identifies an agent for the lifetime of the data directory. Names can be reused, ids cannot. The
/// default is no agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct AgentId(pub(super) i64);

#[cfg(test)]
impl AgentId {
    pub(crate) const fn for_tests(id: i64) -> Self {
        Self(id)
    }
}

/// An agent as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    pub id: AgentId,
    pub name: AgentName,
}

/// Row of the administrator's list of agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    pub name: String,
    /// Number of its credentials. It has several for a while after a renewal.
    pub credentials: u64,
    /// Time at which its newest credential expires; `None` if never.
    pub expires: Option<UnixMillis>,
    /// Limits of its tunnels.
    pub scope: AgentScope,
    /// The hosts it owns.
    pub hosts: Vec<String>,
    /// Its last connection or its end.
    pub seen: Option<AgentSeen>,
}

/// Last connection of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentSeen {
    /// Time at which it connected or left.
    pub at: UnixMillis,
    /// Address and port from which it connected.
    pub address: String,
    /// Version of its program.
    pub version: String,
}

/// Host that moved to an agent, by its name or its scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenHost {
    pub host: HostName,
    /// Name of the previous owner.
    pub from: String,
}

impl Store {
    /// Returns `true` if no agent was ever added.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn is_new(&self) -> Result<bool, StorageError> {
        self.read(|db| {
            db.query_row("SELECT NOT EXISTS (SELECT 1 FROM agents)", [], |row| {
                row.get(0)
            })
        })
    }

    /// Adds an agent if needed, and creates the secret of a join token for it. Invalidates its older
    /// join tokens; its credential stays valid until the new token is used. The agent owns the host of
    /// its name from then on. Returns the host with its previous owner, if there was one.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn add_agent(
        &self,
        name: &AgentName,
        secret: &Secret,
        now: UnixMillis,
    ) -> Result<Option<TakenHost>, StorageError> {
        match self.add_agent_with(name, None, secret, now)? {
            ScopeChange::Done { taken, .. } => Ok(taken.into_iter().next()),
            ScopeChange::Unknown | ScopeChange::OwnsMore(_) | ScopeChange::Conflict { .. } => {
                Ok(None)
            }
        }
    }

    /// Adds an agent like [`Store::add_agent`], and sets what it may open; `None` leaves that as it
    /// is. Returns the hosts that belonged to other agents, or a conflict, which changes nothing.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn add_agent_with(
        &self,
        name: &AgentName,
        scope: Option<AgentScope>,
        secret: &Secret,
        now: UnixMillis,
    ) -> Result<ScopeChange, StorageError> {
        let host = self.domain()?.map(|domain| domain.child(name));
        let (name, digest, actor) = (name.clone(), secret.digest(), self.actor.clone());
        self.write(move |tx| {
            if let Some(scope) = &scope
                && let Some(conflict) = scope::conflict(tx, &name, scope)?
            {
                return Ok(conflict);
            }

            let known = credentials::id_of(tx, &name)?;
            if let (Some(agent), Some(scope)) = (known, &scope)
                && let Some(owned) = scope::owned_beyond(tx, agent, scope)?
            {
                return Ok(ScopeChange::OwnsMore(owned));
            }

            let created = tx.execute(
                // Random, because SQLite would use the id of a removed agent again.
                "INSERT INTO agents (id, name) VALUES (abs(random()), ?1) ON CONFLICT DO NOTHING",
                [name.as_str()],
            )?;
            // An agent of this name keeps its credential, and gets another join token.
            let event = match created {
                0 => "join_token_replaced",
                _ => "agent_added",
            };

            let agent: i64 = tx.query_row(
                "SELECT id FROM agents WHERE name = ?1",
                [name.as_str()],
                |row| row.get(0),
            )?;

            tx.execute(
                "DELETE FROM join_tokens WHERE agent = ?1 OR expires_ms <= ?2",
                params![agent, millis(now)],
            )?;
            tx.execute(
                "INSERT INTO join_tokens (digest, agent, expires_ms) VALUES (?1, ?2, ?3)",
                params![
                    digest.as_bytes(),
                    agent,
                    millis(now).saturating_add(JOIN_TOKEN_LIFE_MS as i64)
                ],
            )?;

            let (mut taken, freed) = match &scope {
                Some(scope) => scope::set(tx, agent, scope, now)?,
                None => Default::default(),
            };
            if let Some(host) = host {
                taken.extend(scope::take_own_host(tx, agent, host)?);
            }
            if !taken.is_empty() {
                note_agents_changed(tx)?;
            }

            let moved = taken
                .iter()
                .map(|TakenHost { host, from }| format!("{host} moved from the agent {from}"));
            let limits = scope.iter().flat_map(AgentScope::lines);
            let details: Vec<_> = moved.chain(limits).collect();
            let details = (!details.is_empty()).then(|| details.join("; "));
            acts::add(tx, event, name.as_str(), &actor, details.as_deref(), now)?;
            Ok(ScopeChange::Done { taken, freed })
        })
    }

    /// Removes an agent with its credential, join tokens and hosts. Returns `false` if there was none.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn remove_agent(&self, name: &AgentName, now: UnixMillis) -> Result<bool, StorageError> {
        let (name, actor) = (name.clone(), self.actor.clone());
        self.write(move |db| {
            let removed = db.execute("DELETE FROM agents WHERE name = ?1", [name.as_str()])? > 0;
            if removed {
                note_agents_changed(db)?;
                acts::add(db, "agent_removed", name.as_str(), &actor, None, now)?;
            }
            Ok(removed)
        })
    }

    /// Returns all agents.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn list_agents(&self) -> Result<Vec<AgentRow>, StorageError> {
        self.read(|db| {
            let mut query = db.prepare(
                "SELECT name, coalesce(group_concat(host, ' '), ''), scope,
                        seen_ms, coalesce(seen_address, ''), coalesce(seen_version, ''),
                        (SELECT count(*) FROM credentials WHERE agent = agents.id),
                        (SELECT CASE WHEN count(expires_ms) = count(*) THEN max(expires_ms) END
                         FROM credentials WHERE agent = agents.id)
                 FROM agents LEFT JOIN hosts ON agents.id = hosts.agent GROUP BY agents.id ORDER BY name",
            )?;
            let rows = query.query_map([], |row| {
                let hosts: String = row.get(1)?;
                let expires: Option<i64> = row.get(7)?;
                Ok(AgentRow {
                    name: row.get(0)?,
                    credentials: row.get::<_, i64>(6)?.unsigned_abs(),
                    expires: expires.map(|at| UnixMillis(at.unsigned_abs())),
                    scope: scope::read(row, 2)?,
                    hosts: hosts.split_whitespace().map(str::to_owned).collect(),
                    seen: seen_of(row)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Stores the last connection of an agent.
    pub(crate) fn note_seen(&self, agent: AgentId, seen: &AgentSeen) -> Result<(), StorageError> {
        let seen = seen.clone();
        self.write(move |db| {
            db.execute(
                "UPDATE agents SET seen_ms = ?2, seen_address = ?3, seen_version = ?4 WHERE id = ?1",
                params![agent.0, millis(seen.at), seen.address, seen.version],
            )
        })
        .map(drop)
    }
}

fn seen_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<AgentSeen>> {
    let at: Option<i64> = row.get(3)?;
    let Some(at) = at else { return Ok(None) };
    Ok(Some(AgentSeen {
        at: UnixMillis(u64::try_from(at).unwrap_or_default()),
        address: row.get(4)?,
        version: row.get(5)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::hosts::{HOSTS_PER_AGENT, HostClaim};
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn agent(store: &Store, name: &str) -> Agent {
        let (secret, credential) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        store
            .add_agent(&AgentName::parse(name).unwrap(), &secret, NOW)
            .unwrap();

        store
            .join(&secret, &credential.digest(), NOW)
            .unwrap()
            .unwrap()
            .agent
    }

    #[test]
    fn a_host_belongs_to_its_first_agent() {
        let store = Store::in_memory().unwrap();
        let (a, b) = (agent(&store, "a"), agent(&store, "b"));
        let host = HostName::parse("x.example.com").unwrap();
        assert_eq!(
            store.claim_host(&host, None, a.id).unwrap(),
            HostClaim::Owned
        );
        assert_eq!(
            store.claim_host(&host, None, a.id).unwrap(),
            HostClaim::Owned
        );
        assert_eq!(
            store.claim_host(&host, None, b.id).unwrap(),
            HostClaim::Taken("a".to_owned())
        );

        assert!(store.remove_agent(&a.name, NOW).unwrap());
        assert_eq!(
            store.claim_host(&host, None, b.id).unwrap(),
            HostClaim::Owned
        );

        for n in 0..HOSTS_PER_AGENT {
            store
                .claim_host(
                    &HostName::parse(&format!("{n}.example.com")).unwrap(),
                    None,
                    b.id,
                )
                .unwrap();
        }

        let one_more = HostName::parse("more.example.com").unwrap();
        let own = AgentName::parse("c").unwrap();
        let (c, of_c) = (
            agent(&store, "c"),
            HostName::parse("c.example.com").unwrap(),
        );
        assert_eq!(
            store.claim_host(&of_c, Some(&own), b.id).unwrap(),
            HostClaim::Taken("c".to_owned()),
            "it is reserved"
        );

        assert_eq!(
            store.claim_host(&of_c, Some(&own), c.id).unwrap(),
            HostClaim::Owned
        );
        assert_eq!(
            store.claim_host(&one_more, None, b.id).unwrap(),
            HostClaim::TooMany
        );
    }

    #[test]
    fn an_added_agent_gets_the_host_of_its_name() {
        let store = Store::in_memory().unwrap();
        let domain = HostName::parse("example.com").unwrap();
        store.set_domain(&domain).unwrap();

        let (first, jira) = (agent(&store, "first"), AgentName::parse("jira").unwrap());
        let host = domain.child(&jira);
        assert_eq!(
            store.claim_host(&host, Some(&jira), first.id).unwrap(),
            HostClaim::Owned
        );

        let taken = store
            .add_agent(&jira, &Secret::generate().unwrap(), NOW)
            .unwrap();
        assert_eq!(
            taken,
            Some(TakenHost {
                host: host.clone(),
                from: "first".to_owned()
            })
        );

        assert_eq!(
            store.claim_host(&host, Some(&jira), first.id).unwrap(),
            HostClaim::Taken("jira".to_owned())
        );
        assert_eq!(
            store
                .add_agent(&jira, &Secret::generate().unwrap(), NOW)
                .unwrap(),
            None,
            "it has it already"
        );
    }

    #[test]
    fn hosts_of_agents_alternate() {
        let store = Store::in_memory().unwrap();
        let (one, two) = (agent(&store, "one"), agent(&store, "two"));
        let host = |label: &str| HostName::parse(&format!("{label}.example.test")).unwrap();
        for (label, owner) in [("a", one.id), ("b", one.id), ("c", one.id), ("z", two.id)] {
            let claim = store.claim_host(&host(label), None, owner).unwrap();
            assert_eq!(claim, HostClaim::Owned);
        }
        assert_eq!(store.hosts().unwrap(), ["a", "z", "b", "c"].map(host));
    }
}
