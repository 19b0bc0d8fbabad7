//! The end of an attempt, and the removal of what has ended.

use std::time::Duration;

use hookward_core::clock::UnixMillis;
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::heads::{self, HEAD_COLUMNS};
use super::millis;
use super::usage::HeldChange;
use super::work::{BatchChanges, SettleRequest};
use crate::storage::deliveries::{DueDelivery, LastResponse, Outcome, StoreLimits};

/// State of a delivery that waits.
pub(super) const PENDING: i64 = 0;
/// State of a delivery that the application has accepted.
pub(super) const DELIVERED: i64 = 1;
/// State of a delivery that was given up.
pub(super) const DEAD: i64 = 2;

/// State of a delivery whose payload was deleted by hand.
pub(super) const DROPPED: i64 = 3;

/// Counts attempts that begin.
pub(super) fn begin(db: &Transaction<'_>, seq: i64, count: u32) -> rusqlite::Result<()> {
    let update = "UPDATE deliveries SET attempts = attempts + ?2 WHERE seq = ?1 AND state = 0";
    db.prepare_cached(update)?.execute(params![seq, count])?;
    Ok(())
}

/// Circumstances of the end of an attempt.
pub(super) struct Settling {
    /// Number of the tunnel.
    pub tunnel: i64,
    /// Number of attempts that the same batch has begun.
    pub begun: u32,
    /// `true` if the history holds no rows as old as this delivery any more.
    pub is_history_swept: bool,
    /// Number of bytes that the tunnel may still hold, for the response of a dead letter.
    pub room: u64,
    pub now: UnixMillis,
}

/// Records the end of an attempt. Returns the next delivery of the lane.
pub(super) fn settle(
    db: &Transaction<'_>,
    request: &SettleRequest,
    settling: Settling,
    limits: &StoreLimits,
    held: &mut HeldChange,
) -> rusqlite::Result<Option<DueDelivery>> {
    let DueDelivery { seq, lane, .. } = request.head;
    let Settling {
        tunnel, begun, now, ..
    } = settling;
    let end = match &request.outcome {
        Outcome::Retry {
            after,
            status,
            error,
        } => {
            let update = "UPDATE deliveries SET last_status = ?2, last_error = ?3, attempts = attempts + ?4 \
                          WHERE seq = ?1 AND state = 0";
            db.prepare_cached(update)?
                .execute(params![seq, status, error, begun])?;
            // Otherwise the time is that of an older delivery of the lane.
            if is_first(db, tunnel, lane, seq)? {
                let due = "UPDATE lanes SET due_ms = ?3 WHERE tunnel = ?1 AND lane = ?2";
                let at = millis(after_now(now, *after));
                db.prepare_cached(due)?.execute(params![tunnel, lane, at])?;
            }
            return Ok(None);
        }
        Outcome::Delivered { status } => (DELIVERED, Some(*status), None),
        Outcome::Dead { status, reason, .. } => (DEAD, *status, Some(reason)),
    };

    let (state, status, error) = end;
    let is_first = is_first(db, tunnel, lane, seq)?;
    let update = "UPDATE deliveries SET state = ?2, last_status = ?3, last_error = ?4, ended_ms = ?5, \
                  attempts = attempts + ?6 WHERE seq = ?1 AND state = 0";
    let ended = db.prepare_cached(update)?.execute(params![
        seq,
        state,
        status,
        error,
        millis(now),
        begun
    ])?;
    // A delivery that has ended before has left its lane.
    if ended == 0 {
        return Ok(None);
    }
    held.pending -= 1;
    match &request.outcome {
        Outcome::Delivered { .. } if limits.keep_done.is_zero() => {
            remove_payload(db, seq)?;
            held.bytes -= i64::try_from(request.head.bytes).unwrap_or(i64::MAX);
            if settling.is_history_swept {
                remove_row(db, seq)?;
            }
        }
        Outcome::Dead { response, .. } => {
            held.dead += 1;
            // The payload is worth more than the response.
            let response = response.as_ref();
            if let Some(response) = response.filter(|kept| kept.bytes() <= settling.room) {
                held.bytes += keep_response(db, seq, response)?;
            }
        }
        _ => {}
    }

    match is_first {
        true => advance(db, tunnel, lane, now),
        // An attempt that a fallback began while an older delivery of its lane waited.
        false => Ok(None),
    }
}

/// Keeps the last response of a dead letter, whose size then counts. Returns it in bytes.
fn keep_response(db: &Transaction<'_>, seq: i64, response: &LastResponse) -> rusqlite::Result<i64> {
    let insert = "INSERT OR REPLACE INTO responses VALUES (?1, ?2, ?3)";
    db.prepare_cached(insert)?
        .execute(params![seq, response.head, &*response.body])?;
    let bytes = i64::try_from(response.bytes()).unwrap_or(i64::MAX);
    let count = "UPDATE deliveries SET bytes = bytes + ?2 WHERE seq = ?1";
    db.prepare_cached(count)?.execute(params![seq, bytes])?;
    Ok(bytes)
}

/// Removes the last response of a delivery, if it has one. Returns its size in bytes.
pub(super) fn remove_response(db: &Transaction<'_>, seq: i64) -> rusqlite::Result<i64> {
    let size = "SELECT length(CAST(head AS BLOB)) + length(body) FROM responses WHERE seq = ?1";
    let size = db
        .prepare_cached(size)?
        .query_row([seq], |row| row.get::<_, i64>(0))
        .optional()?;
    let Some(size) = size else {
        return Ok(0);
    };
    db.prepare_cached("DELETE FROM responses WHERE seq = ?1")?
        .execute([seq])?;
    let count = "UPDATE deliveries SET bytes = bytes - ?2 WHERE seq = ?1";
    db.prepare_cached(count)?.execute([seq, size])?;
    Ok(size)
}

pub(super) fn remove_row(db: &Transaction<'_>, seq: i64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM deliveries WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

/// Returns `true` if no older delivery of the lane is pending.
fn is_first(db: &Transaction<'_>, tunnel: i64, lane: i64, seq: i64) -> rusqlite::Result<bool> {
    if lane > 0 {
        return Ok(true);
    }
    let older = "SELECT 1 FROM deliveries INDEXED BY deliveries_of_lane \
                 WHERE tunnel = ?1 AND lane = ?2 AND state = 0 AND lane < 0 AND seq < ?3 LIMIT 1";
    Ok(!db.prepare_cached(older)?.exists([tunnel, lane, seq])?)
}

pub(super) fn after_now(now: UnixMillis, after: Duration) -> UnixMillis {
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    UnixMillis(now.0.saturating_add(after))
}

/// Makes the next delivery of a lane due, or removes an empty lane.
pub(super) fn advance(
    db: &Transaction<'_>,
    tunnel: i64,
    lane: i64,
    now: UnixMillis,
) -> rusqlite::Result<Option<DueDelivery>> {
    let next = match lane < 0 {
        true => {
            let select = format!(
                "SELECT {HEAD_COLUMNS} FROM deliveries INDEXED BY deliveries_of_lane \
                 WHERE tunnel = ?1 AND lane = ?2 AND state = 0 AND lane < 0 ORDER BY seq LIMIT 1"
            );
            let mut select = db.prepare_cached(&select)?;
            select
                .query_row([tunnel, lane], heads::read_head)
                .optional()?
        }
        false => None,
    };

    let change = match next {
        Some(_) => "UPDATE lanes SET due_ms = ?3 WHERE tunnel = ?1 AND lane = ?2",
        None => "DELETE FROM lanes WHERE tunnel = ?1 AND lane = ?2 AND ?3 >= 0",
    };
    db.prepare_cached(change)?
        .execute(params![tunnel, lane, millis(now)])?;
    Ok(next)
}

/// Makes some lanes due whose last attempt got no response.
pub(super) fn wake(db: &Transaction<'_>, tunnel: i64, now: UnixMillis) -> rusqlite::Result<()> {
    let update = "UPDATE lanes SET due_ms = ?2 WHERE tunnel = ?1 AND lane IN (
        SELECT l.lane FROM (
            SELECT lane FROM lanes WHERE tunnel = ?1 AND due_ms > ?2 ORDER BY due_ms LIMIT ?3) l
        JOIN deliveries d ON d.seq = CASE WHEN l.lane > 0 THEN l.lane ELSE (
            SELECT min(seq) FROM deliveries INDEXED BY deliveries_of_lane
            WHERE tunnel = ?1 AND lane = l.lane AND state = 0 AND lane < 0) END
        WHERE d.last_status IS NULL)";
    db.prepare_cached(update)?
        .execute(params![tunnel, millis(now), WOKEN_LANES])?;
    Ok(())
}

/// Number of waiting lanes that the return of an application may make due: those that are due first.
const WOKEN_LANES: i64 = 2000;

pub(super) fn remove_payload(db: &Transaction<'_>, seq: i64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM payloads WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

/// Ends what is too old, and removes some payloads and rows whose time is over. Payloads of webhooks
/// that were delivered before `done_swept` are removed already. Returns the new value of it, and
/// the number of rows.
pub(super) fn sweep(
    db: &Transaction<'_>,
    limits: &StoreLimits,
    changes: &mut BatchChanges,
    now: UnixMillis,
    mut done_swept: i64,
) -> rusqlite::Result<(i64, usize)> {
    let before = |keep: Duration| {
        let keep = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        millis(UnixMillis(now.0.saturating_sub(keep)))
    };

    let mut count = 0;
    for row in pending_before(db, before(limits.max_age))? {
        count += 1;
        let reason = format!("older than {} s (max_age)", limits.max_age.as_secs());
        let update = "UPDATE deliveries SET state = 2, ended_ms = ?2, \
                      last_error = coalesce(last_error || '; ', '') || ?3 WHERE seq = ?1";
        db.prepare_cached(update)?
            .execute(params![row.seq, millis(now), reason])?;
        advance(db, row.tunnel, row.lane, now)?;
        let held = changes.held.entry(row.host.into()).or_default();
        (held.pending, held.dead) = (held.pending - 1, held.dead + 1);
    }

    if !limits.keep_done.is_zero() {
        let until = before(limits.keep_done);
        let kept = ended_between(db, DELIVERED, done_swept, until, "JOIN")?;
        done_swept = match kept.last() {
            Some(last) if kept.len() as i64 == SWEEP_ROWS => last.ended,
            _ => done_swept.max(until),
        };
        for row in kept {
            count += 1;
            remove_payload(db, row.seq)?;
            changes.held.entry(row.host.into()).or_default().bytes -= row.bytes;
        }
    }

    for (state, keep) in [
        (DELIVERED, limits.keep_history),
        (DROPPED, limits.keep_history),
        (DEAD, limits.keep_dead),
    ] {
        for row in ended_between(db, state, 0, before(keep), "LEFT JOIN")? {
            count += 1;
            remove(db, row, state, changes)?;
        }
    }
    Ok((done_swept, count))
}

/// Removes some rows of delivered and dropped webhooks beyond a number, so that the list of a busy
/// relay does not fill the disk. Reads each row once, from `swept` on. Returns the number to go on
/// from. A row whose payload is kept stays for `keep_history`.
pub(super) fn sweep_history(
    db: &Transaction<'_>,
    next_seq: i64,
    swept: i64,
) -> rusqlite::Result<i64> {
    let oldest = next_seq.saturating_sub(HISTORY_ROWS);
    if swept >= oldest {
        return Ok(swept);
    }

    let last = "SELECT max(seq) FROM \
        (SELECT seq FROM deliveries WHERE seq >= ?1 AND seq < ?2 ORDER BY seq LIMIT ?3)";
    let last: Option<i64> = db
        .prepare_cached(last)?
        .query_row([swept, oldest, HISTORY_SWEEP_ROWS], |row| row.get(0))?;
    let until = last.map_or(oldest, |last| last + 1);
    let remove = "DELETE FROM deliveries WHERE seq >= ?1 AND seq < ?2 AND state IN (1, 3) \
        AND NOT EXISTS (SELECT 1 FROM payloads p WHERE p.seq = deliveries.seq)";
    db.prepare_cached(remove)?.execute([swept, until])?;
    Ok(until)
}

/// Number of the latest webhooks whose rows stay in the list, some 200 bytes each.
const HISTORY_ROWS: i64 = 1_000_000;

/// Maximum number of rows that one commit looks at: more than it adds.
const HISTORY_SWEEP_ROWS: i64 = 2048;

/// Row that has ended, or that is too old.
struct OldRow {
    seq: i64,
    tunnel: i64,
    lane: i64,
    host: String,
    bytes: i64,
    has_payload: bool,
    /// Time of the end, in milliseconds; 0 for one that is pending.
    ended: i64,
}

fn read_old(row: &Row<'_>) -> rusqlite::Result<OldRow> {
    Ok(OldRow {
        seq: row.get(0)?,
        tunnel: row.get(1)?,
        lane: row.get(2)?,
        host: row.get(3)?,
        bytes: row.get(4)?,
        has_payload: row.get(5)?,
        ended: row.get::<_, Option<i64>>(6)?.unwrap_or_default(),
    })
}

/// Returns some pending deliveries that were received before this time.
fn pending_before(db: &Transaction<'_>, before: i64) -> rusqlite::Result<Vec<OldRow>> {
    let select = "SELECT d.seq, d.tunnel, d.lane, t.host, d.bytes, 1, 0 FROM deliveries d \
         JOIN tunnels t ON t.id = d.tunnel \
         WHERE d.state = 0 AND d.received_ms <= ?1 ORDER BY d.received_ms LIMIT ?2";
    let mut select = db.prepare_cached(select)?;
    select
        .query_map([before, SWEEP_ROWS], read_old)?
        .collect::<rusqlite::Result<_>>()
}

/// Returns some deliveries that ended in this state between two times; with `JOIN` those whose
/// payload is kept.
fn ended_between(
    db: &Transaction<'_>,
    state: i64,
    from: i64,
    until: i64,
    join: &str,
) -> rusqlite::Result<Vec<OldRow>> {
    let mut select = db.prepare_cached(&ended_query(state, join))?;
    select
        .query_map([until, SWEEP_ROWS, from], read_old)?
        .collect::<rusqlite::Result<_>>()
}

/// Returns the query of [`ended_between`]. The state is no parameter, because SQLite uses an index
/// with a condition only for statements that contain it (sqlite.org/partialindex.html).
fn ended_query(state: i64, join: &str) -> String {
    format!(
        "SELECT d.seq, d.tunnel, d.lane, t.host, d.bytes, p.seq IS NOT NULL, d.ended_ms \
         FROM deliveries d JOIN tunnels t ON t.id = d.tunnel {join} payloads p ON p.seq = d.seq \
         WHERE d.state = {state} AND d.state <> 0 AND d.ended_ms <= ?1 AND d.ended_ms >= ?3 \
         ORDER BY d.ended_ms LIMIT ?2"
    )
}

/// Removes all that is stored of a delivery that has ended.
fn remove(
    db: &Transaction<'_>,
    row: OldRow,
    state: i64,
    changes: &mut BatchChanges,
) -> rusqlite::Result<()> {
    let held = changes.held.entry(row.host.into()).or_default();
    if row.has_payload {
        remove_payload(db, row.seq)?;
        held.bytes -= row.bytes;
    }
    if state == DEAD {
        held.dead -= 1;
        // Its size is part of the row's.
        remove_response(db, row.seq)?;
    }
    remove_row(db, row.seq)
}

/// Maximum number of rows of one kind that one commit ends or removes.
const SWEEP_ROWS: i64 = 200;

#[cfg(test)]
mod tests {
    use super::super::schema::SCHEMA;
    use super::*;
    use hookward_runtime::sqlite;

    #[test]
    fn a_long_history_loses_its_oldest_delivered_rows() {
        let dir = tempfile::tempdir().unwrap();
        let mut db = sqlite::open(&dir.path().join("deliveries.db"), &SCHEMA).unwrap();
        let db = db.transaction().unwrap();
        db.execute("INSERT INTO tunnels (host) VALUES ('a')", [])
            .unwrap();
        for seq in 1..=4000 {
            let insert = "INSERT INTO deliveries (seq, id, tunnel, owner, lane, route, state, attempts, received_ms, bytes) \
                          VALUES (?1, CAST(?1 AS BLOB), 1, 1, ?1, '', ?2, 1, 0, 0)";
            let state = if seq % 2 == 0 { PENDING } else { DELIVERED };
            db.execute(insert, [seq, state]).unwrap();
        }
        let count = || {
            db.query_row("SELECT count(*) FROM deliveries", [], |row| {
                row.get::<_, i64>(0)
            })
        };

        let next_seq = HISTORY_ROWS + 3001;
        let swept = sweep_history(&db, next_seq, 0).unwrap();
        assert_eq!(count(), Ok(4000 - HISTORY_SWEEP_ROWS / 2));
        let swept = sweep_history(&db, next_seq, swept).unwrap();
        assert_eq!(count(), Ok(2500));
        assert_eq!(sweep_history(&db, next_seq, swept), Ok(3001));
    }

    /// A backlog of a million rows must not slow a commit down.
    #[test]
    fn a_sweep_reads_through_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let db = sqlite::open(&dir.path().join("deliveries.db"), &SCHEMA).unwrap();
        for state in [DELIVERED, DEAD, DROPPED] {
            for join in ["JOIN", "LEFT JOIN"] {
                let query = format!("EXPLAIN QUERY PLAN {}", ended_query(state, join));
                let mut plan = db.prepare(&query).unwrap();
                let steps = plan.query_map([0, 0, 0], |row| row.get::<_, String>(3));
                for step in steps.unwrap() {
                    let step = step.unwrap();
                    assert!(!step.contains("SCAN") && !step.contains("TEMP"), "{step}");
                }
            }
        }
    }
}
