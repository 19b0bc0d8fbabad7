//! A claim that is released unless it is confirmed.

use super::sqlite::{ClaimKey, SqliteDeliveries};

/// A claim that is released unless it is confirmed.
pub(crate) struct ClaimGuard {
    pub(super) store: SqliteDeliveries,
    pub(super) holder: i64,
    pub(super) key: Option<ClaimKey>,
}

impl ClaimGuard {
    /// Confirms that the delivery was answered 2xx. Waits until that is committed.
    pub(crate) async fn confirm(mut self) {
        if let Some(key) = self.key.take() {
            self.store.confirm_claim(key, self.holder).await;
        }
    }

    /// Returns key and holder, if the claim is held.
    pub(super) fn held(&self) -> Option<(ClaimKey, i64)> {
        self.key.map(|key| (key, self.holder))
    }

    /// Keeps the claim as it is: the commit of its webhook has confirmed it.
    pub(super) fn forget(mut self) {
        self.key = None;
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.store.release_claim(key, self.holder);
        }
    }
}
