//! Ids of requests.

use std::sync::atomic::{AtomicU64, Ordering};

use hookward_tunnel::protocol::head::RequestId;
use sha2::{Digest as _, Sha256};

/// Generator of request ids: the digest of a process key and a counter. An id reveals neither the
/// number of requests nor later ids.
pub(crate) struct RequestIds {
    key: [u8; 32],
    next: AtomicU64,
}

impl RequestIds {
    /// Creates the generator of a process.
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub(crate) fn new() -> Result<Self, getrandom::Error> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self {
            key,
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn next(&self) -> RequestId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let digest = Sha256::new()
            .chain_update(self.key)
            .chain_update(count.to_be_bytes())
            .finalize();
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(digest) {
            *to = from;
        }

        RequestId(id)
    }
}
