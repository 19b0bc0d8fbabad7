//! Slots counted by client address (IPv6: its /64), so that no client takes all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hookward_core::address::source;

/// Slots in use by client; clones share the count.
#[derive(Clone, Default)]
pub(crate) struct PerClientLimiter {
    // A std mutex: it guards counters, and nothing waits while it is held.
    by_source: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// Slot of a client; dropping it frees it.
pub(crate) struct ClientSlot {
    limiter: PerClientLimiter,
    source: IpAddr,
}

impl PerClientLimiter {
    /// Acquires a slot, unless this address has `most` already.
    #[must_use]
    pub(crate) fn try_acquire(&self, client: IpAddr, most: usize) -> Option<ClientSlot> {
        let source = source(client);
        let mut by_source = self.lock();
        let taken = by_source.entry(source).or_insert(0);
        if *taken >= most {
            return None;
        }

        *taken += 1;
        drop(by_source);
        Some(ClientSlot {
            limiter: self.clone(),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_source
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut by_source = self.limiter.lock();
        if let Some(taken) = by_source.get_mut(&self.source) {
            *taken -= 1;
            if *taken == 0 {
                by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_source_and_freed() {
        let places = PerClientLimiter::default();
        let client = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = places.try_acquire(client("2001:db8::1"), 1).unwrap();
        assert!(
            places.try_acquire(client("2001:db8::2"), 1).is_none(),
            "the same /64"
        );
        assert!(places.try_acquire(client("2001:db8:0:1::1"), 1).is_some());
        drop(first);

        assert!(places.try_acquire(client("2001:db8::2"), 1).is_some());
        assert!(places.lock().is_empty());
    }
}
