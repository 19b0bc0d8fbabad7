//! What the relay refused, on its way to the tunnel's owner: a bounded queue. Up to so many a second
//! are told one by one, the rest as counts by check, so that a flood of strangers neither fills
//! memory nor the owner's screen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_shared::protocol::control::{FromRelay, RefusedRequest};
use hookward_shared::refusal::Check;
use tokio::sync::Notify;

/// The span in which refusals are counted.
const WINDOW: Duration = Duration::from_secs(1);
/// Refusals are sent together that come within this time.
const GATHER: Duration = Duration::from_millis(50);

/// The queue; clones share it.
#[derive(Clone)]
pub struct Refusals {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    inner: Arc<Mutex<Inner>>,
    news: Arc<Notify>,
    most: usize,
}

struct Inner {
    /// When the last ones were told: at most as many as may be told within [`WINDOW`].
    recent: VecDeque<Instant>,
    told: Vec<RefusedRequest>,
    counted: BTreeMap<Check, u64>,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.told.is_empty() && self.counted.is_empty()
    }
}

impl Refusals {
    /// A queue that tells at most this many a second.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let inner = Inner { recent: VecDeque::new(), told: Vec::new(), counted: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)), news: Arc::new(Notify::new()), most }
    }

    /// Notes a refusal. `describe` is only called when it will be told.
    pub fn push(&self, check: Check, describe: impl FnOnce() -> RefusedRequest) {
        let mut inner = self.lock();
        while inner.recent.front().is_some_and(|at| at.elapsed() >= WINDOW) {
            inner.recent.pop_front();
        }
        if inner.recent.len() < self.most {
            inner.recent.push_back(Instant::now());
            inner.told.push(describe());
        } else {
            *inner.counted.entry(check).or_insert(0) += 1;
        }
        drop(inner);
        self.news.notify_one();
    }

    /// Waits for refusals and takes them, as the message that tells them. Cancelling it loses
    /// nothing.
    pub async fn next_message(&self) -> FromRelay {
        // Asked first: whoever was cancelled here before has taken the news, but not the refusals.
        while self.lock().is_empty() {
            self.news.notified().await;
        }
        tokio::time::sleep(GATHER).await;
        let mut inner = self.lock();
        let told = std::mem::take(&mut inner.told);
        let counted = std::mem::take(&mut inner.counted).into_iter().collect();
        FromRelay::Refusals { told, counted }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
            why: String::new(),
            ms: 0,
            observed: false,
            answered: false,
        }
    }

    #[tokio::test]
    async fn a_flood_becomes_counts() {
        let refusals = Refusals::new(20);
        for n in 0..1000 {
            refusals.push(Check::Token, || refused(n));
        }
        let FromRelay::Refusals { told, counted } = refusals.next_message().await else { unreachable!() };
        assert_eq!(told.len() as u64 + counted.iter().map(|(_, n)| n).sum::<u64>(), 1000);
        assert!(told.len() < 100, "{}", told.len());
    }

    #[tokio::test]
    async fn cancelling_loses_nothing() {
        let refusals = Refusals::new(20);
        refusals.push(Check::Token, || refused(1));
        assert!(tokio::time::timeout(GATHER / 2, refusals.next_message()).await.is_err());
        let FromRelay::Refusals { told, .. } = refusals.next_message().await else { unreachable!() };
        assert_eq!(told.len(), 1);
    }
}
