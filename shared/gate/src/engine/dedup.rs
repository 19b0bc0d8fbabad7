//! Deduplication: the identity of a delivery, and the response to a duplicate.
//!
//! The gate computes the identity. The relay claims it atomically in its store, and passes the
//! result to the gate. A claim is released unless the response is 2xx, so that the sender may
//! retry.

use sha2::{Digest as _, Sha256};

use crate::policy::{OnDuplicate, ReplayProtection};

/// Key of a delivery: a digest of the route and the delivery's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey(pub [u8; 32]);

/// A delivery that must be claimed before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryClaim {
    /// Key of the delivery.
    pub key: DeliveryKey,
    /// Time for which the delivery is remembered, in milliseconds.
    pub window_ms: u64,
    /// Response to a duplicate.
    pub on_duplicate: OnDuplicate,
}

/// Result of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// The delivery is new, and now remembered.
    New,
    /// The delivery was accepted before.
    Duplicate,
    /// The store cannot decide: the delivery is refused for now.
    Pending,
}

impl DeliveryClaim {
    /// Creates the claim of a delivery on a route.
    #[must_use]
    pub(crate) fn new(route: &str, identity: &[Vec<u8>], replay: ReplayProtection) -> Self {
        let mut digest = Sha256::new();
        for part in std::iter::once(route.as_bytes()).chain(identity.iter().map(Vec::as_slice)) {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }

        Self {
            key: DeliveryKey(digest.finalize().into()),
            window_ms: replay.window_ms,
            on_duplicate: replay.on_duplicate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_one_of_its_route() {
        let replay = ReplayProtection {
            on_duplicate: OnDuplicate::Refuse,
            window_ms: 1000,
        };
        let key = |route: &str, identity: &[&str]| {
            let identity: Vec<_> = identity
                .iter()
                .map(|part| part.as_bytes().to_vec())
                .collect();
            DeliveryClaim::new(route, &identity, replay).key
        };
        assert_eq!(key("a", &["x"]), key("a", &["x"]));

        assert_ne!(key("a", &["x"]), key("b", &["x"]));
        assert_ne!(key("a", &["xy"]), key("a", &["x", "y"]));
        assert_ne!(key("ax", &["y"]), key("a", &["xy"]));
    }
}
