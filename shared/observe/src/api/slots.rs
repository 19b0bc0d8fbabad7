//! Slots of a listener's connections. A full table evicts the oldest connection without a token, so that
//! strangers cannot keep administrators out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Maximum number of connections of one listener.
const CONNECTIONS: usize = 64;

/// Table of open connections.
#[derive(Default)]
pub(super) struct Slots {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// Connections that have not shown a token, oldest first.
    strangers: BTreeMap<u64, CancellationToken>,
    /// Number of connections that have.
    known: usize,
}

/// Slot of one connection, until it is dropped.
pub(super) struct Slot {
    number: u64,
    evicted: CancellationToken,
    slots: Arc<Slots>,
}

impl Slots {
    /// Acquires a slot. `None` if all connections have shown a token.
    pub(super) fn acquire(self: &Arc<Self>) -> Option<Slot> {
        let mut open = self.lock();
        if open.strangers.len() + open.known >= CONNECTIONS {
            let (_, oldest) = open.strangers.pop_first()?;
            oldest.cancel();
        }

        open.next += 1;
        let (number, evicted) = (open.next, CancellationToken::new());
        open.strangers.insert(number, evicted.clone());
        Some(Slot {
            number,
            evicted,
            slots: Arc::clone(self),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Protects the connection, which has shown a token, from eviction.
    pub(super) fn mark_known(&self) {
        let mut open = self.slots.lock();
        if open.strangers.remove(&self.number).is_some() {
            open.known += 1;
        }
    }

    /// Waits for the eviction.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.lock();
        let was_stranger = open.strangers.remove(&self.number).is_some();
        if !was_stranger && !self.evicted.is_cancelled() {
            open.known -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_stranger_is_evicted() {
        let slots = Arc::new(Slots::default());
        let mut open: Vec<_> = (0..CONNECTIONS).filter_map(|_| slots.acquire()).collect();
        open[0].mark_known();
        open.extend(slots.acquire());
        let evicted = open.iter().map(|slot| slot.evicted.is_cancelled());
        let evicted: Vec<_> = evicted.enumerate().filter(|(_, is)| *is).collect();
        assert_eq!(evicted, [(1, true)]);

        open.iter().for_each(Slot::mark_known);
        assert!(slots.acquire().is_none(), "nobody else can be evicted");
        drop(open);
        assert_eq!(slots.lock().known, 0);
        assert!(slots.acquire().is_some());
    }
}
