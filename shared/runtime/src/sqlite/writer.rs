//! The one way to write to a SQLite file: a thread that owns the connection, and commits requests in
//! batches (group commit). A request waits for one commit, and not for those of others.
//!
//! A database implements [`Work`]; [`Writer`] owns the thread, the queue and its bound, the
//! transactions, and the pause after a failure.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};

use super::SqliteError;

/// Work of a writer: the execution of its requests.
pub trait Work: Send + 'static {
    /// Request to the writer.
    type Request: Send + 'static;
    /// Results that are sent once the transaction is on disk.
    type Replies;

    /// Returns `true` if the request writes. Its transaction then takes the write lock at its
    /// start: no other process writes between its reads and its writes. A batch has only requests
    /// that write, or only others, which need no lock.
    fn writes(&self, request: &Self::Request) -> bool;

    /// Returns the size of the request, in bytes, for the bounds of a batch and of the queue.
    fn bytes(_: &Self::Request) -> usize {
        0
    }

    /// Returns `true` if the request must survive power loss once it is committed. Its batch is
    /// flushed to the disk then, whatever the file's own durability is.
    fn flushes(_: &Self::Request) -> bool {
        false
    }

    /// Returns `true` if the connection is unusable after this error. After a failed flush, the
    /// system counts pages as written that are not, so later commits prove nothing.
    fn ends_connection(_: &rusqlite::Error) -> bool {
        false
    }

    /// Called outside a transaction, after a batch without requests.
    fn idle(&mut self, _: &Connection) {}

    /// Ends the work, before the connection is closed in order.
    fn closing(&mut self, _: &Connection) {}

    /// Opens the file again after the connection was closed.
    ///
    /// # Errors
    /// The file cannot be opened, or is damaged. The writer pauses, and tries again.
    fn reopen(&mut self) -> Result<Connection, SqliteError>;

    /// Executes a batch inside the transaction. Called with an empty batch after
    /// [`WriterOptions::idle`].
    fn execute(
        &mut self,
        db: &mut Transaction<'_>,
        batch: &mut [Self::Request],
    ) -> rusqlite::Result<Self::Replies>;

    /// Replies to a batch that is on disk.
    fn committed(&mut self, batch: Vec<Self::Request>, replies: Self::Replies);

    /// Ends a batch whose transaction was rolled back. Returns the requests to try again.
    fn failed(&mut self, batch: Vec<Self::Request>, error: &rusqlite::Error) -> Vec<Self::Request>;
}

/// Settings of a writer.
pub struct WriterOptions {
    /// Name of the thread.
    pub name: &'static str,
    /// The file, for errors.
    pub path: PathBuf,
    /// Maximum number of requests in one transaction.
    pub batch: usize,
    /// Maximum size of the requests in one transaction, in bytes. A larger request is a batch of
    /// its own.
    pub batch_bytes: usize,
    /// Interval of transactions without requests; `None` for none.
    pub idle: Option<Duration>,
    /// Pause after a failure, so that a full disk is not tried at once.
    pub pause: Duration,
    /// `true` to flush only batches with a request that [`Work::flushes`].
    pub flush_on_demand: bool,
}

/// Thread that owns a database. Dropping it ends the thread after its last batch.
pub struct Writer<R> {
    queue: WriterQueue<R>,
    thread: Option<JoinHandle<()>>,
}

/// Queue of requests to a writer; clones share it.
pub struct WriterQueue<R>(Arc<Shared<R>>);

impl<R> Clone for WriterQueue<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct Shared<R> {
    // A std mutex with a condition variable: the thread waits on it, and requests only push.
    state: Mutex<QueueState<R>>,
    changed: Condvar,
    commits: CommitCounters,
    /// [`Work::bytes`].
    size_of: fn(&R) -> usize,
}

struct QueueState<R> {
    requests: VecDeque<R>,
    /// Size of the waiting requests, in bytes.
    bytes: usize,
    ended: bool,
    /// `true` while the file cannot be written.
    failing: bool,
    /// `true` while the thread waits for a request: a notification is a system call, which would
    /// otherwise be made for every request.
    is_waiting: bool,
}

/// Counters of a writer's commits.
#[derive(Default)]
struct CommitCounters {
    commits: AtomicU64,
    failures: AtomicU64,
    requests: AtomicU64,
    micros: AtomicU64,
    longest_micros: AtomicU64,
}

/// Measurements of a database's commits since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitStats {
    /// Number of commits.
    pub commits: u64,
    /// Number of transactions that failed.
    pub failures: u64,
    /// Number of requests in all commits.
    pub requests: u64,
    /// Time of all commits, with the execution of their requests.
    pub total: Duration,
    /// Time of the longest commit.
    pub longest: Duration,
}

impl CommitCounters {
    fn record(&self, requests: usize, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.longest_micros.fetch_max(micros, Ordering::Relaxed);
    }
}

impl<R: Send + 'static> Writer<R> {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`SqliteError::Thread`].
    pub fn start<W: Work<Request = R>>(
        connection: Connection,
        work: W,
        options: WriterOptions,
    ) -> Result<Self, SqliteError> {
        let queue = WriterQueue(Arc::new(Shared {
            state: Mutex::new(QueueState {
                requests: VecDeque::new(),
                bytes: 0,
                ended: false,
                failing: false,
                is_waiting: false,
            }),
            changed: Condvar::new(),
            commits: CommitCounters::default(),
            size_of: W::bytes,
        }));

        let path = options.path.clone();
        let thread = WriterThread {
            connection: Some(connection),
            flushes: None,
            work,
            options,
            shared: Arc::clone(&queue.0),
        };
        let thread = std::thread::Builder::new()
            .name(thread.options.name.to_owned())
            .spawn(move || thread.run())
            .map_err(|source| SqliteError::Thread { path, source })?;

        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    /// Returns the queue of the thread.
    pub const fn queue(&self) -> &WriterQueue<R> {
        &self.queue
    }
}

impl<R> Drop for Writer<R> {
    fn drop(&mut self) {
        self.queue.0.lock().ended = true;
        self.queue.0.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked leaves no partial state: every commit is atomic.
            let _ = thread.join();
        }
    }
}

impl<R> WriterQueue<R> {
    /// Queues a request, unless `most` requests are waiting, or the writer fails or has ended.
    ///
    /// # Errors
    /// The request.
    pub fn try_push(&self, request: R, most: usize) -> Result<(), R> {
        let state = self.0.lock();
        if state.requests.len() >= most || state.ended || state.failing {
            return Err(request);
        }

        self.0.add(state, request);
        Ok(())
    }

    /// Queues a request that must not be lost, such as the end of an earlier one. A writer that has
    /// ended drops it.
    pub fn push(&self, request: R) {
        let state = self.0.lock();
        if !state.ended {
            self.0.add(state, request);
        }
    }

    /// Returns the size of the requests that wait, in bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.0.lock().bytes
    }

    /// Returns `true` while the file cannot be written.
    pub fn is_failing(&self) -> bool {
        let state = self.0.lock();
        state.failing || state.ended
    }

    /// Returns the measurements of the commits.
    pub fn stats(&self) -> CommitStats {
        let counters = &self.0.commits;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitStats {
            commits: read(&counters.commits),
            failures: read(&counters.failures),
            requests: read(&counters.requests),
            total: Duration::from_micros(read(&counters.micros)),
            longest: Duration::from_micros(read(&counters.longest_micros)),
        }
    }
}

impl<R> Shared<R> {
    fn lock(&self) -> MutexGuard<'_, QueueState<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, mut state: MutexGuard<'_, QueueState<R>>, request: R) {
        state.bytes += (self.size_of)(&request);
        state.requests.push_back(request);
        if std::mem::take(&mut state.is_waiting) {
            drop(state);
            self.changed.notify_one();
        }
    }
}

struct WriterThread<W: Work> {
    /// `None` while the file cannot be opened again.
    connection: Option<Connection>,
    /// `true` if the connection flushes its commits; `None` before its first one.
    flushes: Option<bool>,
    work: W,
    options: WriterOptions,
    shared: Arc<Shared<W::Request>>,
}

/// Guard that marks the thread as ended, so that no request waits for it.
struct Ending<R>(Arc<Shared<R>>);

impl<R> Drop for Ending<R> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ended = true;
        state.bytes = 0;
        state.requests.clear();
    }
}

impl<W: Work> WriterThread<W> {
    fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.shared));
        while let Some(batch) = self.next_batch() {
            if let Err((error, batch)) = self.commit(batch) {
                let path = self.options.path.display();
                tracing::error!(%error, file = %path, "a transaction failed");
                self.restore(batch);
                self.recover(&error);
            }
        }
        if let Some(connection) = &self.connection {
            self.work.closing(connection);
        }
    }

    /// Waits for requests. Returns `None` at the end of the writer.
    fn next_batch(&self) -> Option<Vec<W::Request>> {
        let mut state = self.shared.lock();
        while state.requests.is_empty() && !state.ended {
            state.is_waiting = true;
            let Some(idle) = self.options.idle else {
                let waited = self.shared.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };

            let waited = self.shared.changed.wait_timeout(state, idle);
            let (woken, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if timeout.timed_out() {
                break;
            }
        }
        state.is_waiting = false;

        if state.requests.is_empty() && state.ended {
            return None;
        }

        let writes = state.requests.front().map(|first| self.work.writes(first));
        let alike = state.requests.iter().take(self.options.batch);
        let mut bytes = 0;
        let count = alike
            .take_while(|request| {
                let is_first = bytes == 0;
                bytes += W::bytes(request);
                let fits = is_first || bytes <= self.options.batch_bytes;
                fits && Some(self.work.writes(request)) == writes
            })
            .count();

        let batch: Vec<_> = state.requests.drain(..count).collect();
        let taken: usize = batch.iter().map(W::bytes).sum();
        state.bytes = state.bytes.saturating_sub(taken);
        Some(batch)
    }

    /// Executes a batch in one transaction, and replies once it is on disk.
    fn commit(
        &mut self,
        mut batch: Vec<W::Request>,
    ) -> Result<(), (rusqlite::Error, Vec<W::Request>)> {
        let started = Instant::now();
        let replies = match self.execute(&mut batch) {
            Ok(replies) => replies,
            Err(error) => {
                let counter = &self.shared.commits.failures;
                counter.fetch_add(1, Ordering::Relaxed);
                let again = self.work.failed(batch, &error);
                return Err((error, again));
            }
        };

        let is_idle = batch.is_empty();
        self.shared.commits.record(batch.len(), started.elapsed());
        self.work.committed(batch, replies);
        if is_idle && let Some(connection) = &self.connection {
            self.work.idle(connection);
        }
        Ok(())
    }

    fn execute(&mut self, batch: &mut [W::Request]) -> rusqlite::Result<W::Replies> {
        let flushes = batch.iter().any(W::flushes);
        let Some(connection) = &mut self.connection else {
            return Err(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
                None,
            ));
        };
        if self.options.flush_on_demand && self.flushes != Some(flushes) {
            let synchronous = if flushes { "FULL" } else { "NORMAL" };
            connection.pragma_update(None, "synchronous", synchronous)?;
            self.flushes = Some(flushes);
        }

        let behavior = match batch.first().is_none_or(|first| self.work.writes(first)) {
            true => TransactionBehavior::Immediate,
            false => TransactionBehavior::Deferred,
        };
        let mut transaction = connection.transaction_with_behavior(behavior)?;
        let replies = self.work.execute(&mut transaction, batch)?;
        transaction.commit()?;
        Ok(replies)
    }

    /// Restores the requests to try again. Until the writer has recovered, it accepts no others.
    fn restore(&self, again: Vec<W::Request>) {
        let mut state = self.shared.lock();
        for request in again.into_iter().rev() {
            state.bytes += W::bytes(&request);
            state.requests.push_front(request);
        }
        state.failing = true;
    }

    /// Waits before the next transaction, and opens the file again if the error requires it.
    fn recover(&mut self, error: &rusqlite::Error) {
        if W::ends_connection(error) {
            self.connection = None;
        }

        loop {
            let is_ending = self.pause();
            if self.connection.is_some() || is_ending {
                break;
            }

            match self.work.reopen() {
                Ok(connection) => {
                    let path = self.options.path.display();
                    tracing::info!(file = %path, "the file was opened again, and is intact");
                    (self.connection, self.flushes) = (Some(connection), None);
                }
                Err(error) => tracing::error!(%error, "the file cannot be opened again"),
            }
        }
        self.shared.lock().failing = false;
    }

    /// Waits for a while. Returns `true` if the writer ends.
    fn pause(&self) -> bool {
        let state = self.shared.lock();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, self.options.pause, |state| !state.ended);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        if state.ended {
            state.bytes = 0;
            state.requests.clear();
        }
        state.ended
    }
}

/// Returns a copy of an error of SQLite, for each request of a batch.
pub fn copy_of(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => {
            rusqlite::Error::SqliteFailure(*code, text.clone())
        }
        other => rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
            Some(other.to_string()),
        ),
    }
}
