//! Deliveries that came before: what identifies one, and what happens when it comes again.
//!
//! The gate names the delivery; the relay claims it atomically in its store and tells the gate the
//! outcome. A claim is given back when the answer was not 2xx, so that a sender may try again.

use sha2::{Digest as _, Sha256};

use crate::policy::{OnDuplicate, ReplayProtection};

/// Key of a delivery: a digest of the route and of the delivery's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryKey(pub [u8; 32]);

/// A delivery that must be claimed before it is forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryClaim {
    /// Key of the delivery.
    pub key: DeliveryKey,
    /// For how many milliseconds it is remembered.
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
    /// The store can't tell: the delivery is refused for now, and not taken for new.
    Pending,
}

impl DeliveryClaim {
    /// The claim of a delivery on a route.
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
