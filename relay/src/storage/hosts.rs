//! Public hosts and the agents that own them.

use std::collections::BTreeSet;

use hookward_core::names::{AgentName, HostName};
use rusqlite::{OptionalExtension as _, params};

use super::agents::{AgentId, scope_of};
use super::{StorageError, Store};

/// Result of a claim of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostClaim {
    /// The agent owns the host.
    Owned,
    /// The agent of this name owns the host.
    Taken(String),
    /// The agent owns as many hosts as it may.
    TooMany,
    /// The agent's scope names other hosts only.
    OutOfScope,
}

impl Store {
    /// Claims a host for an agent, if it is free or the agent's own. The host of another agent's name,
    /// below the relay's domain, is never free, even before that agent connects.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn claim_host(
        &self,
        host: &HostName,
        name: Option<&AgentName>,
        agent: AgentId,
    ) -> Result<HostClaim, StorageError> {
        // The usual case needs no lock for writing.
        let (wanted, owned) = (
            host.clone(),
            "SELECT 1 FROM hosts WHERE host = ?1 AND agent = ?2",
        );
        let is_own = self.read(move |db| {
            db.prepare_cached(owned)?
                .exists(params![wanted.as_str(), agent.0])
        })?;
        if is_own {
            return Ok(HostClaim::Owned);
        }

        let (host, name) = (host.clone(), name.cloned());
        self.write(move |tx| {
            let owner: Option<(i64, String)> = tx
                .query_row(
                    "SELECT agents.id, name FROM hosts JOIN agents ON agents.id = hosts.agent WHERE host = ?1",
                    [host.as_str()],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            if let Some((owner, name)) = owner {
                return Ok(if owner == agent.0 { HostClaim::Owned } else { HostClaim::Taken(name) });
            }

            let of_another: Option<String> = tx
                .query_row(
                    "SELECT name FROM agents WHERE name = ?1 AND id <> ?2",
                    params![name.as_ref().map(AgentName::as_str), agent.0],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(name) = of_another {
                return Ok(HostClaim::Taken(name));
            }

            let scope = scope_of(tx, agent.0)?;
            if !scope.allows_host(&host) {
                return Ok(HostClaim::OutOfScope);
            }

            let owned: i64 =
                tx.query_row("SELECT count(*) FROM hosts WHERE agent = ?1", [agent.0], |row| row.get(0))?;
            if owned >= scope.host_limit() {
                return Ok(HostClaim::TooMany);
            }

            tx.execute("INSERT INTO hosts (host, agent) VALUES (?1, ?2)", params![host.as_str(), agent.0])?;
            Ok(HostClaim::Owned)
        })
    }

    /// Returns the hosts that the scopes of agents name, which may be outside the relay's domain.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub(crate) fn given_hosts(&self) -> Result<BTreeSet<HostName>, StorageError> {
        let hosts = "SELECT host.value FROM agents, json_each(scope, '$.hosts') AS host";
        Ok(self.read_hosts(hosts)?.collect())
    }

    /// Returns all hosts with their owners.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub(crate) fn host_owners(&self) -> Result<Vec<(HostName, AgentId)>, StorageError> {
        let owners = self.read(|db| {
            let mut query = db.prepare_cached("SELECT host, agent FROM hosts")?;
            let rows = query.query_map([], |row| {
                Ok((row.get::<_, String>(0)?, AgentId(row.get(1)?)))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let hosts = owners.into_iter();
        let hosts = hosts.filter_map(|(name, owner)| Some((HostName::parse(&name)?, owner)));
        Ok(hosts.collect())
    }

    /// Returns the hosts that a query selects.
    fn read_hosts(
        &self,
        select: &'static str,
    ) -> Result<impl Iterator<Item = HostName>, StorageError> {
        let names = self.read(move |db| {
            let mut query = db.prepare(select)?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let hosts = names.into_iter();
        Ok(hosts.filter_map(|name| HostName::parse(&name)))
    }

    /// Returns those of these hosts that belong to other agents, with their names.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn lost_hosts(
        &self,
        hosts: &[HostName],
        agent: AgentId,
    ) -> Result<Vec<(HostName, String)>, StorageError> {
        let find = "SELECT name FROM hosts JOIN agents ON agents.id = hosts.agent WHERE host = ?1 AND hosts.agent <> ?2";
        let hosts = hosts.to_vec();
        self.read(move |db| {
            let mut find = db.prepare_cached(find)?;
            let mut lost = Vec::new();
            for host in &hosts {
                let owner = find
                    .query_row(params![host.as_str(), agent.0], |row| row.get(0))
                    .optional()?;
                lost.extend(owner.map(|owner| (host.clone(), owner)));
            }
            Ok(lost)
        })
    }

    /// Returns all hosts with an owner: the first of each agent, then the second of each, and so on, so
    /// that no agent is served after all hosts of another.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn hosts(&self) -> Result<Vec<HostName>, StorageError> {
        let hosts = "SELECT host FROM hosts \
                     ORDER BY row_number() OVER (PARTITION BY agent ORDER BY rowid), rowid";
        Ok(self.read_hosts(hosts)?.collect())
    }
}

/// Maximum number of hosts of one agent, so that none can take all names.
pub(super) const HOSTS_PER_AGENT: i64 = 64;
