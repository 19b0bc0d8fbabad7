//! What the relay keeps across restarts, in SQLite: agents, join tokens, and who owns which host.
//!
//! Of secrets only hashes are kept. Calls block for a disk access; from async code they go through
//! [`Store::run`]. `hookward-relay agent …` opens the same file beside a running relay.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::limits::JOIN_TOKEN_LIFE_MS;
use hookward_core::names::{AgentName, HostName};
use hookward_core::secret::{Secret, SecretDigest};
use hookward_runtime::process;
use rusqlite::{Connection, OptionalExtension, params};

/// How long one process waits for the other's lock on the file.
const BUSY: Duration = Duration::from_secs(5);
/// Hosts that one agent may own, so that none can take all names.
const HOSTS_PER_AGENT: i64 = 64;

/// Facts about the relay.
const TUNNEL_ADDRESS: &str = "tunnel_address";
const DOMAIN: &str = "domain";

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS agents (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        credential_digest BLOB UNIQUE            -- SHA-256; null until the agent has joined
    ) STRICT;
    CREATE TABLE IF NOT EXISTS join_tokens (
        digest BLOB PRIMARY KEY,                 -- SHA-256 of the token's secret
        agent INTEGER NOT NULL REFERENCES agents(id) ON DELETE CASCADE,
        expires_ms INTEGER NOT NULL,
        used_by BLOB                             -- the credential's SHA-256; null until it is used
    ) STRICT;
    CREATE TABLE IF NOT EXISTS hosts (
        host TEXT PRIMARY KEY,
        agent INTEGER NOT NULL REFERENCES agents(id) ON DELETE CASCADE
    ) STRICT;
    CREATE TABLE IF NOT EXISTS address_lists (
        name TEXT PRIMARY KEY,                   -- of a named set
        ranges TEXT NOT NULL,                    -- one a line
        read_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS facts (
        name TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) STRICT;
";

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file can't be opened or made.
    #[error("{path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite.
    #[error("{path}: {source}{}", remedy(.source))]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The system gave no thread.
    #[error("no thread for the file of deliveries: {0}")]
    Thread(io::Error),
    /// The task that waited for the disk is gone: the program is ending.
    #[error("the program is ending")]
    Ending,
}

impl StoreError {
    /// Returns `true` if the file is no database any more.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Sqlite { source, .. } if is_damage(source))
    }
}

/// Adds a column that files of version 0.1.0 have not.
fn add_used_by(connection: &Connection) -> rusqlite::Result<()> {
    let is_there = "SELECT count(*) FROM pragma_table_info('join_tokens') WHERE name = 'used_by'";
    let is_there: i64 = connection.query_row(is_there, [], |row| row.get(0))?;
    if is_there == 0 {
        connection.execute_batch("ALTER TABLE join_tokens ADD COLUMN used_by BLOB")?;
    }
    Ok(())
}

/// Returns `true` for what SQLite says of a file that was cut off or overwritten.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

/// Remedy for the relay's state file.
fn remedy(error: &rusqlite::Error) -> &'static str {
    match is_damage(error) {
        true => {
            "; the file is damaged: restore it from a backup, or start once with --reset, which sets it aside and begins \
             anew (every agent has to join again)"
        }
        false => "",
    }
}

/// Opens a database, and makes it (mode 0600; SQLite gives its other files the same) when it is not
/// there.
///
/// # Errors
/// [`StoreError::Open`] with what the system says, where SQLite would only say that it can't;
/// [`StoreError::Sqlite`].
pub(crate) fn open_database(path: &Path) -> Result<Connection, StoreError> {
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| StoreError::Open {
            path: path.to_owned(),
            source,
        })?;

    Connection::open(path).map_err(|source| StoreError::Sqlite {
        path: path.to_owned(),
        source,
    })
}

/// Sets a damaged database aside, with SQLite's files beside it. Returns its new path.
///
/// # Errors
/// [`StoreError::Open`].
pub(crate) fn set_database_aside(path: &Path, clock: &Clock) -> Result<PathBuf, StoreError> {
    let now = clock.now();
    let aside = process::set_aside(path, now).map_err(|source| StoreError::Open {
        path: path.to_owned(),
        source,
    })?;

    for suffix in ["-wal", "-shm"] {
        let [from, to] = [path, &aside].map(|path| {
            let mut beside = path.as_os_str().to_owned();
            beside.push(suffix);
            PathBuf::from(beside)
        });

        // They belong to the damaged database, and must not meet a new one. They are not always
        // there.
        match fs::rename(&from, to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Open { path: from, source });
            }
            _ => {}
        }
    }

    Ok(aside)
}

/// Identifies an agent for as long as the relay's data lives; names can be given anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AgentId(i64);

/// An agent as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: AgentName,
}

/// An agent in a list for the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentRow {
    /// Its name.
    pub name: String,
    /// Whether it has exchanged a join token for a credential.
    pub joined: bool,
    /// The hosts it owns.
    pub hosts: Vec<String>,
    /// Changes with each agent of the name and each credential of it.
    pub(crate) identity: (i64, Option<Vec<u8>>),
}

/// Host that moved to the newly added agent of the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenHost {
    /// The host.
    pub host: HostName,
    /// The agent that had it.
    pub from: String,
}

/// Whether a host could be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// It belongs to the agent now, or did before.
    Owned,
    /// It belongs to the agent of this name.
    Taken(String),
    /// The agent owns as many hosts as it may.
    TooMany,
}

/// The state file; clones share it.
#[derive(Clone)]
pub struct Store {
    // A std mutex: SQLite calls never await.
    connection: Arc<Mutex<Connection>>,
    path: Arc<Path>,
}

impl Store {
    /// Opens the file, and makes it when it is not there.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Sqlite`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::prepare(open_database(path)?, path)
    }

    /// A store that ends with the program.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = Path::new("(in memory)");
        let connection = Connection::open_in_memory();
        Self::prepare(
            connection.map_err(|source| StoreError::Sqlite {
                path: path.to_owned(),
                source,
            })?,
            path,
        )
    }

    fn prepare(connection: Connection, path: &Path) -> Result<Self, StoreError> {
        let prepared = (|| {
            connection.busy_timeout(BUSY)?;
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)?;
            connection.execute_batch(SCHEMA)?;
            add_used_by(&connection)?;

            // A page that is lost is met at the start, not by an agent that comes at night.
            connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0))
        })();

        let failed = |source| StoreError::Sqlite {
            path: path.to_owned(),
            source,
        };
        let found = prepared.map_err(failed)?;
        if found != "ok" {
            let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            return Err(failed(rusqlite::Error::SqliteFailure(corrupt, Some(found))));
        }

        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            path: path.into(),
        })
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// Those of `work`, and [`StoreError::Ending`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|_| StoreError::Ending)?
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        // A panic elsewhere leaves the connection usable: an open transaction is rolled back.
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);

        work(&mut connection).map_err(|source| StoreError::Sqlite {
            path: self.path.to_path_buf(),
            source,
        })
    }

    /// Whether no agent was ever added.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn is_new(&self) -> Result<bool, StoreError> {
        self.with(|db| {
            db.query_row("SELECT NOT EXISTS (SELECT 1 FROM agents)", [], |row| {
                row.get(0)
            })
        })
    }

    /// Adds an agent, or finds it, and makes the secret of a join token for it. Older join tokens
    /// of this agent end; its credential lives until the new token is used. The host of its name is
    /// its own from now on: the agent that had it until now is returned, with the host.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn add_agent(
        &self,
        name: &AgentName,
        secret: &Secret,
        now: UnixMillis,
    ) -> Result<Option<TakenHost>, StoreError> {
        let host = self.domain()?.map(|domain| domain.child(name));
        self.with(|db| {
            let tx = db.transaction()?;
            tx.execute(
                "INSERT INTO agents (name) VALUES (?1) ON CONFLICT DO NOTHING",
                [name.as_str()],
            )?;

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
                    secret.digest().as_bytes(),
                    agent,
                    millis(now).saturating_add(JOIN_TOKEN_LIFE_MS as i64)
                ],
            )?;

            let mut taken = None;
            if let Some(host) = host {
                let of_another = "SELECT name FROM hosts JOIN agents ON agents.id = hosts.agent
                                  WHERE host = ?1 AND hosts.agent <> ?2";
                let from: Option<String> = tx
                    .query_row(of_another, params![host.as_str(), agent], |row| row.get(0))
                    .optional()?;
                if let Some(from) = from {
                    tx.execute(
                        "UPDATE hosts SET agent = ?2 WHERE host = ?1",
                        params![host.as_str(), agent],
                    )?;
                    taken = Some(TakenHost { host, from });
                }
            }

            tx.commit()?;
            Ok(taken)
        })
    }

    /// The first of these hosts that belongs to another agent, and that agent's name.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn lost_host(
        &self,
        hosts: &[HostName],
        agent: AgentId,
    ) -> Result<Option<(HostName, String)>, StoreError> {
        let find = "SELECT name FROM hosts JOIN agents ON agents.id = hosts.agent WHERE host = ?1 AND hosts.agent <> ?2";
        self.with(|db| {
            let mut find = db.prepare_cached(find)?;
            for host in hosts {
                let owner = find
                    .query_row(params![host.as_str(), agent.0], |row| row.get(0))
                    .optional()?;
                if let Some(owner) = owner {
                    return Ok(Some((host.clone(), owner)));
                }
            }

            Ok(None)
        })
    }

    /// Withdraws an agent's credential, its join tokens and its hosts. `false`: there was none.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn remove_agent(&self, name: &AgentName) -> Result<bool, StoreError> {
        self.with(|db| Ok(db.execute("DELETE FROM agents WHERE name = ?1", [name.as_str()])? > 0))
    }

    /// All agents.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn list_agents(&self) -> Result<Vec<AgentRow>, StoreError> {
        self.with(|db| {
            let mut query = db.prepare(
                "SELECT name, credential_digest IS NOT NULL, coalesce(group_concat(host, ' '), ''),
                        agents.id, credential_digest
                 FROM agents LEFT JOIN hosts ON agents.id = hosts.agent GROUP BY agents.id ORDER BY name",
            )?;
            let rows = query.query_map([], |row| {
                let hosts: String = row.get(2)?;
                Ok(AgentRow {
                    name: row.get(0)?,
                    joined: row.get(1)?,
                    hosts: hosts.split_whitespace().map(str::to_owned).collect(),
                    identity: (row.get(3)?, row.get(4)?),
                })
            })?;
            rows.collect()
        })
    }

    /// Exchanges a join token's secret for a credential. The token is used up; only the same
    /// credential may come again, from an agent that did not get the answer or could not keep it.
    /// `None`: it is unknown, used by another, or too old.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn join(
        &self,
        secret: &Secret,
        credential: &SecretDigest,
        now: UnixMillis,
    ) -> Result<Option<Agent>, StoreError> {
        self.with(|db| {
            let tx = db.transaction()?;
            let agent: Option<i64> = tx
                .query_row(
                    "UPDATE join_tokens SET used_by = ?3
                     WHERE digest = ?1 AND expires_ms > ?2 AND (used_by IS NULL OR used_by = ?3) RETURNING agent",
                    params![secret.digest().as_bytes(), millis(now), credential.as_bytes()],
                    |row| row.get(0),
                )
                .optional()?;
            let Some(agent) = agent else { return Ok(None) };

            let name: String = tx.query_row(
                "UPDATE agents SET credential_digest = ?2 WHERE id = ?1 RETURNING name",
                params![agent, credential.as_bytes()],
                |row| row.get(0),
            )?;

            tx.commit()?;
            Ok(AgentName::parse(&name).map(|name| Agent { id: AgentId(agent), name }))
        })
    }

    /// The agent with this credential.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn authenticate(&self, credential: &SecretDigest) -> Result<Option<Agent>, StoreError> {
        // Looked up by digest: what a timing could tell is a digest, from which no credential
        // (256 bits) can be found.
        self.with(|db| {
            db.query_row(
                "SELECT id, name FROM agents WHERE credential_digest = ?1",
                [credential.as_bytes()],
                |row| Ok((AgentId(row.get(0)?), row.get::<_, String>(1)?)),
            )
            .optional()
        })
        .map(|row| {
            row.and_then(|(id, name)| {
                Some(Agent {
                    id,
                    name: AgentName::parse(&name)?,
                })
            })
        })
    }

    /// Gives a host to an agent, if it is free or the agent's own. The host of another agent's
    /// `name`, below the relay's domain, is not free, from the moment that agent was added.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn claim_host(
        &self,
        host: &HostName,
        name: Option<&AgentName>,
        agent: AgentId,
    ) -> Result<Claim, StoreError> {
        self.with(|db| {
            let tx = db.transaction()?;
            let owner: Option<(i64, String)> = tx
                .query_row(
                    "SELECT agents.id, name FROM hosts JOIN agents ON agents.id = hosts.agent WHERE host = ?1",
                    [host.as_str()],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )
                .optional()?;
            if let Some((owner, name)) = owner {
                return Ok(if owner == agent.0 { Claim::Owned } else { Claim::Taken(name) });
            }

            let of_another: Option<String> = tx
                .query_row(
                    "SELECT name FROM agents WHERE name = ?1 AND id <> ?2",
                    params![name.map(AgentName::as_str), agent.0],
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(name) = of_another {
                return Ok(Claim::Taken(name));
            }

            let owned: i64 =
                tx.query_row("SELECT count(*) FROM hosts WHERE agent = ?1", [agent.0], |row| row.get(0))?;
            if owned >= HOSTS_PER_AGENT {
                return Ok(Claim::TooMany);
            }

            tx.execute("INSERT INTO hosts (host, agent) VALUES (?1, ?2)", params![host.as_str(), agent.0])?;
            tx.commit()?;
            Ok(Claim::Owned)
        })
    }

    /// All hosts that somebody owns.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn hosts(&self) -> Result<Vec<HostName>, StoreError> {
        self.with(|db| {
            let mut query = db.prepare("SELECT host FROM hosts")?;
            let rows = query.query_map([], |row| row.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })
        .map(|names| {
            names
                .iter()
                .filter_map(|name| HostName::parse(name))
                .collect()
        })
    }

    /// Keeps the ranges of a named set, one a line, and when they were read.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn keep_address_list(
        &self,
        name: &str,
        ranges: &str,
        read: UnixMillis,
    ) -> Result<(), StoreError> {
        self.with(|db| {
            db.execute(
                "INSERT OR REPLACE INTO address_lists VALUES (?1, ?2, ?3)",
                params![name, ranges, millis(read)],
            )
        })
        .map(drop)
    }

    /// The kept named sets: name, ranges, and when they were read.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn address_lists(&self) -> Result<Vec<(String, String, UnixMillis)>, StoreError> {
        self.with(|db| {
            let mut query = db.prepare("SELECT name, ranges, read_ms FROM address_lists")?;
            let rows = query.query_map([], |row| {
                let read: i64 = row.get(2)?;
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    UnixMillis(u64::try_from(read).unwrap_or_default()),
                ))
            })?;
            rows.collect()
        })
    }

    /// Notes the address under which agents reach this relay, for `agent add`.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn set_tunnel_address(&self, address: &str) -> Result<(), StoreError> {
        self.set_fact(TUNNEL_ADDRESS, address)
    }

    /// The address under which agents reach this relay; `None` before its first start.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn tunnel_address(&self) -> Result<Option<String>, StoreError> {
        self.fact(TUNNEL_ADDRESS)
    }

    /// Notes the relay's domain, for `agent add`.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn set_domain(&self, domain: &HostName) -> Result<(), StoreError> {
        self.set_fact(DOMAIN, domain.as_str())
    }

    fn domain(&self) -> Result<Option<HostName>, StoreError> {
        Ok(self.fact(DOMAIN)?.as_deref().and_then(HostName::parse))
    }

    fn set_fact(&self, name: &str, value: &str) -> Result<(), StoreError> {
        let set =
            "INSERT INTO facts VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        self.with(|db| db.execute(set, [name, value])).map(drop)
    }

    fn fact(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.with(|db| {
            db.query_row("SELECT value FROM facts WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
        })
    }
}

fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn agent(store: &Store, name: &str) -> Agent {
        let (secret, credential) = (Secret::mint().unwrap(), Secret::mint().unwrap());
        store
            .add_agent(&AgentName::parse(name).unwrap(), &secret, NOW)
            .unwrap();

        store
            .join(&secret, &credential.digest(), NOW)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn a_join_token_works_once_and_for_a_day() {
        let store = Store::in_memory().unwrap();
        assert!(store.is_new().unwrap());
        let name = AgentName::parse("a").unwrap();
        let (old, secret, credential) = (
            Secret::mint().unwrap(),
            Secret::mint().unwrap(),
            Secret::mint().unwrap(),
        );
        store.add_agent(&name, &old, NOW).unwrap();

        let late = UnixMillis(NOW.0 + JOIN_TOKEN_LIFE_MS);
        assert!(
            store
                .join(&old, &credential.digest(), late)
                .unwrap()
                .is_none(),
            "a day later"
        );
        store.add_agent(&name, &secret, NOW).unwrap();

        assert!(
            store
                .join(&old, &credential.digest(), NOW)
                .unwrap()
                .is_none(),
            "replaced"
        );

        assert!(
            store
                .join(&secret, &credential.digest(), NOW)
                .unwrap()
                .is_some()
        );

        assert!(
            store
                .join(&secret, &credential.digest(), NOW)
                .unwrap()
                .is_some(),
            "the same one again"
        );

        let another = Secret::mint().unwrap();
        assert!(
            store
                .join(&secret, &another.digest(), NOW)
                .unwrap()
                .is_none(),
            "used"
        );

        assert_eq!(
            store
                .authenticate(&credential.digest())
                .unwrap()
                .unwrap()
                .name,
            name
        );
        assert!(store.remove_agent(&name).unwrap());

        assert!(store.authenticate(&credential.digest()).unwrap().is_none());
    }

    #[test]
    fn a_host_belongs_to_who_opened_it_first() {
        let store = Store::in_memory().unwrap();
        let (a, b) = (agent(&store, "a"), agent(&store, "b"));
        let host = HostName::parse("x.example.com").unwrap();
        assert_eq!(store.claim_host(&host, None, a.id).unwrap(), Claim::Owned);
        assert_eq!(store.claim_host(&host, None, a.id).unwrap(), Claim::Owned);
        assert_eq!(
            store.claim_host(&host, None, b.id).unwrap(),
            Claim::Taken("a".to_owned())
        );

        assert!(store.remove_agent(&a.name).unwrap());
        assert_eq!(store.claim_host(&host, None, b.id).unwrap(), Claim::Owned);

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
            Claim::Taken("c".to_owned()),
            "it is reserved"
        );

        assert_eq!(
            store.claim_host(&of_c, Some(&own), c.id).unwrap(),
            Claim::Owned
        );
        assert_eq!(
            store.claim_host(&one_more, None, b.id).unwrap(),
            Claim::TooMany
        );
    }

    #[test]
    fn who_is_added_gets_the_host_of_his_name() {
        let store = Store::in_memory().unwrap();
        let domain = HostName::parse("example.com").unwrap();
        store.set_domain(&domain).unwrap();

        let (first, jira) = (agent(&store, "first"), AgentName::parse("jira").unwrap());
        let host = domain.child(&jira);
        assert_eq!(
            store.claim_host(&host, Some(&jira), first.id).unwrap(),
            Claim::Owned
        );

        let taken = store
            .add_agent(&jira, &Secret::mint().unwrap(), NOW)
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
            Claim::Taken("jira".to_owned())
        );
        assert_eq!(
            store
                .add_agent(&jira, &Secret::mint().unwrap(), NOW)
                .unwrap(),
            None,
            "it has it already"
        );
    }
}
