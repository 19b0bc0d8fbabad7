//! A claim that is released unless it is confirmed.

use super::{COMMIT_TIMEOUT, DedupRequest, DeliveryDedup, Key};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A claim that is released unless it is confirmed.
pub(crate) struct ClaimGuard {
    pub(super) dedup: DeliveryDedup,
    pub(super) holder: i64,
    pub(super) key: Option<Key>,
}

impl ClaimGuard {
    /// Confirms that the delivery was answered 2xx. Waits until that is on disk.
    pub(crate) async fn confirm(mut self) {
        let Some(key) = self.key.take() else { return };
        let (answer, answered) = oneshot::channel();
        self.dedup.queue.push(DedupRequest::Confirm {
            key,
            holder: self.holder,
            answer,
        });

        // If the disk fails, the confirmation stays queued, and the sender gets its response.
        if timeout(COMMIT_TIMEOUT, answered).await.is_err() {
            tracing::warn!(
                "deduplication file: a commit takes too long; one delivery is not yet on disk"
            );
        }
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.dedup.queue.push(DedupRequest::Release {
                key,
                holder: self.holder,
            });
        }
    }
}
