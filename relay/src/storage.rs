//! The relay's persistent state, in SQLite.
//!
//! [`Store`] is the state file: agents with their scopes, credentials and join tokens ([`agents`]), the hosts that agents own
//! ([`hosts`]), address sets and facts about the relay ([`facts`]), and acts that wait for their audit
//! records ([`acts`]). It keeps only hashes of secrets.
//! [`deliveries`] keeps accepted webhooks and claims in a second file. Each file has one [`Writer`].

pub(crate) mod acts;
pub(crate) mod agents;
pub(crate) mod deliveries;
pub(crate) mod facts;
pub(crate) mod hosts;
mod jobs;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_observe::audit::Actor;
use hookward_runtime::sqlite::{self, Durability, Schema, SqliteError};
use rusqlite::{Connection, Transaction};

use self::jobs::{Job, StateJobs, job};
pub use hookward_runtime::sqlite::writer::CommitStats;
use hookward_runtime::sqlite::writer::{Writer, WriterOptions};

/// Failure of the relay's storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The state file failed.
    #[error("{source}{}", state_remedy(.source))]
    State {
        /// Cause of the failure.
        source: SqliteError,
    },
    /// The delivery file failed.
    #[error(transparent)]
    Deliveries(SqliteError),
    /// The system did not start the writer thread.
    #[error("the writer thread of {path} did not start: {source}")]
    Thread {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file did not respond in time.
    #[error(
        "{path} did not respond within {} s: check the disk, and other processes that use the file",
        REPLY_TIMEOUT.as_secs()
    )]
    Timeout {
        /// The file.
        path: PathBuf,
    },
    /// As many queries run as may.
    #[error("too many queries of stored deliveries are running: try again")]
    Busy,
    /// The writer has ended.
    #[error("the writer of the file has ended: the program is stopping, or the log has the cause")]
    Stopping,
}

impl StorageError {
    pub(crate) const fn state(source: SqliteError) -> Self {
        Self::State { source }
    }

    /// Returns `true` if the file is truncated, overwritten or not a database.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::State { source } | Self::Deliveries(source) if source.is_damage())
    }
}

fn state_remedy(error: &SqliteError) -> &'static str {
    match error.is_damage() {
        true => {
            "; the file is damaged: restore it from a backup, or start once with --reset, which \
             sets it aside and makes an empty one (every agent must join again)"
        }
        false => "",
    }
}

/// The state file; clones share it.
///
/// Calls block for a disk access; async code uses [`Store::run`]. `hookward-relay agent` opens the
/// same file beside a running relay.
#[derive(Clone)]
pub struct Store {
    writer: Arc<Writer<Job>>,
    path: Arc<Path>,
    /// Actor of the changes through this value.
    actor: Actor,
}

impl Store {
    /// Opens the file, and creates it if there is none.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        Self::checked(sqlite::open(path, &STATE_SCHEMA), path)
    }

    /// Opens a store that ends with the program.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn in_memory() -> Result<Self, StorageError> {
        let connection = sqlite::open_in_memory(&STATE_SCHEMA);
        Self::checked(connection, Path::new("(in memory)"))
    }

    fn checked(
        connection: Result<Connection, SqliteError>,
        path: &Path,
    ) -> Result<Self, StorageError> {
        let connection = connection.map_err(StorageError::state)?;
        let failed = |source| StorageError::state(sqlite::failed(path)(source));

        // Checks all pages at startup, so that a lost page does not surface later.
        sqlite::check(&connection).map_err(failed)?;

        let options = WriterOptions {
            name: "state",
            path: path.to_owned(),
            batch: BATCH_JOBS,
            batch_bytes: usize::MAX,
            idle: None,
            pause: Duration::ZERO,
            flush_on_demand: false,
        };
        Ok(Self {
            writer: Arc::new(
                Writer::start(connection, StateJobs(path.to_owned()), options)
                    .map_err(StorageError::state)?,
            ),
            path: path.into(),
            actor: Actor::program(),
        })
    }

    /// Returns the same store for changes by another actor.
    #[must_use]
    pub fn acting_as(&self, actor: Actor) -> Self {
        Self {
            actor,
            ..self.clone()
        }
    }

    /// Runs `work` on a thread that may block.
    ///
    /// # Errors
    /// Those of `work`, and [`StorageError::Stopping`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store))
            .await
            .map_err(|_| StorageError::Stopping)?
    }

    /// Returns the measurements of the file's commits.
    #[must_use]
    pub fn commits(&self) -> CommitStats {
        self.writer.queue().stats()
    }

    fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.call(false, work)
    }

    /// Executes `work`, whose changes are on disk when this returns. An error undoes them.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        self.call(true, work)
    }

    fn call<T: Send + 'static>(
        &self,
        writes: bool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (job, result) = job(writes, work);
        self.writer.queue().push(job);
        match result.receiver.recv_timeout(REPLY_TIMEOUT) {
            Ok(result) => {
                result.map_err(|error| StorageError::state(sqlite::failed(&self.path)(error)))
            }
            Err(RecvTimeoutError::Disconnected) => Err(StorageError::Stopping),
            Err(RecvTimeoutError::Timeout) => Err(StorageError::Timeout {
                path: self.path.to_path_buf(),
            }),
        }
    }
}

/// Maximum number of jobs in one transaction.
const BATCH_JOBS: usize = 256;

/// Maximum wait for a job: SQLite itself waits up to 10 s for another process.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// State file in the data directory.
pub(crate) const STATE_FILE: &str = "relay.db";

/// Schema of the state file.
const STATE_SCHEMA: Schema = Schema {
    durability: Durability::Full,
    incremental_vacuum: false,
    migrations: &[
        create_state,
        add_used_by,
        add_acts,
        add_seen,
        add_credentials,
    ],
};

/// Counts a change of agents, credentials or owners of hosts in its transaction, so that sessions
/// review what they may do.
fn note_agents_changed(db: &Connection) -> rusqlite::Result<()> {
    let count = "INSERT INTO facts VALUES ('agents_revision', '1') ON CONFLICT (name)
                 DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)";
    db.execute(count, [])?;
    Ok(())
}

/// Returns a time as SQLite stores it.
fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

fn create_state(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "
        CREATE TABLE IF NOT EXISTS agents (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            credential_digest BLOB UNIQUE            -- unused since the table of credentials
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
    ",
    )
}

/// Adds a column that files of version 0.1.0 lack.
fn add_used_by(db: &Transaction<'_>) -> rusqlite::Result<()> {
    let is_there = "SELECT count(*) FROM pragma_table_info('join_tokens') WHERE name = 'used_by'";
    let is_there: i64 = db.query_row(is_there, [], |row| row.get(0))?;
    if is_there == 0 {
        db.execute_batch("ALTER TABLE join_tokens ADD COLUMN used_by BLOB")?;
    }
    Ok(())
}

fn add_seen(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "
        ALTER TABLE agents ADD COLUMN seen_ms INTEGER;
        ALTER TABLE agents ADD COLUMN seen_address TEXT;
        ALTER TABLE agents ADD COLUMN seen_version TEXT;
    ",
    )
}

/// Lets an agent have several credentials, each with an end, and limits what it may open.
fn add_credentials(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "
        CREATE TABLE credentials (
            digest BLOB PRIMARY KEY,                 -- SHA-256
            agent INTEGER NOT NULL REFERENCES agents(id) ON DELETE CASCADE,
            renew_ms INTEGER,                        -- from when on the agent renews it; null: never
            expires_ms INTEGER                       -- null: never
        ) STRICT;
        CREATE INDEX credentials_of_agent ON credentials (agent);
        INSERT INTO credentials (digest, agent)
            SELECT credential_digest, id FROM agents WHERE credential_digest IS NOT NULL;
        UPDATE agents SET credential_digest = NULL;
        ALTER TABLE agents ADD COLUMN scope TEXT NOT NULL DEFAULT '{}'; -- JSON of AgentScope
    ",
    )
}

fn add_acts(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "
        CREATE TABLE acts (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            time_ms INTEGER NOT NULL,
            event TEXT NOT NULL,                     -- of the audit record
            agent TEXT NOT NULL,
            actor TEXT NOT NULL,
            details TEXT
        ) STRICT;
    ",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const INSERT: &str = "INSERT INTO facts VALUES (?1, ?2)";

    fn facts(store: &Store) -> i64 {
        let count = "SELECT count(*) FROM facts";
        store
            .read(|db| db.query_row(count, [], |row| row.get(0)))
            .unwrap()
    }

    /// Waiting jobs share one commit, so that each waits for one write to the disk.
    #[test]
    fn jobs_that_wait_are_committed_together() {
        let store = Store::in_memory().unwrap();
        let (entered, wait_for_entry) = channel();
        let (release, wait_for_release) = channel::<()>();
        let blocked = store.clone();
        let first = std::thread::spawn(move || {
            blocked.write(move |_| {
                entered.send(()).unwrap();
                wait_for_release.recv().unwrap();
                Ok(())
            })
        });
        wait_for_entry.recv().unwrap();
        let before = store.commits();

        let (jobs, results): (Vec<_>, Vec<_>) = (0..100)
            .map(|n| {
                job(true, move |db| {
                    db.execute(INSERT, [n.to_string(), n.to_string()])
                })
            })
            .unzip();
        jobs.into_iter()
            .for_each(|job| store.writer.queue().push(job));
        release.send(()).unwrap();
        first.join().unwrap().unwrap();
        results
            .iter()
            .for_each(|result| assert_eq!(result.receiver.recv().unwrap(), Ok(1)));

        let after = store.commits();
        assert_eq!(after.commits - before.commits, 2);
        assert_eq!(after.requests - before.requests, 101);
        assert!(after.longest <= after.total && after.failures == 0);
        assert_eq!(facts(&store), 100);
    }

    #[test]
    fn a_job_that_fails_undoes_its_own_changes_only() {
        let store = Store::in_memory().unwrap();
        let failed = store.write(|db| {
            db.execute(INSERT, ["a", "1"])?;
            db.execute(INSERT, ["a", "2"])
        });
        assert!(matches!(failed, Err(StorageError::State { .. })));
        assert_eq!(facts(&store), 0);

        store.write(|db| db.execute(INSERT, ["a", "3"])).unwrap();
        assert_eq!(facts(&store), 1);
    }

    /// A full disk: the error names the file, and the writer works again once there is room.
    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join(STATE_FILE);
        let store = Store::open(&path).unwrap();
        let limit = |pages: u32| {
            let set = format!("PRAGMA max_page_count = {pages}");
            store
                .read(move |db| db.query_row(&set, [], |row| row.get::<_, i64>(0)))
                .unwrap()
        };

        let used = u32::try_from(limit(1)).unwrap();
        limit(used);
        let value = "x".repeat(1 << 20);
        let again = value.clone();
        let full = store
            .write(move |db| db.execute(INSERT, ["a", &value]))
            .unwrap_err();
        assert!(full.to_string().contains("relay.db"), "{full}");
        assert!(full.to_string().contains("full"), "{full}");

        limit(used + 10_000);
        store
            .write(move |db| db.execute(INSERT, ["a", &again]))
            .unwrap();
    }

    #[test]
    fn a_job_that_panics_fails_alone() {
        let store = Store::in_memory().unwrap();
        let failed: Result<(), _> = store.write(|db| {
            db.execute(INSERT, ["a", "1"])?;
            panic!("a bug")
        });
        assert!(failed.is_err());
        assert_eq!(facts(&store), 0);
        store.write(|db| db.execute(INSERT, ["a", "2"])).unwrap();
    }

    /// The caller has reported a failure by then.
    #[test]
    fn a_job_whose_caller_has_given_up_is_not_executed() {
        let store = Store::in_memory().unwrap();
        let (abandoned, result) = job(true, |db| db.execute(INSERT, ["a", "1"]));
        drop(result);
        store.writer.queue().push(abandoned);
        assert_eq!(facts(&store), 0);
    }
}
