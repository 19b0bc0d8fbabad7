//! Public keys that the relay fetched for one request.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::url::HttpsUrl;

/// Fetched public keys, by URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchedKeys(pub BTreeMap<HttpsUrl, Arc<[u8]>>);

impl FetchedKeys {
    /// Returns an empty set.
    #[must_use]
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }
}
