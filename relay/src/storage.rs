//! The relay's persistent state, in SQLite.
//!
//! [`Store`] is the state file: agents and join tokens ([`agents`]), the hosts that agents own
//! ([`hosts`]), address sets and facts about the relay ([`facts`]). It keeps only hashes of secrets.
//! [`dedup`] keeps accepted deliveries in a second file.

pub(crate) mod agents;
pub(crate) mod dedup;
pub(crate) mod facts;
pub(crate) mod hosts;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use hookward_runtime::sqlite::{self, Durability, Schema, SqliteError};
use rusqlite::{Connection, Transaction};

/// Failure of the relay's storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The state file failed.
    #[error("{source}{}", state_remedy(.source))]
    State {
        /// Cause of the failure.
        source: SqliteError,
    },
    /// The deduplication file failed.
    #[error(transparent)]
    Dedup(SqliteError),
    /// The system did not start the writer thread.
    #[error("the writer thread of the deduplication file did not start: {0}")]
    Thread(io::Error),
    /// The program is stopping.
    #[error("the program is stopping")]
    Stopping,
}

impl StorageError {
    pub(crate) const fn state(source: SqliteError) -> Self {
        Self::State { source }
    }

    /// Returns `true` if the file is truncated, overwritten or not a database.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::State { source } | Self::Dedup(source) if source.is_damage())
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
    // A std mutex: SQLite calls never await.
    connection: Arc<Mutex<Connection>>,
    path: Arc<Path>,
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
        let found: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(failed)?;
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

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StorageError> {
        // A panic elsewhere leaves the connection usable: an open transaction is rolled back.
        let mut connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);

        work(&mut connection)
            .map_err(|source| StorageError::state(sqlite::failed(&self.path)(source)))
    }
}

/// State file in the data directory.
pub(crate) const STATE_FILE: &str = "relay.db";

/// Schema of the state file.
const STATE_SCHEMA: Schema = Schema {
    durability: Durability::Full,
    migrations: &[create_state, add_used_by],
};

fn create_state(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "
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
