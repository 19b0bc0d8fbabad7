//! Jobs of the state file: closures that the writer executes. Each has its own
//! savepoint: a job that fails does not undo the others of its batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};

use rusqlite::{Connection, Transaction};

use hookward_runtime::sqlite::writer::{Work, copy_of};
use hookward_runtime::sqlite::{self, SqliteError};

use crate::storage::STATE_SCHEMA;

/// A job, with the sender of its result.
pub(super) type Job = Box<dyn AnyJob>;

/// Job with any result.
pub(super) trait AnyJob: Send {
    fn writes(&self) -> bool;
    fn execute(&mut self, db: &mut Transaction<'_>) -> rusqlite::Result<()>;
    /// Sends the result; `failed` is the error of the transaction.
    fn reply(self: Box<Self>, failed: Option<rusqlite::Error>);
}

struct TypedJob<T, F> {
    work: Option<F>,
    writes: bool,
    result: Option<rusqlite::Result<T>>,
    reply: SyncSender<rusqlite::Result<T>>,
    /// Held by the caller; the job is cancelled once it is gone.
    caller: Weak<()>,
}

impl<T, F> TypedJob<T, F> {
    /// Returns `true` if the caller has given up: it must not learn of a failure that was none.
    fn is_cancelled(&self) -> bool {
        self.caller.strong_count() == 0
    }
}

/// Result of a job. Dropping it cancels a job that was not executed.
pub(super) struct JobResult<T> {
    pub(super) receiver: Receiver<rusqlite::Result<T>>,
    _caller: Arc<()>,
}

/// Creates a job, and its result.
pub(super) fn job<T, F>(writes: bool, work: F) -> (Job, JobResult<T>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let (reply, receiver) = sync_channel(1);
    let caller = Arc::new(());
    let job = TypedJob {
        work: Some(work),
        writes,
        result: None,
        reply,
        caller: Arc::downgrade(&caller),
    };
    let result = JobResult {
        receiver,
        _caller: caller,
    };
    (Box::new(job), result)
}

impl<T, F> AnyJob for TypedJob<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn writes(&self) -> bool {
        self.writes
    }

    fn execute(&mut self, db: &mut Transaction<'_>) -> rusqlite::Result<()> {
        let Some(work) = self.work.take().filter(|_| !self.is_cancelled()) else {
            return Ok(());
        };

        let mut savepoint = db.savepoint()?;
        // A job that panics fails alone, and the thread goes on.
        let result = catch_unwind(AssertUnwindSafe(|| work(&savepoint)));
        let result = result.unwrap_or_else(|_| Err(panicked()));
        let is_ok = result.is_ok();
        self.result = Some(result);

        // Some errors, such as a full disk, end the whole transaction.
        if savepoint.is_autocommit() {
            return Err(rolled_back());
        }
        if !is_ok {
            savepoint.rollback()?;
        }
        savepoint.commit()
    }

    fn reply(self: Box<Self>, failed: Option<rusqlite::Error>) {
        let result = match (failed, self.result) {
            (None, Some(result)) | (Some(_), Some(result @ Err(_))) => result,
            (Some(error), _) => Err(error),
            // A job that was not executed: its receiver sees a closed channel.
            (None, None) => return,
        };
        // A caller that has left needs no result.
        let _ = self.reply.send(result);
    }
}

fn panicked() -> rusqlite::Error {
    aborted("the job panicked; the log has the cause")
}

fn rolled_back() -> rusqlite::Error {
    aborted("SQLite rolled the transaction back")
}

fn aborted(text: &str) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT);
    rusqlite::Error::SqliteFailure(code, Some(text.to_owned()))
}

/// Work of the state file's writer.
pub(super) struct StateJobs(pub(super) PathBuf);

impl Work for StateJobs {
    type Request = Job;
    type Replies = ();

    fn writes(&self, job: &Job) -> bool {
        job.writes()
    }

    fn execute(&mut self, db: &mut Transaction<'_>, batch: &mut [Job]) -> rusqlite::Result<()> {
        batch.iter_mut().try_for_each(|job| job.execute(db))
    }

    fn committed(&mut self, batch: Vec<Job>, (): ()) {
        batch.into_iter().for_each(|job| job.reply(None));
    }

    fn failed(&mut self, batch: Vec<Job>, error: &rusqlite::Error) -> Vec<Job> {
        for job in batch {
            job.reply(Some(copy_of(error)));
        }
        Vec::new()
    }

    fn reopen(&mut self) -> Result<Connection, SqliteError> {
        sqlite::open(&self.0, &STATE_SCHEMA)
    }
}
