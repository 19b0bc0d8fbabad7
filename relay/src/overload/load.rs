//! How many requests a session has under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A session's load.
#[derive(Default)]
pub struct Load {
    under_way: AtomicUsize,
    /// Told when nothing is under way any more.
    idle: Notify,
}

/// A request that a session has under way.
pub struct UnderWay(Arc<Load>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_one();
        }
    }
}

impl Load {
    /// Counts one more.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
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
