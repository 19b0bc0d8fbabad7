//! Changes of deliveries by hand: redelivering and dropping, pausing and resuming.

use hookward_core::clock::UnixMillis;
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::millis;
use super::settle::{self, DROPPED, PENDING};
use super::usage::HeldChange;
use crate::storage::deliveries::{Change, DeliveryState};

/// Row that a change needs.
struct Target {
    tunnel: i64,
    host: String,
    lane: i64,
    state: DeliveryState,
    bytes: i64,
    has_payload: bool,
}

/// Changes a delivery. Returns its host and the change of the numbers; `None` if the change does not
/// apply to it.
pub(super) fn change(
    db: &Transaction<'_>,
    seq: i64,
    change: Change,
    now: UnixMillis,
) -> rusqlite::Result<Option<(String, HeldChange)>> {
    let select = "SELECT d.tunnel, t.host, d.lane, d.state, d.bytes, p.seq IS NOT NULL \
        FROM deliveries d JOIN tunnels t ON t.id = d.tunnel LEFT JOIN payloads p ON p.seq = d.seq \
        WHERE d.seq = ?1";
    let target = db.prepare_cached(select)?.query_row([seq], |row| {
        Ok(Target {
            tunnel: row.get(0)?,
            host: row.get(1)?,
            lane: row.get(2)?,
            state: DeliveryState::of(row.get(3)?),
            bytes: row.get(4)?,
            has_payload: row.get(5)?,
        })
    });
    let Some(target) = target.optional()? else {
        return Ok(None);
    };

    let changed = match change {
        Change::Redeliver => redeliver(db, seq, &target, now)?,
        Change::Drop => drop(db, seq, &target, now)?,
    };
    Ok(changed.map(|changed| (target.host, changed)))
}

/// Makes a delivery due now. One that has ended is pending again.
fn redeliver(
    db: &Transaction<'_>,
    seq: i64,
    target: &Target,
    now: UnixMillis,
) -> rusqlite::Result<Option<HeldChange>> {
    if !target.has_payload {
        return Ok(None);
    }

    let update = "UPDATE deliveries SET state = ?2, ended_ms = NULL, received_ms = ?3, \
                  redelivered = redelivered + 1 WHERE seq = ?1";
    db.prepare_cached(update)?
        .execute(params![seq, PENDING, millis(now)])?;
    let response = settle::remove_response(db, seq)?;
    let lane = "INSERT INTO lanes (tunnel, lane, due_ms) VALUES (?1, ?2, ?3) \
                ON CONFLICT DO UPDATE SET due_ms = ?3";
    db.prepare_cached(lane)?
        .execute(params![target.tunnel, target.lane, millis(now)])?;

    Ok(Some(HeldChange {
        pending: i64::from(target.state != DeliveryState::Pending),
        dead: -i64::from(target.state == DeliveryState::Dead),
        bytes: -response,
    }))
}

/// Deletes the payload of a delivery, which is not tried any more.
fn drop(
    db: &Transaction<'_>,
    seq: i64,
    target: &Target,
    now: UnixMillis,
) -> rusqlite::Result<Option<HeldChange>> {
    if !target.has_payload {
        return Ok(None);
    }

    settle::remove_payload(db, seq)?;
    // Its size is part of the row's.
    settle::remove_response(db, seq)?;
    // A delivered one stays so in the list.
    if target.state != DeliveryState::Delivered {
        let update = "UPDATE deliveries SET state = ?2, ended_ms = ?3 WHERE seq = ?1";
        db.prepare_cached(update)?
            .execute(params![seq, DROPPED, millis(now)])?;
    }
    if target.state == DeliveryState::Pending {
        settle::advance(db, target.tunnel, target.lane, now)?;
    }

    Ok(Some(HeldChange {
        pending: -i64::from(target.state == DeliveryState::Pending),
        dead: -i64::from(target.state == DeliveryState::Dead),
        bytes: -target.bytes,
    }))
}

/// Pauses or resumes a tunnel.
pub(super) fn pause(db: &Transaction<'_>, tunnel: i64, paused: bool) -> rusqlite::Result<()> {
    let update = "UPDATE tunnels SET paused = ?2 WHERE id = ?1";
    db.prepare_cached(update)?
        .execute(params![tunnel, paused])?;
    Ok(())
}
