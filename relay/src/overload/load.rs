//! Number of requests in flight of a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

#[derive(Default)]
pub(crate) struct SessionLoad {
    in_flight: AtomicUsize,
    /// Notified when no request is in flight.
    idle: Notify,
}

/// Guard of a request in flight.
pub(crate) struct LoadGuard(Arc<SessionLoad>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle.notify_one();
        }
    }
}

impl SessionLoad {
    #[must_use]
    pub(crate) fn begin(self: &Arc<Self>) -> LoadGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }

    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Resolves when no request is in flight.
    pub(crate) async fn idle(&self) {
        while self.count() > 0 {
            self.idle.notified().await;
        }
    }
}
