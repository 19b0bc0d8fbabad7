//! Storing a webhook: payload, delivery and place in the order.

use hookward_core::clock::UnixMillis;
use hookward_gate::engine::OrderingKey;
use rusqlite::{Transaction, params};

use super::millis;
use super::settle::{PENDING, after_now};
use crate::storage::deliveries::{DueDelivery, NewDelivery, Stored};

/// Returns the lane of an ordering key. It is negative, so that it is no number of a delivery.
pub(super) const fn lane_of(hash: u64) -> i64 {
    (hash | 1 << 63).cast_signed()
}

/// Inserts a webhook, whose number is `seq`. Returns `None` if one with its id is stored.
pub(super) fn insert(
    db: &Transaction<'_>,
    tunnel: i64,
    seq: i64,
    delivery: &NewDelivery,
    now: UnixMillis,
) -> rusqlite::Result<Option<Stored>> {
    let lane = match delivery.order {
        OrderingKey::None => seq,
        OrderingKey::Hash(hash) => lane_of(hash),
    };
    let payload = &delivery.payload;
    let insert = "INSERT OR IGNORE INTO deliveries \
        (seq, id, tunnel, lane, route, provider, event, state, attempts, received_ms, bytes, owner) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let inserted = db.prepare_cached(insert)?.execute(params![
        seq,
        delivery.id.as_bytes(),
        tunnel,
        lane,
        delivery.route,
        delivery.provider,
        delivery.event,
        PENDING,
        delivery.attempts,
        millis(now),
        i64::try_from(payload.bytes()).unwrap_or(i64::MAX),
        delivery.owner.0,
    ])?;
    if inserted == 0 {
        return Ok(None);
    }

    let insert = "INSERT INTO payloads (seq, head, grant_json, body) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(insert)?.execute(params![
        seq,
        &*payload.head,
        &*payload.grant,
        &*payload.body
    ])?;

    let due = after_now(now, delivery.due_in);
    let insert = "INSERT OR IGNORE INTO lanes (tunnel, lane, due_ms) VALUES (?1, ?2, ?3)";
    let added = db
        .prepare_cached(insert)?
        .execute(params![tunnel, lane, millis(due)])?;

    Ok(Some(Stored {
        head: DueDelivery {
            seq,
            id: delivery.id,
            lane,
            attempts: delivery.attempts,
            received: now,
            bytes: payload.bytes() as u64,
            owner: delivery.owner,
            redelivered: 0,
        },
        is_first: added > 0,
    }))
}
