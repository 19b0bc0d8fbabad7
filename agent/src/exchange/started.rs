//! Which requests the application may have heard of: a request that the relay gives again, after a
//! connection was lost, must not reach it twice.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::limits::RETRY_WINDOW;
use hookward_tunnel::protocol::head::RequestId;

/// Requests that were begun.
#[derive(Default)]
pub(crate) struct StartedRequests {
    // A std mutex: it guards two small collections, and nothing waits while it is held.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: HashSet<RequestId>,
    order: VecDeque<(Instant, RequestId)>,
}

impl StartedRequests {
    /// Notes that a request begins; `false` when it began before.
    pub(crate) fn try_start(&self, id: RequestId) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();

        while let Some((at, old)) = inner.order.front().copied() {
            if now.duration_since(at) < REMEMBER_FOR && inner.order.len() < MAX_REQUESTS {
                break;
            }
            inner.order.pop_front();
            inner.known.remove(&old);
        }

        let new = inner.known.insert(id);
        if new {
            inner.order.push_back((now, id));
        }

        new
    }
}

/// A relay gives a request again within [`RETRY_WINDOW`] of its begin, and the tunnel takes some
/// time: the relay's deadlines for a write and for the reading of a body are of minutes.
const REMEMBER_FOR: Duration = Duration::from_secs(5 * RETRY_WINDOW.as_secs());

/// Requests that are remembered at most, some 80 bytes each: half a minute at the fastest that was
/// measured. Beyond it the oldest are forgotten first.
const MAX_REQUESTS: usize = 256 * 1024;
