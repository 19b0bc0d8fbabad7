//! Readiness of the relay: it can accept requests, and its storage commits.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::overview::Overview;
use super::status::HealthCheck;
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

/// Time for which a relay is not ready after `accept` failed: a load balancer must not send more
/// connections at once.
const EXHAUSTED_TIME: Duration = Duration::from_secs(10);

impl StorageProbe {
    pub(crate) const fn new() -> Self {
        Self {
            running: Semaphore::const_new(1),
            last: Mutex::new(None),
        }
    }

    /// Returns the reason why a commit fails, if it does.
    async fn failure(&self, store: &Store) -> Option<String> {
        // One commit at a time: further callers wait for its result.
        let _running = self.running.acquire().await;
        if let Some((at, failure)) = &*self.lock()
            && at.elapsed() < PROBE_AGE
        {
            return failure.clone();
        }

        let failure = match timeout(COMMIT_TIMEOUT, store.run(Store::test_commit)).await {
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

impl Overview {
    /// Returns `true` if the relay is ready, and its checks.
    pub(super) async fn health(&self) -> (bool, Vec<HealthCheck>) {
        let checks = vec![
            self.check_accept(),
            self.check_drain(),
            self.check_storage().await,
            self.check_audit(),
        ];
        (checks.iter().all(|check| check.is_ok), checks)
    }

    fn check_accept(&self) -> HealthCheck {
        let reason = "accept failed within the last 10 s: too few open files, or no memory";
        let is_exhausted = self.edge.was_exhausted(EXHAUSTED_TIME);
        check("accept", is_exhausted.then(|| reason.to_owned()))
    }

    fn check_drain(&self) -> HealthCheck {
        let is_draining = self.edge.draining.is_cancelled();
        let reason = "the relay is stopping";
        check("running", is_draining.then(|| reason.to_owned()))
    }

    async fn check_storage(&self) -> HealthCheck {
        check("storage", self.storage_probe.failure(&self.store).await)
    }

    fn check_audit(&self) -> HealthCheck {
        let audit = self.edge.observer.audit();
        let failure = audit.status().and_then(|status| status.failure);
        // A failing log that only counts its losses does not stop the relay.
        check("audit", failure.filter(|_| !audit.accepts()))
    }
}

fn check(name: &str, reason: Option<String>) -> HealthCheck {
    HealthCheck {
        name: name.to_owned(),
        is_ok: reason.is_none(),
        reason,
    }
}
