//! Schema of the deduplication file.

use super::Counts;
use super::claims::counts;
use hookward_runtime::sqlite::{self, Durability, Schema, SqliteError};
use rusqlite::{Connection, Transaction};
use std::path::Path;

/// Opens the file, and counts the rows of each tunnel.
pub(super) fn prepare(path: &Path) -> Result<(Connection, Counts), SqliteError> {
    let connection = sqlite::open(path, &SCHEMA)?;
    let counted = (|| {
        // Both statements read every row, and so detect damage.
        connection.execute("DELETE FROM claims WHERE holder != 0", [])?;
        counts(&connection)
    })();

    match counted {
        Ok(counts) => Ok((connection, counts)),
        Err(source) => Err(sqlite::failed(path)(source)),
    }
}

/// Schema of the deduplication file. Power loss may undo the last commits; the relay then forwards
/// a repeated delivery once more.
pub(super) const SCHEMA: Schema = Schema {
    durability: Durability::Process,
    migrations: &[create],
};

/// Creates the table, and drops that of version 0.1.0, whose rows name no tunnel.
pub(super) fn create(db: &Transaction<'_>) -> rusqlite::Result<()> {
    let is_there =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'deliveries'";
    if db.query_row(is_there, [], |row| row.get::<_, i64>(0))? > 0 {
        db.execute_batch("DROP TABLE deliveries")?;
        tracing::warn!(
            "deliveries recorded by an earlier version were discarded: duplicates of them are accepted once more"
        );
    }

    db.execute_batch(
        "
        CREATE TABLE IF NOT EXISTS claims (
            key BLOB PRIMARY KEY,                -- SHA-256 of host, route and delivery key
            tunnel TEXT NOT NULL,                -- its public host
            until_ms INTEGER NOT NULL,
            holder INTEGER NOT NULL              -- who claimed it; 0 once it was answered 2xx
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX IF NOT EXISTS claims_by_end ON claims (until_ms);
        ",
    )
}
