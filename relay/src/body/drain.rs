//! Reads the rest of a request body that is not needed. Over HTTP/1.1 `stall` does so. Over HTTP/2,
//! dropping a body resets its stream. RFC 9113 §8.1 allows that after a complete response, but curl
//! 7.88 (Debian 12) then discards the response. So the relay reads and discards a short rest.

use std::time::Duration;

use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// A request body whose rest is read when it is dropped.
pub(crate) struct DrainOnDrop {
    incoming: Option<Incoming>,
    tasks: Option<TaskTracker>,
}

impl DrainOnDrop {
    /// Wraps a body. A task of `tasks` reads its rest; without `tasks`, the rest is dropped.
    #[must_use]
    pub(crate) const fn new(incoming: Incoming, tasks: Option<TaskTracker>) -> Self {
        Self {
            incoming: Some(incoming),
            tasks,
        }
    }

    /// Returns the next frame, or `None` at the end.
    pub(crate) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        self.incoming.as_mut()?.frame().await
    }

    /// Returns the known length of the rest.
    #[must_use]
    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming
            .as_ref()
            .map(|incoming| incoming.size_hint())
            .unwrap_or_default()
    }

    /// Returns `true` if nothing is left.
    #[must_use]
    pub(crate) fn is_end_stream(&self) -> bool {
        self.incoming
            .as_ref()
            .is_none_or(|incoming| incoming.is_end_stream())
    }
}

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        let (Some(mut incoming), Some(tasks)) = (self.incoming.take(), self.tasks.take()) else {
            return;
        };
        if incoming.is_end_stream() || incoming.size_hint().lower() > MAX_DRAIN_BYTES as u64 {
            return;
        }

        tasks.spawn(timeout(DRAIN_TIMEOUT, async move {
            let mut left = MAX_DRAIN_BYTES;
            while let Some(Ok(frame)) = incoming.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        }));
    }
}

/// Maximum number of bytes to discard: what a peer may have in flight on one stream.
const MAX_DRAIN_BYTES: usize = 256 * 1024;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
