//! Reading of deliveries whose turn has come, and of their payloads.

use std::time::Duration;

use bytes::Bytes;
use hookward_core::clock::UnixMillis;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::{millis, time_of};
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{Due, DueDelivery, Payload};

/// Columns of [`read_head`].
pub(super) const HEAD_COLUMNS: &str =
    "seq, id, lane, attempts, received_ms, bytes, owner, redelivered";

pub(super) fn read_head(row: &Row<'_>) -> rusqlite::Result<DueDelivery> {
    Ok(DueDelivery {
        seq: row.get(0)?,
        id: Uuid::from_bytes(row.get(1)?),
        lane: row.get(2)?,
        attempts: row.get(3)?,
        received: time_of(row.get(4)?),
        bytes: row.get::<_, i64>(5)?.unsigned_abs(),
        owner: AgentId(row.get(6)?),
        redelivered: row.get(7)?,
    })
}

/// Prepares a file that an earlier process has left. Returns the number of the next delivery.
pub(super) fn recover(connection: &Connection, now: UnixMillis) -> rusqlite::Result<i64> {
    // A clock that was set back would leave them waiting.
    let latest = UnixMillis(now.0.saturating_add(LONGEST_WAIT_MS));
    let clamp = "UPDATE lanes SET due_ms = ?1 WHERE due_ms > ?1";
    connection.execute(clamp, [millis(latest)])?;

    let last = "SELECT coalesce(max(seq), 0) FROM deliveries";
    let last: i64 = connection.query_row(last, [], |row| row.get(0))?;
    Ok(last + 1)
}

/// Longest wait between two attempts, in milliseconds.
const LONGEST_WAIT_MS: u64 = 3600 * 1000;

/// Returns the deliveries whose turn has come.
pub(super) fn due(
    db: &Connection,
    tunnel: i64,
    now: UnixMillis,
    most: usize,
) -> rusqlite::Result<Due> {
    let lanes = "SELECT lane, due_ms FROM lanes WHERE tunnel = ?1 ORDER BY due_ms, lane LIMIT ?2";
    let mut lanes = db.prepare_cached(lanes)?;
    let unordered = format!("SELECT {HEAD_COLUMNS} FROM deliveries WHERE seq = ?1 AND state = 0");
    let mut unordered = db.prepare_cached(&unordered)?;
    let ordered = format!(
        "SELECT {HEAD_COLUMNS} FROM deliveries INDEXED BY deliveries_of_lane \
         WHERE tunnel = ?1 AND lane = ?2 AND state = 0 AND lane < 0 ORDER BY seq LIMIT 1"
    );
    let mut ordered = db.prepare_cached(&ordered)?;

    let mut found = Due::default();
    let one_more = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
    let mut rows = lanes.query(params![tunnel, one_more])?;
    while let Some(row) = rows.next()? {
        let (lane, due): (i64, i64) = (row.get(0)?, row.get(1)?);
        let due = time_of(due);
        if due.0 > now.0 {
            found.next_in = Some(Duration::from_millis(due.0 - now.0));
            break;
        }
        if found.heads.len() == most {
            found.has_more = true;
            break;
        }

        let head = match lane < 0 {
            true => ordered.query_row([tunnel, lane], read_head).optional()?,
            false => unordered.query_row([lane], read_head).optional()?,
        };
        found.heads.extend(head);
    }
    Ok(found)
}

/// Returns `true` if a lane has a pending delivery.
pub(super) fn is_waiting(db: &Connection, tunnel: i64, lane: i64) -> rusqlite::Result<bool> {
    let select = "SELECT 1 FROM lanes WHERE tunnel = ?1 AND lane = ?2";
    db.prepare_cached(select)?.exists([tunnel, lane])
}

/// Returns the payload of a delivery that is pending.
pub(super) fn pending_payload(db: &Connection, seq: i64) -> rusqlite::Result<Option<Payload>> {
    let select = "SELECT 1 FROM deliveries WHERE seq = ?1 AND state = 0";
    match db.prepare_cached(select)?.exists([seq])? {
        true => payload(db, seq),
        false => Ok(None),
    }
}

/// Returns the payload of a delivery.
pub(super) fn payload(db: &Connection, seq: i64) -> rusqlite::Result<Option<Payload>> {
    let select = "SELECT head, grant_json, body FROM payloads WHERE seq = ?1";
    let mut select = db.prepare_cached(select)?;
    let blob = |row: &Row<'_>, column: usize| {
        Ok::<_, rusqlite::Error>(Bytes::from(row.get::<_, Vec<u8>>(column)?))
    };
    let read = |row: &Row<'_>| {
        Ok(Payload {
            head: blob(row, 0)?,
            grant: blob(row, 1)?,
            body: blob(row, 2)?,
        })
    };
    select.query_row([seq], read).optional()
}
