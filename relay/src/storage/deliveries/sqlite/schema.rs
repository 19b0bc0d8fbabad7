//! Schema of the delivery file.

use std::path::Path;

use hookward_runtime::sqlite::{self, Durability, Schema, SqliteError};
use rusqlite::{Connection, Transaction};

use super::claims;
use super::usage::{self, Usage};

/// Opens the file, voids the claims of an ended process, and counts what the file holds.
pub(super) fn prepare(path: &Path) -> Result<(Connection, claims::Counts, Usage), SqliteError> {
    let connection = sqlite::open(path, &SCHEMA)?;
    let counted = (|| {
        set_pragmas(&connection)?;
        // Both statements read every row, and so detect damage.
        connection.execute("DELETE FROM claims WHERE holder != 0", [])?;
        let claims = claims::counts(&connection)?;
        Ok((claims, usage::read(&connection)?))
    })();

    match counted {
        Ok((claims, usage)) => Ok((connection, claims, usage)),
        Err(source) => Err(sqlite::failed(path)(source)),
    }
}

/// Sets what a connection to the file needs beyond the defaults of [`sqlite::open`].
pub(super) fn set_pragmas(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // The last connection would copy the log into the file when it closes. After a failed flush,
    // the log on the disk may have a hole, and a power loss meanwhile would damage the file.
    use rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(())
}

/// Size of the write-ahead log, in pages, at which it is copied into the file (measured: the best
/// of 1,000 to 16,384 pages).
const CHECKPOINT_PAGES: i64 = 4000;

/// Size to which the write-ahead log shrinks after a burst, in bytes.
const LOG_BYTES: i64 = 64 * 1024 * 1024;

/// Size of the page cache, in KiB.
const CACHE_KIB: i64 = 16 * 1024;

/// Schema of the delivery file. The writer flushes commits that accept a webhook. Power loss may
/// undo later claims, and the relay then forwards a repeated delivery once more.
pub(super) const SCHEMA: Schema = Schema {
    durability: Durability::Process,
    incremental_vacuum: true,
    migrations: &[create_claims, create_deliveries, add_owner],
};

/// Creates the table of claims, and drops that of version 0.1.0, whose rows name no tunnel.
fn create_claims(db: &Transaction<'_>) -> rusqlite::Result<()> {
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

fn create_deliveries(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "
        CREATE TABLE tunnels (
            id INTEGER PRIMARY KEY,
            host TEXT NOT NULL UNIQUE,
            pending INTEGER NOT NULL DEFAULT 0,  -- number of deliveries, kept by each change
            dead INTEGER NOT NULL DEFAULT 0,
            bytes INTEGER NOT NULL DEFAULT 0,    -- of all payloads
            epoch INTEGER NOT NULL DEFAULT 0,    -- grows with each owner
            paused INTEGER NOT NULL DEFAULT 0
        ) STRICT;

        CREATE TABLE payloads (                  -- never updated
            seq INTEGER PRIMARY KEY,
            head BLOB NOT NULL,                  -- as the tunnel carries it
            permit BLOB NOT NULL,                -- grant of the gate, in JSON
            body BLOB NOT NULL
        ) STRICT;

        CREATE TABLE deliveries (
            seq INTEGER PRIMARY KEY,
            id BLOB NOT NULL UNIQUE,             -- UUID, version 7
            tunnel INTEGER NOT NULL REFERENCES tunnels(id),
            owner INTEGER NOT NULL,              -- agent in relay.db
            lane INTEGER NOT NULL,               -- seq, or the negative hash of its ordering key
            route TEXT NOT NULL,
            provider TEXT,
            event TEXT,
            state INTEGER NOT NULL,              -- 0 pending, 1 delivered, 2 dead letter, 3 dropped
            attempts INTEGER NOT NULL,
            redelivered INTEGER NOT NULL DEFAULT 0,
            last_status INTEGER,
            last_error TEXT,
            received_ms INTEGER NOT NULL,
            ended_ms INTEGER,
            bytes INTEGER NOT NULL               -- of the payload
        ) STRICT;
        CREATE INDEX deliveries_of_lane ON deliveries (tunnel, lane, seq) WHERE state = 0 AND lane < 0;
        CREATE INDEX deliveries_of_tunnel ON deliveries (tunnel, state, seq);
        CREATE INDEX deliveries_by_age ON deliveries (received_ms) WHERE state = 0;
        CREATE INDEX deliveries_by_end ON deliveries (state, ended_ms) WHERE state <> 0;

        CREATE TABLE responses (                 -- the last one of a dead letter
            seq INTEGER PRIMARY KEY,
            head TEXT NOT NULL,
            body BLOB NOT NULL
        ) STRICT;

        CREATE TABLE lanes (                     -- one row for each key with a pending delivery
            tunnel INTEGER NOT NULL,
            lane INTEGER NOT NULL,
            due_ms INTEGER NOT NULL,
            PRIMARY KEY (tunnel, lane)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX lanes_by_time ON lanes (tunnel, due_ms);
        ",
    )
}

/// Adds the agent that a tunnel's webhooks count for, and names the grant as the code does.
fn add_owner(db: &Transaction<'_>) -> rusqlite::Result<()> {
    db.execute_batch(
        "
        ALTER TABLE tunnels ADD COLUMN owner INTEGER NOT NULL DEFAULT 0; -- agent of the latest webhook
        UPDATE tunnels SET owner = coalesce(
            (SELECT owner FROM deliveries WHERE tunnel = tunnels.id ORDER BY seq DESC LIMIT 1), 0);
        ALTER TABLE payloads RENAME COLUMN permit TO grant_json;
        ",
    )
}
