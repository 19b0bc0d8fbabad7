//! Claims of deliveries.

use std::collections::HashMap;
use std::sync::Arc;

use hookward_core::clock::UnixMillis;
use hookward_gate::engine::Claimed;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{ClaimKey, millis};

/// Number of rows in the file, by tunnel.
pub(super) type Counts = HashMap<Arc<str>, u64>;

/// The claims in the delivery file.
pub(super) struct Claims {
    /// Number of rows in the file, by tunnel.
    pub(super) counts: Counts,
    /// Maximum number of rows of one tunnel.
    pub(super) limit: u64,
}

/// Returns the number of rows of each tunnel.
pub(super) fn counts(connection: &Connection) -> rusqlite::Result<Counts> {
    let mut query = connection.prepare("SELECT tunnel, count(*) FROM claims GROUP BY tunnel")?;
    let rows = query.query_map([], |row| {
        let (tunnel, count): (String, i64) = (row.get(0)?, row.get(1)?);
        Ok((Arc::from(tunnel), u64::try_from(count).unwrap_or_default()))
    })?;
    rows.collect()
}

/// Changes of the number of rows, by tunnel.
pub(super) type CountChanges = HashMap<Arc<str>, i64>;

impl Claims {
    /// Claims a delivery.
    pub(super) fn claim(
        &self,
        db: &Transaction<'_>,
        changed: &mut CountChanges,
        claim: NewClaim<'_>,
        now: UnixMillis,
    ) -> rusqlite::Result<Claimed> {
        let NewClaim {
            key,
            tunnel,
            holder,
            window_ms,
        } = claim;
        let until = UnixMillis(now.0.saturating_add(window_ms));
        let held = self.counts.get(tunnel).copied().unwrap_or_default();
        let held = held.saturating_add_signed(changed.get(tunnel).copied().unwrap_or_default());

        let mut find = db.prepare_cached("SELECT until_ms, holder FROM claims WHERE key = ?1")?;
        let found: Option<(i64, i64)> = find
            .query_row(params![key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match found {
            // The first copy is in flight, and its outcome unknown.
            Some((_, other)) if other != 0 => return Ok(Claimed::Pending),
            Some((until_ms, _)) if until_ms > millis(now) => return Ok(Claimed::Duplicate),
            None if held >= self.limit => return Ok(Claimed::Pending),
            _ => {}
        }

        let put = "INSERT OR REPLACE INTO claims VALUES (?1, ?2, ?3, ?4)";
        let mut put = db.prepare_cached(put)?;
        put.execute(params![key, tunnel.as_ref(), millis(until), holder])?;
        if found.is_none() {
            *changed.entry(Arc::clone(tunnel)).or_default() += 1;
        }
        Ok(Claimed::New)
    }

    /// Applies the changes of a commit.
    pub(super) fn apply(&mut self, changed: CountChanges) {
        if changed.is_empty() {
            return;
        }

        for (tunnel, by) in changed {
            let count = self.counts.entry(tunnel).or_default();
            *count = count.saturating_add_signed(by);
        }
        self.counts.retain(|_, count| *count > 0);
    }
}

/// A claim to make.
#[derive(Clone, Copy)]
pub(super) struct NewClaim<'c> {
    pub(super) key: &'c ClaimKey,
    pub(super) tunnel: &'c Arc<str>,
    pub(super) holder: i64,
    pub(super) window_ms: u64,
}

/// Confirms a claim, if this holder still has it.
pub(super) fn confirm(db: &Transaction<'_>, key: &ClaimKey, holder: i64) -> rusqlite::Result<()> {
    let confirm = "UPDATE claims SET holder = 0 WHERE key = ?1 AND holder = ?2";
    db.prepare_cached(confirm)?.execute(params![key, holder])?;
    Ok(())
}

/// Releases a claim, if this holder still has it.
pub(super) fn release(
    db: &Transaction<'_>,
    changed: &mut CountChanges,
    key: &ClaimKey,
    holder: i64,
) -> rusqlite::Result<()> {
    let release = "DELETE FROM claims WHERE key = ?1 AND holder = ?2 RETURNING tunnel";
    let mut release = db.prepare_cached(release)?;
    let released = release.query_map(params![key, holder], |row| row.get::<_, String>(0))?;
    for tunnel in released {
        *changed.entry(tunnel?.into()).or_default() -= 1;
    }
    Ok(())
}

/// Removes some expired claims. Returns their number.
pub(super) fn sweep(
    db: &Transaction<'_>,
    changed: &mut CountChanges,
    now: UnixMillis,
) -> rusqlite::Result<usize> {
    let sweep = "DELETE FROM claims WHERE key IN
        (SELECT key FROM claims WHERE until_ms <= ?1 AND holder = 0 LIMIT ?2) RETURNING tunnel";
    let mut sweep = db.prepare_cached(sweep)?;
    let swept = sweep.query_map(params![millis(now), SWEEP_ROWS], |row| {
        row.get::<_, String>(0)
    })?;
    let mut count = 0;
    for tunnel in swept {
        *changed.entry(tunnel?.into()).or_default() -= 1;
        count += 1;
    }
    Ok(count)
}

/// Maximum number of expired rows that one commit removes.
const SWEEP_ROWS: i64 = 2000;
