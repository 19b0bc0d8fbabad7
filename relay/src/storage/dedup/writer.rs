//! The thread that owns the deduplication file, and commits in batches.

use super::{Counts, DedupRequest, DedupShared, millis};
use hookward_core::clock::{Clock, Moment, UnixMillis};
use hookward_gate::engine::Claimed;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Maximum number of claims in one commit.
pub(super) const BATCH_CLAIMS: usize = 1024;

/// Maximum number of expired rows that one commit removes.
pub(super) const SWEEP_ROWS: i64 = 2000;

/// Interval at which expired rows are removed without other commits.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Guard that marks the thread as ended, so that no request waits for it.
pub(super) struct Ending(Arc<DedupShared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        queue.ended = true;
        queue.requests.clear();
    }
}

pub(super) struct WriterThread {
    pub(super) connection: Connection,
    pub(super) time: SteadyTime,
    /// Number of rows in the file, by tunnel.
    pub(super) counts: Counts,
    pub(super) shared: Arc<DedupShared>,
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

impl WriterThread {
    pub(super) fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        loop {
            let batch = {
                let mut queue = self.shared.lock();
                if queue.requests.is_empty() && !queue.ended {
                    let waited = self.shared.changed.wait_timeout(queue, SWEEP_INTERVAL);
                    queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                }

                if queue.requests.is_empty() && queue.ended {
                    return;
                }

                let count = queue.requests.len().min(BATCH_CLAIMS);
                queue.requests.drain(..count).collect::<Vec<_>>()
            };
            if let Err((error, batch)) = self.commit(batch) {
                tracing::error!(%error, "deduplication file could not be written");
                self.put_back(batch);
            }
        }
    }

    /// Restores the queue after a failure. Drops claims, whose requests are refused for now; keeps
    /// confirmations and releases, without which a delivery would stay pending.
    fn put_back(&self, batch: Vec<DedupRequest>) {
        let mut queue = self.shared.lock();
        for asked in batch
            .into_iter()
            .rev()
            .filter(|asked| !matches!(asked, DedupRequest::Claim { .. }))
        {
            queue.requests.push_front(asked);
        }

        if queue.ended {
            queue.requests.clear();
            return;
        }

        // Avoids retrying a full disk at once.
        queue.failing = true;
        let waited = self
            .shared
            .changed
            .wait_timeout_while(queue, SWEEP_INTERVAL, |queue| !queue.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.failing = false;
    }

    /// Executes a batch in one transaction, and replies once it is on disk.
    fn commit(
        &mut self,
        batch: Vec<DedupRequest>,
    ) -> Result<(), (rusqlite::Error, Vec<DedupRequest>)> {
        let claimed = match self.write(&batch) {
            Ok(claimed) => claimed,
            Err(error) => return Err((error, batch)),
        };
        let mut claimed = claimed.into_iter();

        for asked in batch {
            // A request that was dropped releases its claim through its guard.
            match asked {
                DedupRequest::Claim { answer, .. } => {
                    let _ = answer.send(claimed.next().unwrap_or(Claimed::Pending));
                }
                DedupRequest::Confirm { answer, .. } => {
                    let _ = answer.send(());
                }
                DedupRequest::Release { .. } => {}
            }
        }

        Ok(())
    }

    /// Writes a batch. Returns the outcome of each claim, in order.
    fn write(&mut self, batch: &[DedupRequest]) -> Result<Vec<Claimed>, rusqlite::Error> {
        let now = self.time.now();
        let transaction = self.connection.transaction()?;
        let mut claims = Vec::new();
        // Changes of this batch, applied once it is on disk.
        let mut changed: HashMap<Arc<str>, i64> = HashMap::new();

        {
            let mut find =
                transaction.prepare_cached("SELECT until_ms, holder FROM claims WHERE key = ?1")?;
            let mut put = transaction
                .prepare_cached("INSERT OR REPLACE INTO claims VALUES (?1, ?2, ?3, ?4)")?;
            let confirm = "UPDATE claims SET holder = 0 WHERE key = ?1 AND holder = ?2";
            let mut confirm = transaction.prepare_cached(confirm)?;
            let release = "DELETE FROM claims WHERE key = ?1 AND holder = ?2 RETURNING tunnel";
            let mut release = transaction.prepare_cached(release)?;

            for asked in batch {
                match asked {
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
                            None if held >= self.shared.limit => Claimed::Pending,
                            _ => {
                                put.execute(params![key, tunnel.as_ref(), millis(until), holder])?;
                                if found.is_none() {
                                    *changed.entry(Arc::clone(tunnel)).or_default() += 1;
                                }
                                Claimed::New
                            }
                        };
                        claims.push(claimed);
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
            let mut sweep = transaction.prepare_cached(sweep)?;
            let swept = sweep.query_map(params![millis(now), SWEEP_ROWS], |row| {
                row.get::<_, String>(0)
            })?;
            for tunnel in swept {
                *changed.entry(tunnel?.into()).or_default() -= 1;
            }
        }

        transaction.commit()?;
        for (tunnel, by) in changed {
            let count = self.counts.entry(tunnel).or_default();
            *count = count.saturating_add_signed(by);
        }

        self.counts.retain(|_, count| *count > 0);
        Ok(claims)
    }
}
