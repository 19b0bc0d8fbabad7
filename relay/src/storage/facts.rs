//! Named address sets as they were last fetched, and facts about the relay.

use hookward_core::clock::UnixMillis;
use hookward_core::names::HostName;
use rusqlite::{OptionalExtension as _, params};

use super::{StorageError, Store, millis};

impl Store {
    /// Stores the ranges of a named set, one a line, with the time at which they were fetched.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn keep_address_list(
        &self,
        name: &str,
        ranges: &str,
        read: UnixMillis,
    ) -> Result<(), StorageError> {
        let (name, ranges) = (name.to_owned(), ranges.to_owned());
        self.write(move |db| {
            db.execute(
                "INSERT OR REPLACE INTO address_lists VALUES (?1, ?2, ?3)",
                params![name, ranges, millis(read)],
            )
        })
        .map(drop)
    }

    /// Returns the stored named sets: name, ranges, and time at which they were fetched.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn address_lists(&self) -> Result<Vec<(String, String, UnixMillis)>, StorageError> {
        self.read(|db| {
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

    /// Commits a change that means nothing, to see if the file takes one.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub(crate) fn test_commit(&self, now: UnixMillis) -> Result<(), StorageError> {
        // SQLite would write nothing for a value that is there already.
        self.set_fact("test_commit", &now.to_rfc3339())
    }

    /// Returns the number of changes of agents, credentials and owners of hosts.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub(crate) fn agents_revision(&self) -> Result<u64, StorageError> {
        self.read(|db| {
            let select = "SELECT CAST(value AS INTEGER) FROM facts WHERE name = 'agents_revision'";
            let revision: Option<i64> = db
                .prepare_cached(select)?
                .query_row([], |row| row.get(0))
                .optional()?;
            Ok(revision.unwrap_or_default().unsigned_abs())
        })
    }

    /// Stores the address under which agents reach this relay, for `agent add`.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn set_tunnel_address(&self, address: &str) -> Result<(), StorageError> {
        self.set_fact(TUNNEL_ADDRESS, address)
    }

    /// Returns the address under which agents reach this relay, or `None` before its first start.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn tunnel_address(&self) -> Result<Option<String>, StorageError> {
        self.fact(TUNNEL_ADDRESS)
    }

    /// Stores the relay's domain, for `agent add`.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn set_domain(&self, domain: &HostName) -> Result<(), StorageError> {
        self.set_fact(DOMAIN, domain.as_str())
    }

    pub(crate) fn domain(&self) -> Result<Option<HostName>, StorageError> {
        Ok(self.fact(DOMAIN)?.as_deref().and_then(HostName::parse))
    }

    fn set_fact(&self, name: &str, value: &str) -> Result<(), StorageError> {
        let set =
            "INSERT INTO facts VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
        let (name, value) = (name.to_owned(), value.to_owned());
        self.write(move |db| db.execute(set, [&name, &value]))
            .map(drop)
    }

    fn fact(&self, name: &str) -> Result<Option<String>, StorageError> {
        let name = name.to_owned();
        self.read(move |db| {
            db.query_row("SELECT value FROM facts WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
        })
    }
}

/// Key of a fact in the table.
const TUNNEL_ADDRESS: &str = "tunnel_address";
const DOMAIN: &str = "domain";
