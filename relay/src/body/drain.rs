//! A body on its way in that nobody may want to its end. Over HTTP/1.1 `stall` reads what is left.
//! Over HTTP/2 a body that is dropped resets its stream, which RFC 9113 §8.1 allows behind a whole
//! answer; but curl 7.88 (Debian 12) then loses the answer, too. So a small rest is read, and
//! thrown away.

use std::time::Duration;

use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// The body, and who reads what is left of it.
pub(crate) struct DrainOnDrop {
    incoming: Option<Incoming>,
    tasks: Option<TaskTracker>,
}

impl DrainOnDrop {
    /// A body whose rest is read by a task of these, or by nobody.
    #[must_use]
    pub(crate) const fn new(incoming: Incoming, tasks: Option<TaskTracker>) -> Self {
        Self {
            incoming: Some(incoming),
            tasks,
        }
    }

    /// The next frame; `None` at the end.
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

/// Most bytes that are read for nothing: what a stream may have under way towards us.
const MAX_DRAIN_BYTES: usize = 256 * 1024;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
