//! Jobs of the state file: closures that the writer executes. Each has a savepoint of its own, so
//! that a job that fails does not undo the others of its batch.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::{Connection, Transaction};

use crate::storage::writer::{Work, copy_of};

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
}

/// Creates a job, and the receiver of its result.
pub(super) fn job<T, F>(writes: bool, work: F) -> (Job, Receiver<rusqlite::Result<T>>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let (reply, receiver) = sync_channel(1);
    let job = TypedJob {
        work: Some(work),
        writes,
        result: None,
        reply,
    };
    (Box::new(job), receiver)
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
        let Some(work) = self.work.take() else {
            return Ok(());
        };

        let savepoint = db.savepoint()?;
        let result = work(&savepoint);
        // Dropping a savepoint rolls it back.
        if result.is_ok() {
            savepoint.commit()?;
        }
        self.result = Some(result);
        Ok(())
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

/// Work of the state file's writer.
pub(super) struct StateJobs;

impl Work for StateJobs {
    type Request = Job;
    type Replies = ();

    fn writes(&self, batch: &[Job]) -> bool {
        batch.iter().any(|job| job.writes())
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
}
