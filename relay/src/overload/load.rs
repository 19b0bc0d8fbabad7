//! How many requests a session has under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A session's load.
#[derive(Default)]
pub struct SessionLoad {
    under_way: AtomicUsize,
    /// Told when nothing is under way any more.
    idle: Notify,
}

/// A request that a session has under way.
pub struct LoadGuard(Arc<SessionLoad>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_one();
        }
    }
}

impl SessionLoad {
    /// Counts one more.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> LoadGuard {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }

    /// Requests under way.
    #[must_use]
    pub fn count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Resolves when no request is under way.
    pub async fn idle(&self) {
        while self.count() > 0 {
            self.idle.notified().await;
        }
    }
}
