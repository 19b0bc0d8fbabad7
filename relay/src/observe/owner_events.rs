//! Queue of events for the tunnel's owner. It sends a bounded number of refusals a second one by
//! one and the rest as counts by check, so that a flood fills neither memory nor the owner's
//! screen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::quota::Quota;
use hookward_core::reason::Check;
use hookward_tunnel::protocol::control::{RefusedRequest, RelayMessage};
use tokio::sync::Notify;

/// The queue; clones share it.
#[derive(Clone)]
pub(crate) struct OwnerEvents {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

struct Inner {
    quota: Quota<Check>,
    /// Refusals for the next message, with their times.
    requests: Vec<(Instant, RefusedRequest)>,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.quota.is_empty()
    }
}

impl OwnerEvents {
    /// Creates a queue that sends up to `most` refusals a second one by one.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        let inner = Inner {
            quota: Quota::new(most),
            requests: Vec::new(),
        };

        Self {
            inner: Arc::new(Mutex::new(inner)),
            changed: Arc::new(Notify::new()),
        }
    }

    /// Records a refusal. Calls `describe` only if the refusal is sent in full.
    pub(crate) fn push(&self, check: Check, describe: impl FnOnce() -> RefusedRequest) {
        let mut inner = self.lock();
        if inner.quota.take(check) {
            inner.requests.push((Instant::now(), describe()));
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Waits for refusals and returns the message that reports them. Cancel-safe.
    pub(crate) async fn next_message(&self) -> RelayMessage {
        // Checked first: a call that was cancelled has consumed the notification, but not the
        // refusals.
        while self.lock().is_empty() {
            self.changed.notified().await;
        }

        // Counts can wait; a single refusal keeps its order among permitted requests.
        if self.lock().requests.is_empty() {
            tokio::time::sleep(GATHER_TIME).await;
        }

        let mut inner = self.lock();
        let ago = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let requests = std::mem::take(&mut inner.requests).into_iter();
        let requests = requests
            .map(|(since, refused)| RefusedRequest {
                age_ms: ago(since),
                ..refused
            })
            .collect();

        let counts = inner.quota.take_counted();
        RelayMessage::Refusals { requests, counts }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Time in which counts are combined.
const GATHER_TIME: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(n: usize) -> RefusedRequest {
        RefusedRequest {
            id: n.to_string(),
            host: String::new(),
            method: String::new(),
            path: String::new(),
            client: String::new(),
            status: 403,
            check: Check::Token,
            reason: String::new(),
            ms: 0,
            observed: false,
            answered: false,
            note: false,
            age_ms: 0,
            at_ms: 0,
            order: 0,
        }
    }

    #[tokio::test]
    async fn a_flood_becomes_counts() {
        let refusals = OwnerEvents::new(20);
        for n in 0..1000 {
            refusals.push(Check::Token, || refused(n));
        }

        let RelayMessage::Refusals { requests, counts } = refusals.next_message().await else {
            unreachable!()
        };
        assert_eq!(
            requests.len() as u64 + counts.iter().map(|(_, n)| n).sum::<u64>(),
            1000
        );
        assert!(requests.len() < 100, "{}", requests.len());
    }

    #[tokio::test]
    async fn cancelling_loses_nothing() {
        let refusals = OwnerEvents::new(0);
        refusals.push(Check::Token, || refused(1));
        assert!(
            tokio::time::timeout(GATHER_TIME / 2, refusals.next_message())
                .await
                .is_err()
        );

        let RelayMessage::Refusals { counts, .. } = refusals.next_message().await else {
            unreachable!()
        };
        assert_eq!(counts, [(Check::Token, 1)]);
    }
}
