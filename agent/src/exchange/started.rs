//! Requests that the application may have received. A request that the relay sends again after a
//! lost connection must not reach it twice.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::limits::RETRY_WINDOW;
use hookward_tunnel::protocol::head::RequestId;

/// Requests that were started.
#[derive(Default)]
pub(crate) struct StartedRequests {
    // A std mutex: it guards two small collections, and nothing waits while it is held.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    known: HashSet<RequestId>,
    order: VecDeque<(Instant, RequestId)>,
    /// Highest generation of the ownership of deliveries, by host.
    epochs: HashMap<Arc<str>, u64>,
}

impl StartedRequests {
    /// Records the start of a request. Returns `false` if it was started before.
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

impl StartedRequests {
    /// Returns `true` if no later owner of the host's deliveries is known. The agent serves few
    /// hosts, so the map stays small.
    pub(crate) fn admits_epoch(&self, host: &Arc<str>, epoch: u64) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let known = inner.epochs.entry(Arc::clone(host)).or_default();
        *known = epoch.max(*known);
        *known == epoch
    }
}

/// Time for which a started request is remembered. A relay sends a request again within
/// [`RETRY_WINDOW`], and its deadlines for writes and for reading a body add minutes.
const REMEMBER_FOR: Duration = Duration::from_secs(5 * RETRY_WINDOW.as_secs());

/// Maximum number of remembered requests, some 80 bytes each: half a minute at the highest measured
/// rate. Beyond it, the oldest are dropped.
const MAX_REQUESTS: usize = 256 * 1024;
