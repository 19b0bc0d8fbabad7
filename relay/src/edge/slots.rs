//! Slots for connections, and who gives one up when all are taken: the stranger that has been there longest. A
//! stranger is a connection that has brought no request which passed the gate. Who holds thousands of connections
//! and says nothing holds them against other strangers only; whoever may send has to be quicker once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// So many connections in all.
pub struct Slots {
    most: usize,
    // A std mutex: it guards counters and a map, and nothing waits while it is held.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    next: u64,
    /// In the order in which they came.
    strangers: BTreeMap<u64, CancellationToken>,
}

/// One slot; dropping it frees it.
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
    evicted: CancellationToken,
    known: AtomicBool,
}

impl Slots {
    /// So many slots.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, state: Mutex::default() })
    }

    /// A slot for a connection that begins; for want of a free one, that of the stranger who came first. `None`
    /// when all are held by connections that may send.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Slot> {
        let full = self.lock().taken >= self.most;
        if full && !self.evict() {
            return None;
        }
        let evicted = CancellationToken::new();
        let mut state = self.lock();
        let number = state.next;
        (state.next, state.taken) = (number + 1, state.taken + 1);
        state.strangers.insert(number, evicted.clone());
        drop(state);
        Some(Slot { slots: Arc::clone(self), number, evicted, known: AtomicBool::new(false) })
    }

    /// Ends the connection of the stranger who came first, if there is one.
    pub fn evict(&self) -> bool {
        let mut state = self.lock();
        let Some((_, evicted)) = state.strangers.pop_first() else { return false };
        state.taken -= 1;
        drop(state);
        evicted.cancel();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// The connection is no stranger's: a request of it passed the gate.
    pub fn know(&self) {
        // Once for each connection; one that was evicted a moment ago stays so.
        if !self.is_known() && self.slots.lock().strangers.remove(&self.number).is_some() {
            self.known.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request of the connection has passed the gate.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Until somebody else is given the slot.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        // An evicted one has given its slot away already.
        if state.strangers.remove(&self.number).is_some() || *self.known.get_mut() {
            state.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stranger_who_came_first_gives_way_and_nobody_who_is_known() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        first.know();
        let third = slots.take().unwrap();
        assert!(second.evicted.is_cancelled() && !first.evicted.is_cancelled());
        second.know();
        assert!(!second.is_known(), "too late");
        third.know();
        assert!(slots.take().is_none(), "both are held by known ones");
        drop(second);
        assert!(slots.take().is_none(), "an evicted one has no slot to free");
        drop(first);
        assert!(slots.take().is_some());
        drop(third);
        assert_eq!(slots.lock().taken, 0);
    }
}
