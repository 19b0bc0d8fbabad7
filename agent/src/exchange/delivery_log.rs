//! Deliveries that the application has begun or completed, so that an attempt that a relay makes
//! again does not reach it twice.
//!
//! Stored webhooks are recorded in a SQLite file: a delivery that the application accepted is not
//! sent again, even if relay and agent were killed before the relay knew. Power loss may undo the
//! last records. First attempts, whose senders wait, are recorded in memory only.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::clock::{Clock, UnixMillis};
use hookward_runtime::sqlite::writer::{Work, Writer, WriterOptions};
use hookward_runtime::sqlite::{self, Durability, Schema, SqliteError};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use uuid::Uuid;

/// Public id of a delivery, and the number of its redeliveries by hand.
pub(crate) type DeliveryKey = (Uuid, u32);

/// Log of deliveries; clones share it.
#[derive(Clone, Default)]
pub(crate) struct DeliveryLog(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// `None` without a file: a restart of the agent may repeat deliveries.
    writer: Option<Writer<Request>>,
    // A std mutex: it guards a few small collections, and nothing waits while it is held.
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    /// Deliveries in progress; their receivers close at the end.
    running: HashMap<DeliveryKey, watch::Receiver<()>>,
    /// Statuses of completed deliveries.
    completed: HashMap<DeliveryKey, u16>,
    order: VecDeque<DeliveryKey>,
    /// Deliveries that the user has requested again, oldest first.
    requested: VecDeque<(Uuid, Instant)>,
}

/// Answer to the beginning of a delivery.
pub(crate) enum Begun {
    /// The application has not completed it.
    New(DeliveryInProgress),
    /// The application has accepted it with this status.
    Completed(u16),
    /// Another attempt is still in progress.
    Busy,
}

/// A delivery in progress. Others wait for its end.
pub(crate) struct DeliveryInProgress {
    log: DeliveryLog,
    key: DeliveryKey,
    is_stored: bool,
    _end: watch::Sender<()>,
}

enum Request {
    Find {
        key: DeliveryKey,
        answer: oneshot::Sender<Option<u16>>,
    },
    Begin {
        key: DeliveryKey,
        answer: oneshot::Sender<Option<u16>>,
    },
    Complete {
        key: DeliveryKey,
        status: u16,
        answer: oneshot::Sender<()>,
    },
}

impl DeliveryLog {
    /// Opens the log in a file.
    ///
    /// # Errors
    /// [`SqliteError`].
    pub(crate) fn open(path: &Path, clock: Clock) -> Result<Self, SqliteError> {
        let connection = match sqlite::open(path, &SCHEMA) {
            Err(error) if error.is_damage() => {
                let aside = sqlite::set_aside(path, clock.now())?;
                tracing::warn!(
                    %error,
                    kept_as = %aside.display(),
                    "the file of completed deliveries is damaged; made an empty one: a delivery may be repeated"
                );
                sqlite::open(path, &SCHEMA)?
            }
            opened => opened?,
        };

        let count = "SELECT count(*) FROM deliveries";
        let rows = connection
            .query_row(count, [], |row| row.get(0))
            .map_err(sqlite::failed(path))?;
        let options = WriterOptions {
            name: "delivered",
            path: path.to_owned(),
            batch: BATCH_REQUESTS,
            batch_bytes: usize::MAX,
            idle: None,
            pause: RETRY_PAUSE,
            flush_on_demand: false,
        };
        let work = LogWork {
            clock,
            path: path.to_owned(),
            progress: Progress {
                rows,
                sweep_at: UnixMillis(0),
            },
        };
        Ok(Self(Arc::new(Inner {
            writer: Some(Writer::start(connection, work, options)?),
            recent: Mutex::default(),
        })))
    }

    /// Returns the status with which the application has accepted a stored delivery.
    pub(crate) async fn completed(&self, key: DeliveryKey) -> Option<u16> {
        if let Some(status) = self.lock().completed.get(&key) {
            return Some(*status);
        }
        let writer = self.0.writer.as_ref()?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Find { key, answer };
        writer.queue().try_push(request, QUEUE_LENGTH).ok()?;
        timeout(COMMIT_TIMEOUT, answered).await.ok()?.ok()?
    }

    /// Begins a delivery. Waits for an earlier attempt that is in progress.
    pub(crate) async fn begin(
        &self,
        key: DeliveryKey,
        is_stored: bool,
        patience: Duration,
    ) -> Begun {
        let running = self.lock().running.get(&key).cloned();
        if let Some(mut running) = running {
            // Its sender sends nothing: a change is its end.
            if timeout(patience, running.changed()).await.is_err() {
                return Begun::Busy;
            }
        }

        let (end, ends) = watch::channel(());
        {
            let mut recent = self.lock();
            if let Some(status) = recent.completed.get(&key) {
                return Begun::Completed(*status);
            }
            if recent.running.contains_key(&key) {
                return Begun::Busy;
            }
            recent.running.insert(key, ends);
        }
        let begun = DeliveryInProgress {
            log: self.clone(),
            key,
            is_stored,
            _end: end,
        };

        match self.recorded(key, is_stored).await {
            Some(status) => Begun::Completed(status),
            None => Begun::New(begun),
        }
    }

    /// Records the beginning in the file. Returns the status of an earlier completion.
    async fn recorded(&self, key: DeliveryKey, is_stored: bool) -> Option<u16> {
        let writer = self.0.writer.as_ref().filter(|_| is_stored)?;
        let (answer, answered) = oneshot::channel();
        let request = Request::Begin { key, answer };
        let is_queued = writer.queue().try_push(request, QUEUE_LENGTH).is_ok();
        match timeout(COMMIT_TIMEOUT, answered).await {
            Ok(Ok(status)) if is_queued => status,
            _ => {
                tracing::warn!(id = %key.0, "a delivery could not be recorded; it may be repeated");
                None
            }
        }
    }

    /// Records that the user has requested a delivery again.
    pub(crate) fn request_again(&self, id: Uuid) {
        let mut recent = self.lock();
        recent.requested.retain(|(known, _)| *known != id);
        while recent.requested.len() >= REQUESTED_DELIVERIES {
            recent.requested.pop_front();
        }
        recent.requested.push_back((id, Instant::now()));
    }

    /// Withdraws a request of the user.
    pub(crate) fn forget_request(&self, id: Uuid) {
        self.lock().requested.retain(|(known, _)| *known != id);
    }

    /// Returns `true` if the user has requested the delivery again.
    pub(crate) fn is_requested(&self, id: Uuid) -> bool {
        let recent = self.lock();
        let mut requested = recent.requested.iter();
        requested.any(|(known, at)| *known == id && at.elapsed() < REQUEST_LIFETIME)
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.0.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliveryInProgress {
    /// Records that the application has accepted the delivery. Waits until that is committed.
    pub(crate) async fn complete(self, status: u16) {
        {
            let mut recent = self.log.lock();
            // A request by hand is for one delivery.
            recent.requested.retain(|(id, _)| *id != self.key.0);
            recent.completed.insert(self.key, status);
            recent.order.push_back(self.key);
            while recent.order.len() > RECENT_DELIVERIES {
                if let Some(oldest) = recent.order.pop_front() {
                    recent.completed.remove(&oldest);
                }
            }
        }

        let Some(writer) = self.log.0.writer.as_ref().filter(|_| self.is_stored) else {
            return;
        };
        let (answer, answered) = oneshot::channel();
        writer.queue().push(Request::Complete {
            key: self.key,
            status,
            answer,
        });
        if timeout(COMMIT_TIMEOUT, answered).await.is_err() {
            tracing::warn!(id = %self.key.0, "a completed delivery is not yet on disk");
        }
    }
}

impl Drop for DeliveryInProgress {
    fn drop(&mut self) {
        self.log.lock().running.remove(&self.key);
    }
}

struct LogWork {
    clock: Clock,
    path: PathBuf,
    progress: Progress,
}

/// Values that each commit changes.
#[derive(Clone, Copy)]
struct Progress {
    /// Number of rows in the file.
    rows: i64,
    /// Time from which on rows may be too old.
    sweep_at: UnixMillis,
}

/// Results of a batch, which count once it is committed.
struct BatchResults {
    statuses: Vec<Option<u16>>,
    progress: Progress,
}

impl Work for LogWork {
    type Request = Request;
    type Replies = BatchResults;

    fn writes(&self, _: &Request) -> bool {
        true
    }

    fn execute(
        &mut self,
        db: &mut Transaction<'_>,
        batch: &mut [Request],
    ) -> rusqlite::Result<BatchResults> {
        let now = self.clock.now();
        let mut statuses = Vec::with_capacity(batch.len());
        let mut progress = self.progress;
        for request in &*batch {
            statuses.push(match request {
                Request::Find { key, .. } => find(db, key)?.flatten(),
                Request::Begin { key, .. } => begin(db, key, now, &mut progress)?,
                Request::Complete { key, status, .. } => {
                    let update =
                        "UPDATE deliveries SET status = ?3 WHERE id = ?1 AND redelivered = ?2";
                    db.prepare_cached(update)?
                        .execute(params![key.0.as_bytes(), key.1, status])?;
                    None
                }
            });
        }

        sweep(db, now, &mut progress)?;
        Ok(BatchResults { statuses, progress })
    }

    fn committed(&mut self, batch: Vec<Request>, results: BatchResults) {
        self.progress = results.progress;
        for (request, status) in batch.into_iter().zip(results.statuses) {
            // An exchange that was aborted has no use for its result.
            match request {
                Request::Find { answer, .. } | Request::Begin { answer, .. } => {
                    let _ = answer.send(status);
                }
                Request::Complete { answer, .. } => {
                    let _ = answer.send(());
                }
            }
        }
    }

    fn failed(&mut self, mut batch: Vec<Request>, _: &rusqlite::Error) -> Vec<Request> {
        batch.retain(|request| matches!(request, Request::Complete { .. }));
        batch
    }

    fn reopen(&mut self) -> Result<Connection, SqliteError> {
        sqlite::open(&self.path, &SCHEMA)
    }
}

/// Returns the status of a delivery, if it is known; `None` within until it is completed.
fn find(db: &Transaction<'_>, key: &DeliveryKey) -> rusqlite::Result<Option<Option<u16>>> {
    let find = "SELECT status FROM deliveries WHERE id = ?1 AND redelivered = ?2";
    db.prepare_cached(find)?
        .query_row(params![key.0.as_bytes(), key.1], |row| row.get(0))
        .optional()
}

fn begin(
    db: &Transaction<'_>,
    key: &DeliveryKey,
    now: UnixMillis,
    progress: &mut Progress,
) -> rusqlite::Result<Option<u16>> {
    let found = find(db, key)?;
    if found.is_none() {
        progress.rows += 1;
        let insert = "INSERT INTO deliveries (id, redelivered, begun_ms) VALUES (?1, ?2, ?3)";
        db.prepare_cached(insert)?
            .execute(params![key.0.as_bytes(), key.1, millis(now)])?;
    }
    Ok(found.flatten())
}

/// Removes some of the oldest rows, if there are too many or their time is over.
fn sweep(db: &Transaction<'_>, now: UnixMillis, progress: &mut Progress) -> rusqlite::Result<()> {
    let too_many = (progress.rows - KEPT_ROWS).max(0);
    let (before, most) = match too_many {
        0 if now < progress.sweep_at => return Ok(()),
        0 => (
            millis(UnixMillis(now.0.saturating_sub(KEPT_MS))),
            SWEEP_ROWS,
        ),
        _ => (i64::MAX, too_many.min(SWEEP_ROWS)),
    };

    let sweep = "DELETE FROM deliveries WHERE (id, redelivered) IN \
                 (SELECT id, redelivered FROM deliveries WHERE begun_ms < ?1 ORDER BY begun_ms LIMIT ?2)";
    let removed = db.prepare_cached(sweep)?.execute(params![before, most])?;
    progress.rows -= i64::try_from(removed).unwrap_or_default();
    if removed == 0 {
        progress.sweep_at = UnixMillis(now.0.saturating_add(SWEEP_PAUSE_MS));
    }
    Ok(())
}

fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// Schema of the file.
const SCHEMA: Schema = Schema {
    durability: Durability::Process,
    incremental_vacuum: false,
    migrations: &[|db| {
        db.execute_batch(
            "
            CREATE TABLE deliveries (
                id BLOB NOT NULL,                    -- UUID
                redelivered INTEGER NOT NULL,        -- number of redeliveries by hand
                begun_ms INTEGER NOT NULL,
                status INTEGER,                      -- of the application; null until it has accepted
                PRIMARY KEY (id, redelivered)
            ) STRICT, WITHOUT ROWID;
            CREATE INDEX deliveries_by_time ON deliveries (begun_ms);
            ",
        )
    }],
};

/// Time for which deliveries are remembered, in milliseconds: the maximum age of a delivery, and a
/// day for clocks that differ.
const KEPT_MS: u64 = 31 * 86_400_000;

/// Maximum number of deliveries in the file, some 70 bytes each.
const KEPT_ROWS: i64 = 1_000_000;

/// Maximum number of rows that one commit removes: more than it adds.
const SWEEP_ROWS: i64 = 512;

/// Pause after a search for old rows that has found none, in milliseconds.
const SWEEP_PAUSE_MS: u64 = 1000;

/// Number of completed deliveries in memory, some 40 bytes each.
const RECENT_DELIVERIES: usize = 64 * 1024;

/// Time in which a delivery that the user has requested again must come.
const REQUEST_LIFETIME: Duration = Duration::from_secs(600);

/// Number of deliveries that the user may request again at the same time.
const REQUESTED_DELIVERIES: usize = 256;

/// Maximum number of requests in one commit.
const BATCH_REQUESTS: usize = 256;

/// Maximum number of requests that wait for a commit.
const QUEUE_LENGTH: usize = 8192;

/// Maximum wait for a commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed commit.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_completed_delivery_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deliveries.db");
        let (one, two) = ((Uuid::now_v7(), 0), (Uuid::now_v7(), 0));

        let log = DeliveryLog::open(&path, Clock::default()).unwrap();
        let Begun::New(first) = log.begin(one, true, PATIENCE).await else {
            panic!("known");
        };
        first.complete(202).await;
        assert!(matches!(
            log.begin(two, true, PATIENCE).await,
            Begun::New(_)
        ));
        drop(log);

        let log = DeliveryLog::open(&path, Clock::default()).unwrap();
        let again = log.begin(one, true, PATIENCE).await;
        assert!(matches!(again, Begun::Completed(202)));
        // Its attempt ended without a result.
        assert!(matches!(
            log.begin(two, true, PATIENCE).await,
            Begun::New(_)
        ));
    }

    #[test]
    fn too_many_deliveries_lose_the_oldest() {
        let mut db = sqlite::open_in_memory(&SCHEMA).unwrap();
        let db = db.transaction().unwrap();
        let mut progress = Progress {
            rows: 0,
            sweep_at: UnixMillis(0),
        };
        let keys: Vec<_> = (0..6).map(|number| (Uuid::now_v7(), number)).collect();
        for (at, key) in (1..).zip(&keys) {
            begin(&db, key, UnixMillis(at), &mut progress).unwrap();
        }
        assert_eq!(progress.rows, 6);

        progress.rows = KEPT_ROWS + 2;
        sweep(&db, UnixMillis(10), &mut progress).unwrap();
        assert_eq!(progress.rows, KEPT_ROWS);
        let known = keys.iter().map(|key| find(&db, key).unwrap().is_some());
        assert_eq!(
            known.collect::<Vec<_>>(),
            [false, false, true, true, true, true]
        );

        progress.rows = 4;
        sweep(&db, UnixMillis(KEPT_MS + 5), &mut progress).unwrap();
        assert_eq!(progress.rows, 2);
    }

    #[tokio::test]
    async fn a_second_attempt_waits_for_the_first() {
        let (log, key) = (DeliveryLog::default(), (Uuid::now_v7(), 0));
        let Begun::New(first) = log.begin(key, false, PATIENCE).await else {
            panic!("known");
        };
        assert!(matches!(
            log.begin(key, false, Duration::ZERO).await,
            Begun::Busy
        ));

        let (second, ()) = tokio::join!(log.begin(key, false, PATIENCE), first.complete(200));
        assert!(matches!(second, Begun::Completed(200)));
    }
}
