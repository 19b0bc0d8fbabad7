//! Requests to the writer thread, and their execution in one transaction.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_gate::engine::Claimed;
use hookward_runtime::sqlite::{self, SqliteError};
use rusqlite::{Connection, ErrorCode, Transaction};
use tokio::sync::oneshot;

use super::claims::{self, Claims, CountChanges, NewClaim};
use super::disk::{self, DiskGuard};
use super::schema::{SCHEMA, set_pragmas};
use super::settle::Settling;
use super::steady_time::SteadyTime;
use super::usage::{HeldChange, TunnelRow, Usage};
use super::{ClaimKey, accept, change, millis, settle, usage};
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{
    Change, DueDelivery, Lease, NewDelivery, Outcome, StoreLimits, StoreRefusal, Stored,
};
use hookward_runtime::sqlite::writer::Work;

/// Request to the writer thread.
pub(super) enum Request {
    Claim {
        key: ClaimKey,
        tunnel: Arc<str>,
        holder: i64,
        window_ms: u64,
        answer: oneshot::Sender<Claimed>,
    },
    Confirm {
        key: ClaimKey,
        holder: i64,
        answer: oneshot::Sender<()>,
    },
    Release {
        key: ClaimKey,
        holder: i64,
    },
    Accept(Box<AcceptRequest>),
    Lease {
        tunnel: Arc<str>,
        answer: oneshot::Sender<Lease>,
    },
    Begin {
        tunnel: Arc<str>,
        lease: Lease,
        seq: i64,
    },
    Settle(Box<SettleRequest>),
    Wake {
        tunnel: Arc<str>,
        answer: oneshot::Sender<()>,
    },
    Change {
        seqs: Vec<i64>,
        change: Change,
        answer: oneshot::Sender<usize>,
    },
    Pause {
        tunnel: Arc<str>,
        paused: bool,
        answer: oneshot::Sender<()>,
    },
}

/// Webhook to store.
pub(super) struct AcceptRequest {
    pub delivery: NewDelivery,
    /// Claim that the same commit confirms.
    pub claim: Option<(ClaimKey, i64)>,
    pub answer: oneshot::Sender<AcceptReply>,
}

/// Result of storing a webhook, with the webhook itself: the caller's thread frees its memory.
pub(super) type AcceptReply = (Result<Stored, StoreRefusal>, NewDelivery);

/// End of an attempt to record.
pub(super) struct SettleRequest {
    pub tunnel: Arc<str>,
    pub lease: Lease,
    pub head: DueDelivery,
    pub outcome: Outcome,
    pub answer: oneshot::Sender<Option<DueDelivery>>,
}

/// Work of the writer.
pub(super) struct DeliveryWork {
    pub claims: Claims,
    pub time: SteadyTime,
    pub usage: Arc<Mutex<Usage>>,
    /// Number of the next delivery.
    pub next_seq: i64,
    pub limits: StoreLimits,
    pub disk: DiskGuard,
    /// `true` once pages were freed that the file still has.
    pub has_free_pages: bool,
    pub swept: Swept,
    pub path: Box<Path>,
}

/// Progress of the removal of old rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Time of the end from which on payloads of delivered webhooks may be kept, in milliseconds.
    done: i64,
    /// Number of the delivery from which on the history is not swept yet.
    history: i64,
    /// Time from which on something may be old again.
    next_at: UnixMillis,
}

/// Changes of a batch, applied once they are committed.
#[derive(Default)]
pub(super) struct BatchChanges {
    claims: CountChanges,
    /// Webhooks that were stored. Their bounds were reserved before.
    accepted: HashMap<Arc<str>, HeldChange>,
    pub(super) held: HashMap<Arc<str>, HeldChange>,
    /// Numbers of attempts that began, by delivery. The end of an attempt in the same batch counts
    /// them, so that most attempts cost one update.
    begun: HashMap<i64, u32>,
    /// Tunnels that the batch has added, or whose owner it has changed.
    pub(super) tunnels: HashMap<Arc<str>, TunnelRow>,
    /// New value of [`DeliveryWork::swept`].
    swept: Swept,
    replies: Vec<Reply>,
}

/// Result of a request.
enum Reply {
    None,
    Claimed(Claimed),
    Stored(Option<Stored>),
    Lease(Lease),
    Next(Option<DueDelivery>),
    Changed(usize),
}

impl DeliveryWork {
    fn execute_one(
        &mut self,
        db: &Transaction<'_>,
        request: &Request,
        changes: &mut BatchChanges,
        now: UnixMillis,
    ) -> rusqlite::Result<Reply> {
        match request {
            Request::Claim {
                key,
                tunnel,
                holder,
                window_ms,
                ..
            } => {
                let claim = NewClaim {
                    key,
                    tunnel,
                    holder: *holder,
                    window_ms: *window_ms,
                };
                let claimed = self.claims.claim(db, &mut changes.claims, claim, now)?;
                return Ok(Reply::Claimed(claimed));
            }
            Request::Confirm { key, holder, .. } => claims::confirm(db, key, *holder)?,
            Request::Release { key, holder } => {
                claims::release(db, &mut changes.claims, key, *holder)?;
            }
            Request::Accept(request) => {
                let stored = self.accept(db, request, changes, now)?;
                return Ok(Reply::Stored(stored));
            }
            Request::Lease { tunnel, .. } => {
                return self.lease(db, tunnel, changes).map(Reply::Lease);
            }
            Request::Begin { tunnel, lease, seq } => {
                if self.owns(tunnel, *lease, changes) {
                    *changes.begun.entry(*seq).or_default() += 1;
                }
            }
            Request::Wake { tunnel, .. } => {
                if let Some(tunnel) = self.tunnel(tunnel, changes) {
                    settle::wake(db, tunnel.id, now)?;
                }
            }
            Request::Change { seqs, change, .. } => {
                let history = self.swept.history;
                let changed = change_all(db, seqs, *change, changes, (history, now));
                return changed.map(Reply::Changed);
            }
            Request::Pause { tunnel, paused, .. } => self.pause(db, tunnel, *paused, changes)?,
            Request::Settle(request) => {
                return self.settle(db, request, changes, now).map(Reply::Next);
            }
        }
        Ok(Reply::None)
    }

    fn pause(
        &self,
        db: &Transaction<'_>,
        host: &Arc<str>,
        paused: bool,
        changes: &mut BatchChanges,
    ) -> rusqlite::Result<()> {
        let mut tunnel = match self.tunnel(host, changes) {
            Some(tunnel) => tunnel,
            None => self.add_tunnel(db, host, changes)?,
        };
        tunnel.paused = paused;
        change::pause(db, tunnel.id, paused)?;
        changes.tunnels.insert(Arc::clone(host), tunnel);
        Ok(())
    }

    /// Records the end of an attempt, unless a later owner decides about the delivery.
    fn settle(
        &self,
        db: &Transaction<'_>,
        request: &SettleRequest,
        changes: &mut BatchChanges,
        now: UnixMillis,
    ) -> rusqlite::Result<Option<DueDelivery>> {
        let tunnel = self.tunnel(&request.tunnel, changes);
        let Some(tunnel) = tunnel.filter(|tunnel| tunnel.epoch == request.lease.epoch) else {
            return Ok(None);
        };
        let held = changes.held.entry(Arc::clone(&request.tunnel)).or_default();
        let settling = Settling {
            tunnel: tunnel.id,
            begun: changes.begun.remove(&request.head.seq).unwrap_or_default(),
            is_history_swept: request.head.seq < self.swept.history,
            room: match &request.outcome {
                Outcome::Dead { .. } => self.usage().room(&self.limits, &request.tunnel, *held),
                _ => 0,
            },
            now,
        };
        settle::settle(db, request, settling, &self.limits, held)
    }

    fn accept(
        &mut self,
        db: &Transaction<'_>,
        request: &AcceptRequest,
        changes: &mut BatchChanges,
        now: UnixMillis,
    ) -> rusqlite::Result<Option<Stored>> {
        let host = &request.delivery.tunnel;
        let mut tunnel = match self.tunnel(host, changes) {
            Some(tunnel) => tunnel,
            None => self.add_tunnel(db, host, changes)?,
        };
        if tunnel.owner != request.delivery.owner {
            // A new agent knows nothing of a pause of the one before.
            tunnel.paused &= tunnel.owner == AgentId::default();
            tunnel.owner = request.delivery.owner;
            let update = "UPDATE tunnels SET owner = ?2, paused = ?3 WHERE id = ?1";
            db.prepare_cached(update)?
                .execute((tunnel.id, tunnel.owner.0, tunnel.paused))?;
            changes.tunnels.insert(Arc::clone(host), tunnel);
        }
        if let Some((key, holder)) = &request.claim {
            claims::confirm(db, key, *holder)?;
        }

        let stored = accept::insert(db, tunnel.id, self.next_seq, &request.delivery, now)?;
        if stored.is_some() {
            self.next_seq += 1;
            *changes.accepted.entry(Arc::clone(host)).or_default() +=
                HeldChange::added(&request.delivery);
        }
        Ok(stored)
    }

    fn lease(
        &self,
        db: &Transaction<'_>,
        host: &Arc<str>,
        changes: &mut BatchChanges,
    ) -> rusqlite::Result<Lease> {
        let mut tunnel = match self.tunnel(host, changes) {
            Some(tunnel) => tunnel,
            None => self.add_tunnel(db, host, changes)?,
        };
        // Time, so that the agent knows no higher epoch after the file was lost or restored.
        tunnel.epoch = millis(self.time.now()).max(tunnel.epoch + 1);
        let update = "UPDATE tunnels SET epoch = ?2 WHERE id = ?1";
        db.prepare_cached(update)?
            .execute((tunnel.id, tunnel.epoch))?;

        let lease = Lease {
            epoch: tunnel.epoch,
        };
        changes.tunnels.insert(Arc::clone(host), tunnel);
        Ok(lease)
    }

    fn owns(&self, host: &str, lease: Lease, changes: &BatchChanges) -> bool {
        let tunnel = self.tunnel(host, changes);
        tunnel.is_some_and(|tunnel| tunnel.epoch == lease.epoch)
    }

    fn tunnel(&self, host: &str, changes: &BatchChanges) -> Option<TunnelRow> {
        let changed = changes.tunnels.get(host).copied();
        changed.or_else(|| self.usage().row(host))
    }

    fn add_tunnel(
        &self,
        db: &Transaction<'_>,
        host: &Arc<str>,
        changes: &mut BatchChanges,
    ) -> rusqlite::Result<TunnelRow> {
        // A transaction whose commit failed may have reached the disk all the same.
        let insert = "INSERT INTO tunnels (host) VALUES (?1) \
                      ON CONFLICT (host) DO UPDATE SET host = host RETURNING id, epoch, paused, owner";
        let tunnel = db
            .prepare_cached(insert)?
            .query_row([host.as_ref()], |row| {
                Ok(TunnelRow {
                    id: row.get(0)?,
                    epoch: row.get(1)?,
                    paused: row.get(2)?,
                    owner: AgentId(row.get(3)?),
                })
            })?;
        changes.tunnels.insert(Arc::clone(host), tunnel);
        Ok(tunnel)
    }

    fn usage(&self) -> std::sync::MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends and removes some rows whose time is over. Each commit does so until nothing is left, and
    /// then none for a while.
    fn sweep(
        &self,
        db: &Transaction<'_>,
        changes: &mut BatchChanges,
        now: UnixMillis,
    ) -> rusqlite::Result<Swept> {
        let claims = claims::sweep(db, &mut changes.claims, now)?;
        let (done, ended) = settle::sweep(db, &self.limits, changes, now, self.swept.done)?;
        let history = settle::sweep_history(db, self.next_seq, self.swept.history)?;

        let has_more = claims + ended > 0 || history != self.swept.history;
        let pause = if has_more { 0 } else { SWEEP_PAUSE_MS };
        Ok(Swept {
            done,
            history,
            next_at: UnixMillis(now.0.saturating_add(pause)),
        })
    }

    /// Adds the changes of the batch to the numbers in the file.
    fn write_usage(&self, db: &Transaction<'_>, changes: &BatchChanges) -> rusqlite::Result<()> {
        let update = "UPDATE tunnels SET pending = max(0, pending + ?2), dead = max(0, dead + ?3), \
                      bytes = max(0, bytes + ?4) WHERE id = ?1";
        let mut update = db.prepare_cached(update)?;
        for (host, change) in changes.accepted.iter().chain(&changes.held) {
            let Some(tunnel) = self.tunnel(host, changes) else {
                continue;
            };
            update.execute((tunnel.id, change.pending, change.dead, change.bytes))?;
        }
        Ok(())
    }
}

/// Changes deliveries by hand. The history holds no rows older than number `history`. Returns the
/// number of those that the change applied to.
fn change_all(
    db: &Transaction<'_>,
    seqs: &[i64],
    change: Change,
    changes: &mut BatchChanges,
    (history, now): (i64, UnixMillis),
) -> rusqlite::Result<usize> {
    let mut count = 0;
    for seq in seqs {
        // Counted first: the change may end the delivery.
        if let Some(begun) = changes.begun.remove(seq) {
            settle::begin(db, *seq, begun)?;
        }
        if let Some((host, held)) = change::change(db, *seq, change, now)? {
            *changes.held.entry(host.into()).or_default() += held;
            count += 1;
            if change == Change::Drop && *seq < history {
                settle::remove_row(db, *seq)?;
            }
        }
    }
    Ok(count)
}

/// Pause after a sweep that has found nothing, in milliseconds: the five queries of a sweep cost more than
/// a small batch.
const SWEEP_PAUSE_MS: u64 = 100;

/// Size of the log from which an idle writer empties it, in bytes: twice that in operation.
const LONG_LOG_BYTES: u64 = 32 * 1024 * 1024;

/// Copies the log into the file, and empties it (sqlite.org/pragma.html#pragma_wal_checkpoint).
const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

/// Number of free pages that an idle writer gives back to the disk at once.
const RELEASED_PAGES: u32 = 2000;

impl Work for DeliveryWork {
    type Request = Request;
    type Replies = BatchChanges;

    fn writes(&self, _: &Request) -> bool {
        true
    }

    fn bytes(request: &Request) -> usize {
        match request {
            Request::Accept(request) => request.delivery.payload.bytes(),
            _ => 0,
        }
    }

    fn flushes(request: &Request) -> bool {
        matches!(request, Request::Accept(_))
    }

    fn execute(
        &mut self,
        db: &mut Transaction<'_>,
        batch: &mut [Request],
    ) -> rusqlite::Result<BatchChanges> {
        let now = self.time.now();
        let mut changes = BatchChanges::default();
        for request in &*batch {
            let reply = self.execute_one(db, request, &mut changes, now)?;
            changes.replies.push(reply);
        }
        for (seq, count) in changes.begun.drain() {
            settle::begin(db, seq, count)?;
        }

        if batch.is_empty() {
            // Nothing else waits: a backlog's disk space is given back.
            let freed = sqlite::release_pages(db, RELEASED_PAGES)?;
            self.has_free_pages = freed > 0;
        }
        changes.swept = match now >= self.swept.next_at {
            true => self.sweep(db, &mut changes, now)?,
            false => self.swept,
        };
        self.write_usage(db, &changes)?;
        Ok(changes)
    }

    fn committed(&mut self, batch: Vec<Request>, changes: BatchChanges) {
        self.claims.apply(changes.claims);
        self.swept = changes.swept;
        {
            let mut usage = self.usage();
            for (host, tunnel) in changes.tunnels {
                usage.set_row(host, tunnel);
            }
            for (host, change) in changes.held {
                usage.apply(&host, change);
            }
            for (host, change) in changes.accepted {
                usage.confirm(&host, change);
            }
        }

        for (request, reply) in batch.into_iter().zip(changes.replies) {
            // A request that was dropped has no use for its result.
            match (request, reply) {
                (Request::Claim { answer, .. }, Reply::Claimed(claimed)) => {
                    let _ = answer.send(claimed);
                }
                (Request::Confirm { answer, .. } | Request::Wake { answer, .. }, _) => {
                    let _ = answer.send(());
                }
                (Request::Accept(request), Reply::Stored(stored)) => {
                    if stored.is_none() {
                        self.usage().undo(&request.delivery);
                    }
                    let AcceptRequest {
                        delivery, answer, ..
                    } = *request;
                    let _ = answer.send((stored.ok_or(StoreRefusal::Known), delivery));
                }
                (Request::Lease { answer, .. }, Reply::Lease(lease)) => {
                    let _ = answer.send(lease);
                }
                (Request::Change { answer, .. }, Reply::Changed(count)) => {
                    let _ = answer.send(count);
                }
                (Request::Pause { answer, .. }, _) => {
                    let _ = answer.send(());
                }
                (Request::Settle(request), Reply::Next(next)) => {
                    let _ = request.answer.send(next);
                }
                _ => {}
            }
        }
    }

    /// Drops claims and webhooks, whose requests are refused for now. Keeps what ends earlier ones:
    /// without it, a delivery would stay pending.
    fn failed(&mut self, batch: Vec<Request>, error: &rusqlite::Error) -> Vec<Request> {
        if error.sqlite_error_code() == Some(ErrorCode::DiskFull) {
            self.disk.note_full();
        }

        let mut again = Vec::new();
        for request in batch {
            match request {
                Request::Claim { .. } => {}
                Request::Accept(request) => {
                    self.usage().undo(&request.delivery);
                    let refusal = match error.sqlite_error_code() {
                        Some(ErrorCode::DiskFull) => StoreRefusal::DiskFull,
                        _ => StoreRefusal::Failing,
                    };
                    let AcceptRequest {
                        delivery, answer, ..
                    } = *request;
                    let _ = answer.send((Err(refusal), delivery));
                }
                kept => again.push(kept),
            }
        }
        again
    }

    fn ends_connection(error: &rusqlite::Error) -> bool {
        !matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        )
    }

    /// Copies the log into the file, which shrinks only then. Waits for no query that reads the log:
    /// webhooks would wait, too.
    fn idle(&mut self, connection: &Connection) {
        // Searches wait for a log that has become large, and no commit may follow that shortens it.
        if !self.has_free_pages && disk::log_bytes(&self.path) <= LONG_LOG_BYTES {
            return;
        }
        let result = connection.busy_timeout(Duration::ZERO).and_then(|()| {
            let is_busy = connection.query_row(CHECKPOINT, [], |row| row.get::<_, bool>(0));
            sqlite::set_busy_timeout(connection)?;
            is_busy
        });
        match result {
            Ok(is_busy) => self.has_free_pages = is_busy,
            Err(error) => tracing::warn!(%error, "the log of the delivery file stays as it is"),
        }
    }

    /// Copies the log into the file, so that a stopped relay leaves one complete file.
    fn closing(&mut self, connection: &Connection) {
        if let Err(error) = connection.query_row(CHECKPOINT, [], |_| Ok(())) {
            tracing::warn!(%error, "the log of the delivery file stays beside it");
        }
    }

    fn reopen(&mut self) -> Result<Connection, SqliteError> {
        disk::rewrite_log(&self.path).map_err(|source| SqliteError::File {
            path: self.path.to_path_buf(),
            source,
        })?;

        let connection = sqlite::open(&self.path, &SCHEMA)?;
        set_pragmas(&connection)
            .and_then(|()| sqlite::check(&connection))
            .map_err(sqlite::failed(&self.path))?;

        // What a failed commit has left on the disk counts from now on.
        let read = || Ok((claims::counts(&connection)?, usage::read(&connection)?));
        let (claims, usage) = read().map_err(sqlite::failed(&self.path))?;
        self.claims.counts = claims;
        self.usage().replace_committed(usage);
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use hookward_core::clock::Clock;
    use hookward_gate::engine::OrderingKey;

    use super::*;

    fn work(path: &Path) -> DeliveryWork {
        DeliveryWork {
            claims: Claims {
                counts: HashMap::new(),
                limit: 1,
            },
            time: SteadyTime::since(Clock::System),
            usage: Arc::default(),
            next_seq: 1,
            limits: StoreLimits::for_tests(),
            disk: DiskGuard::new(path),
            has_free_pages: true,
            swept: Swept::default(),
            path: path.into(),
        }
    }

    /// A list that an administrator reads slowly must not hold up webhooks.
    #[test]
    fn an_idle_writer_does_not_wait_for_a_reader() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deliveries.db");
        let db = sqlite::open(&path, &SCHEMA).unwrap();
        let insert = "INSERT INTO tunnels (host) VALUES (?1)";
        (0..2).for_each(|n| drop(db.execute(insert, [n.to_string()])));
        let reader = sqlite::open_to_read(&path).unwrap();
        let mut select = reader.prepare("SELECT id FROM tunnels").unwrap();
        let mut rows = select.query([]).unwrap();
        rows.next().unwrap();

        let (mut work, since) = (work(&path), Instant::now());
        work.idle(&db);
        assert!(since.elapsed() < Duration::from_secs(4));
        assert!(work.has_free_pages, "it tries again");
        drop(rows);
        work.idle(&db);
        assert!(!work.has_free_pages);
    }

    /// Searches would wait for it.
    #[test]
    fn an_idle_writer_empties_a_long_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deliveries.db");
        let db = sqlite::open(&path, &SCHEMA).unwrap();
        let reader = sqlite::open_to_read(&path).unwrap();
        let mut select = reader.prepare("SELECT count(*) FROM tunnels").unwrap();
        let mut rows = select.query([]).unwrap();
        rows.next().unwrap();
        let insert = "INSERT INTO responses VALUES (?1, '', zeroblob(1000000))";
        for seq in 0..40 {
            db.execute(insert, [seq]).unwrap();
        }
        drop(rows);
        assert!(disk::log_bytes(&path) > LONG_LOG_BYTES);

        let mut work = work(&path);
        work.has_free_pages = false;
        work.idle(&db);
        assert_eq!(disk::log_bytes(&path), 0);
    }

    #[test]
    fn a_new_connection_keeps_what_waits_for_the_disk() {
        let waiting = NewDelivery::for_tests(OrderingKey::None, b"x");
        let mut usage = Usage::default();
        let limits = StoreLimits::for_tests();
        usage.reserve(&limits, &waiting).unwrap();
        usage.reserve(&limits, &waiting).unwrap();
        let before = usage.total;

        usage.replace_committed(Usage::default());
        assert_eq!(usage.total, before);
        usage.undo(&waiting);
        usage.confirm(&waiting.tunnel, HeldChange::added(&waiting));
        usage.replace_committed(Usage::default());
        assert_eq!(usage.total.pending, 0);
    }
}
