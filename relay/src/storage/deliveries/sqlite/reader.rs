//! A thread with a connection that only reads, so that reads do not wait for commits.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_runtime::sqlite;
use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::steady_time::SteadyTime;
use crate::storage::StorageError;

type ReadJob = Box<dyn FnOnce(&Connection, UnixMillis) + Send>;

/// Handle of the thread. The thread ends with it.
pub(super) struct Reader {
    jobs: SyncSender<ReadJob>,
    path: PathBuf,
}

impl Reader {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn start(path: &Path, time: SteadyTime) -> Result<Self, StorageError> {
        let (jobs, waiting) = sync_channel(QUEUE_LENGTH);
        let connection = sqlite::open_to_read(path).map_err(StorageError::Deliveries)?;
        // Maps the index of the log, so that a failed transaction stays invisible after a recovery.
        connection
            .query_row("SELECT count(*) FROM tunnels", [], |_| Ok(()))
            .map_err(|error| StorageError::Deliveries(sqlite::failed(path)(error)))?;
        std::thread::Builder::new()
            .name("deliveries-read".to_owned())
            .spawn(move || run(&connection, &waiting, &time))
            .map_err(|source| StorageError::Thread {
                path: path.to_owned(),
                source,
            })?;

        Ok(Self {
            jobs,
            path: path.to_owned(),
        })
    }

    /// Runs a short query.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection, UnixMillis) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (answer, answered) = oneshot::channel();
        let job: ReadJob = Box::new(move |db, now| {
            // A request that was dropped has no use for its result.
            let _ = answer.send(read(db, now));
        });
        let busy = || StorageError::Timeout {
            path: self.path.clone(),
        };
        self.jobs.try_send(job).map_err(|_| busy())?;

        match timeout(READ_TIMEOUT, answered).await {
            Ok(Ok(result)) => {
                result.map_err(|error| StorageError::Deliveries(sqlite::failed(&self.path)(error)))
            }
            Ok(Err(_)) => Err(StorageError::Stopping),
            Err(_) => Err(busy()),
        }
    }
}

/// Maximum number of queries that wait.
const QUEUE_LENGTH: usize = 1024;

/// Maximum wait for a query.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

fn run(connection: &Connection, jobs: &Receiver<ReadJob>, time: &SteadyTime) {
    while let Ok(job) = jobs.recv() {
        job(connection, time.now());
    }
}
