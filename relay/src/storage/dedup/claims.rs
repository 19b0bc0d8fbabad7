//! Claims of deliveries in the deduplication file.

use super::{Counts, DedupRequest, millis};
use crate::storage::writer::Work;
use hookward_core::clock::{Clock, Moment, UnixMillis};
use hookward_gate::engine::Claimed;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::HashMap;
use std::sync::Arc;

/// The claims in the deduplication file.
pub(super) struct Claims {
    pub(super) time: SteadyTime,
    /// Number of rows in the file, by tunnel.
    pub(super) counts: Counts,
    /// Maximum number of rows of one tunnel.
    pub(super) limit: u64,
}

/// Results of a batch.
pub(super) struct ClaimReplies {
    /// Result of each claim, in order.
    claimed: Vec<Claimed>,
    /// Changes of the number of rows, applied once they are on disk.
    changed: HashMap<Arc<str>, i64>,
}

/// Time of day at startup, plus monotonic time since.
pub(super) struct SteadyTime {
    clock: Clock,
    start: Moment,
}

impl SteadyTime {
    pub(super) fn since(clock: Clock) -> Self {
        let start = clock.moment();
        Self { clock, start }
    }

    fn now(&self) -> UnixMillis {
        let passed = self
            .clock
            .moment()
            .steady
            .0
            .saturating_sub(self.start.steady.0);
        UnixMillis(self.start.wall.0.saturating_add(passed))
    }
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

impl Work for Claims {
    type Request = DedupRequest;
    type Replies = ClaimReplies;

    fn writes(&self, _: &DedupRequest) -> bool {
        true
    }

    fn execute(
        &mut self,
        db: &mut Transaction<'_>,
        batch: &mut [DedupRequest],
    ) -> rusqlite::Result<ClaimReplies> {
        let now = self.time.now();
        let mut claimed_all = Vec::new();
        let mut changed: HashMap<Arc<str>, i64> = HashMap::new();

        {
            let mut find =
                db.prepare_cached("SELECT until_ms, holder FROM claims WHERE key = ?1")?;
            let mut put =
                db.prepare_cached("INSERT OR REPLACE INTO claims VALUES (?1, ?2, ?3, ?4)")?;
            let confirm = "UPDATE claims SET holder = 0 WHERE key = ?1 AND holder = ?2";
            let mut confirm = db.prepare_cached(confirm)?;
            let release = "DELETE FROM claims WHERE key = ?1 AND holder = ?2 RETURNING tunnel";
            let mut release = db.prepare_cached(release)?;

            for request in &*batch {
                match request {
                    DedupRequest::Claim {
                        key,
                        tunnel,
                        holder,
                        window_ms,
                        ..
                    } => {
                        let until = UnixMillis(now.0.saturating_add(*window_ms));
                        let held = self.counts.get(tunnel).copied().unwrap_or_default();
                        let held = held.saturating_add_signed(
                            changed.get(tunnel).copied().unwrap_or_default(),
                        );
                        let found: Option<(i64, i64)> = find
                            .query_row(params![key], |row| Ok((row.get(0)?, row.get(1)?)))
                            .optional()?;
                        let claimed = match found {
                            // The first copy is in flight, and its outcome unknown.
                            Some((_, other)) if other != 0 => Claimed::Pending,
                            Some((until_ms, _)) if until_ms > millis(now) => Claimed::Duplicate,
                            None if held >= self.limit => Claimed::Pending,
                            _ => {
                                put.execute(params![key, tunnel.as_ref(), millis(until), holder])?;
                                if found.is_none() {
                                    *changed.entry(Arc::clone(tunnel)).or_default() += 1;
                                }
                                Claimed::New
                            }
                        };
                        claimed_all.push(claimed);
                    }
                    DedupRequest::Confirm { key, holder, .. } => {
                        confirm.execute(params![key, holder])?;
                    }
                    DedupRequest::Release { key, holder } => {
                        let released = release
                            .query_map(params![key, holder], |row| row.get::<_, String>(0))?;
                        for tunnel in released {
                            *changed.entry(tunnel?.into()).or_default() -= 1;
                        }
                    }
                }
            }

            let sweep = "DELETE FROM claims WHERE key IN
                (SELECT key FROM claims WHERE until_ms <= ?1 AND holder = 0 LIMIT ?2) RETURNING tunnel";
            let mut sweep = db.prepare_cached(sweep)?;
            let swept = sweep.query_map(params![millis(now), SWEEP_ROWS], |row| {
                row.get::<_, String>(0)
            })?;
            for tunnel in swept {
                *changed.entry(tunnel?.into()).or_default() -= 1;
            }
        }

        Ok(ClaimReplies {
            claimed: claimed_all,
            changed,
        })
    }

    fn committed(&mut self, batch: Vec<DedupRequest>, replies: ClaimReplies) {
        for (tunnel, by) in replies.changed {
            let count = self.counts.entry(tunnel).or_default();
            *count = count.saturating_add_signed(by);
        }
        self.counts.retain(|_, count| *count > 0);

        let mut claimed = replies.claimed.into_iter();
        for request in batch {
            // A request that was dropped releases its claim through its guard.
            match request {
                DedupRequest::Claim { answer, .. } => {
                    let _ = answer.send(claimed.next().unwrap_or(Claimed::Pending));
                }
                DedupRequest::Confirm { answer, .. } => {
                    let _ = answer.send(());
                }
                DedupRequest::Release { .. } => {}
            }
        }
    }

    /// Drops claims, whose requests are refused for now. Keeps confirmations and releases, without
    /// which a delivery would stay pending.
    fn failed(&mut self, mut batch: Vec<DedupRequest>, _: &rusqlite::Error) -> Vec<DedupRequest> {
        batch.retain(|request| !matches!(request, DedupRequest::Claim { .. }));
        batch
    }
}

/// Maximum number of expired rows that one commit removes.
const SWEEP_ROWS: i64 = 2000;
