//! Test of whether storage commits, for the readiness.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::clock::UnixMillis;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::storage::Store;

/// Time for a commit, before storage counts as failing.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Test commit to the state file, whose result holds for a while: a load balancer asks often.
pub(crate) struct StorageProbe {
    running: Semaphore,
    // A std mutex: it guards the last result, and nothing waits while it is held.
    last: Mutex<Option<(Instant, Option<String>)>>,
}

/// Time for which the result of a test commit holds.
const PROBE_AGE: Duration = Duration::from_secs(5);

impl StorageProbe {
    pub(crate) const fn new() -> Self {
        Self {
            running: Semaphore::const_new(1),
            last: Mutex::new(None),
        }
    }

    /// Returns the reason why a commit fails, if it does.
    pub(super) async fn failure(&self, store: &Store, now: UnixMillis) -> Option<String> {
        // One commit at a time: further callers wait for its result.
        let _running = self.running.acquire().await;
        if let Some((at, failure)) = &*self.lock()
            && at.elapsed() < PROBE_AGE
        {
            return failure.clone();
        }

        let committing = store.run(move |store| store.test_commit(now));
        let failure = match timeout(COMMIT_TIMEOUT, committing).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("a commit takes too long".to_owned()),
        };
        *self.lock() = Some((Instant::now(), failure.clone()));
        failure
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Option<String>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
