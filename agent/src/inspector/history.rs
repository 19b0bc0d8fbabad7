//! History of captured requests: a SQLite file in the state directory, bounded by number, size and
//! age. Several agents may use it. A power loss may undo the last commits.

mod read;
mod write;

use super::message::StoredMessage;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::clock::{Clock, UnixMillis};
use hookward_gate::engine::explain::Explanation;
use hookward_runtime::sqlite::writer::{Writer, WriterOptions, WriterQueue};
use hookward_runtime::sqlite::{self, Durability, Schema, SqliteError};
use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_blocking;
use uuid::Uuid;

pub(crate) use self::read::{Activity, Detail, Page, Summary};
use self::write::{HistoryWork, Request};
use super::capture::{Charge, Dropped, Source, Timing};

/// Maximum number and size in bytes of the requests in the history that a check refused. They have
/// their own bounds, because a stranger could otherwise displace all others.
const KEPT_REFUSED: (i64, i64) = (2_500, 32 * 1024 * 1024);

/// Maximum number and size in bytes of all other requests.
const KEPT_OTHERS: (i64, i64) = (7_500, 96 * 1024 * 1024);

/// Maximum age of a request in the history, in milliseconds: a week.
const KEPT_MS: u64 = 7 * 86_400_000;

/// Maximum number of batches that wait for a commit.
const QUEUE_LENGTH: usize = 64;

/// Pause after a failed commit.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Interval at which old requests are removed without new ones.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum time of a query.
const READ_TIME: Duration = Duration::from_secs(5);

/// Number of steps of SQLite's virtual machine between two looks at the time.
const STEPS: i32 = 10_000;

/// Maximum size of the records in one commit, in bytes.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Maximum wait for a change that the user requests.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum wait for a request that was just sent.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(3);

/// A captured request to keep, without secrets.
pub(super) struct Record {
    /// Time of receipt.
    pub at: UnixMillis,
    /// Request id, in hexadecimal digits.
    pub id: String,
    pub by: RecordedBy,
    pub tunnel: String,
    pub client: String,
    /// Method and path, escaped.
    pub method: String,
    pub path: String,
    pub verdict: &'static str,
    pub status: Option<u16>,
    pub check: Option<String>,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub route: Option<String>,
    pub provider: Option<String>,
    pub event: Option<String>,
    pub delivery: Option<Uuid>,
    pub source: Source,
    pub timing: Timing,
    pub request: StoredMessage,
    pub response: Option<StoredMessage>,
    pub explanation: Option<Explanation>,
    /// Memory of the request, until it is written.
    pub _charge: Option<Charge>,
}

/// Program whose verdict a record has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordedBy {
    Agent,
    Relay,
}

/// Failure to read or change the history.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The file failed.
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    /// The writer did not answer.
    #[error("the history did not answer within {} s", CHANGE_TIMEOUT.as_secs())]
    Timeout,
    /// The file cannot be written.
    #[error("the history cannot be written; the agent's log has the reason")]
    NotWritten,
    /// The query took too long.
    #[error("the query took more than {} s; name more in the filter", READ_TIME.as_secs())]
    Slow,
    /// The program stops.
    #[error("the agent is stopping")]
    Stopping,
}

/// The history; clones share it.
#[derive(Clone)]
pub(crate) struct History {
    path: Arc<PathBuf>,
    queue: HistoryQueue,
    /// Number of the newest request that was committed by this process.
    newest: watch::Receiver<i64>,
    /// Dropped last, so that it commits what waits.
    _writer: Arc<Writer<Request>>,
}

/// Queue of the writer.
#[derive(Clone)]
pub(super) struct HistoryQueue {
    writer: WriterQueue<Request>,
    dropped: Dropped,
}

impl HistoryQueue {
    /// Inserts records. If too many wait, or the file cannot be written, they are lost and counted.
    pub(super) fn insert(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let request = Request::Insert(records);
        if let Err(Request::Insert(records)) = self.writer.try_push(request, QUEUE_LENGTH) {
            self.dropped.add(records.len() as u64);
        }
    }
}

/// Opens the file. Sets a damaged one aside, and makes an empty one.
fn open_or_set_aside(path: &Path, clock: &Clock) -> Result<(Connection, i64), SqliteError> {
    match open_checked(path) {
        Err(error) if error.is_damage() => {
            let aside = sqlite::set_aside(path, clock.now())?;
            tracing::warn!(
                %error,
                kept_as = %aside.display(),
                "the history of requests is damaged; made an empty one"
            );
            open_checked(path)
        }
        opened => opened,
    }
}

/// Opens the file, checks it, and returns it with the number of its newest request.
fn open_checked(path: &Path) -> Result<(Connection, i64), SqliteError> {
    let connection = sqlite::open(path, &SCHEMA)?;
    let check = || {
        sqlite::check(&connection)?;
        // What is deleted must not stay in free pages.
        connection.pragma_update(None, "secure_delete", true)?;
        let newest = "SELECT ifnull(max(number), 0) FROM requests";
        connection.query_row(newest, [], |row| row.get(0))
    };
    let newest = check().map_err(sqlite::failed(path))?;
    Ok((connection, newest))
}

impl History {
    /// Opens the history in a file. Sets a damaged file aside.
    ///
    /// # Errors
    /// [`SqliteError`].
    pub(super) fn open(path: &Path, clock: Clock, dropped: Dropped) -> Result<Self, SqliteError> {
        let (connection, newest) = open_or_set_aside(path, &clock)?;
        let (committed, newest) = watch::channel(newest);
        let options = WriterOptions {
            name: "history",
            path: path.to_owned(),
            batch: QUEUE_LENGTH,
            batch_bytes: BATCH_BYTES,
            idle: Some(SWEEP_INTERVAL),
            pause: RETRY_PAUSE,
            flush_on_demand: false,
        };
        let work = HistoryWork::new(path.to_owned(), clock, committed, dropped.clone());
        let writer = Writer::start(connection, work, options)?;
        Ok(Self {
            path: Arc::new(path.to_owned()),
            queue: HistoryQueue {
                writer: writer.queue().clone(),
                dropped,
            },
            newest,
            _writer: Arc::new(writer),
        })
    }

    /// Returns the queue of the writer.
    pub(super) fn queue(&self) -> HistoryQueue {
        self.queue.clone()
    }

    /// Waits until a request with this id is in the history. Returns its number.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn arrival(&self, id: &str) -> Result<Option<i64>, HistoryError> {
        let mut newest = self.newest();
        let arrival = async {
            loop {
                newest.mark_unchanged();
                if let Some(number) = self.number_of(id.to_owned()).await? {
                    return Ok(Some(number));
                }
                if newest.changed().await.is_err() {
                    return Err(HistoryError::Stopping);
                }
            }
        };
        let arrived = tokio::time::timeout(ARRIVAL_TIMEOUT, arrival).await;
        arrived.unwrap_or(Ok(None))
    }

    /// Returns a receiver of the number of the newest request.
    pub(crate) fn newest(&self) -> watch::Receiver<i64> {
        self.newest.clone()
    }

    /// Removes all requests. Returns their number.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn clear(&self) -> Result<u64, HistoryError> {
        let (answer, answered) = oneshot::channel();
        self.queue.writer.push(Request::Clear(answer));
        match tokio::time::timeout(CHANGE_TIMEOUT, answered).await {
            Ok(Ok(Some(count))) => Ok(count),
            Ok(Ok(None)) => Err(HistoryError::NotWritten),
            Ok(Err(_)) => Err(HistoryError::Stopping),
            Err(_) => Err(HistoryError::Timeout),
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let path = Arc::clone(&self.path);
        let reading = spawn_blocking(move || {
            let mut connection = sqlite::open_to_read(&path)?;
            let deadline = Instant::now() + READ_TIME;
            let is_late = move || Instant::now() > deadline;
            let limited = connection.progress_handler(STEPS, Some(is_late));
            limited
                .and_then(|()| read(&connection))
                .map_err(sqlite::failed(&path))
        });
        match reading.await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(SqliteError::Database { source, .. })) if is_interrupted(&source) => {
                Err(HistoryError::Slow)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(HistoryError::Stopping),
        }
    }
}

fn is_interrupted(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}

/// Schema of the file.
const SCHEMA: Schema = Schema {
    durability: Durability::Process,
    incremental_vacuum: true,
    migrations: &[
        |db| {
            db.execute_batch(
                "
            CREATE TABLE requests (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                at_ms INTEGER NOT NULL,
                id TEXT NOT NULL,                    -- request id
                by TEXT NOT NULL,                    -- program of the verdict: agent or relay
                tunnel TEXT NOT NULL,
                client TEXT NOT NULL,
                method TEXT NOT NULL,
                path TEXT NOT NULL,                  -- without the query
                verdict TEXT NOT NULL,
                status INTEGER,
                check_name TEXT,
                code TEXT,
                reason TEXT,
                route TEXT,
                provider TEXT,
                event TEXT,
                delivery TEXT,                       -- id of a stored delivery
                source TEXT NOT NULL,                -- sender, again or sample
                again_of INTEGER,                    -- number of the request that was sent again
                receive_us INTEGER,                  -- at the relay
                relay_us INTEGER,                    -- at the relay
                gate_us INTEGER,
                application_us INTEGER,
                total_us INTEGER NOT NULL,
                size INTEGER NOT NULL                -- of the row in `messages`
            ) STRICT;
            CREATE INDEX requests_by_time ON requests (at_ms);
            CREATE INDEX requests_by_id ON requests (id);
            CREATE INDEX requests_by_delivery ON requests (delivery) WHERE delivery IS NOT NULL;
            CREATE TABLE messages (
                number INTEGER PRIMARY KEY,
                request_head BLOB NOT NULL,
                request_body BLOB NOT NULL,
                request_bytes INTEGER NOT NULL,      -- size of the whole body
                request_is_whole INTEGER NOT NULL,
                request_is_redacted INTEGER NOT NULL,
                response_head BLOB,                  -- null without a response
                response_body BLOB,
                response_bytes INTEGER,
                response_is_whole INTEGER,
                response_is_redacted INTEGER,
                explanation TEXT                     -- JSON
            ) STRICT;
            CREATE INDEX requests_by_verdict ON requests (verdict = 'refused', number);
            CREATE TABLE usage (
                is_refused INTEGER PRIMARY KEY,
                requests INTEGER NOT NULL,
                bytes INTEGER NOT NULL
            ) STRICT;
            INSERT INTO usage VALUES (0, 0, 0), (1, 0, 0);
            CREATE TRIGGER added AFTER INSERT ON requests BEGIN
                UPDATE usage SET requests = requests + 1, bytes = bytes + new.size
                    WHERE is_refused = (new.verdict = 'refused');
            END;
            CREATE TRIGGER removed AFTER DELETE ON requests BEGIN
                UPDATE usage SET requests = requests - 1, bytes = bytes - old.size
                    WHERE is_refused = (old.verdict = 'refused');
                DELETE FROM messages WHERE number = old.number;
            END;
            ",
            )
        },
        |db| {
            // Round-trip time between relay and agent.
            db.execute_batch("ALTER TABLE requests ADD COLUMN tunnel_us INTEGER")
        },
    ],
};
