//! Slots for connections, and the memory for what strangers send ahead of a verdict. A stranger is a connection
//! that has brought no request which passed the gate. When slots or memory are used up, the stranger goes that has
//! been there longest: who holds thousands of connections holds them against other strangers only, and whoever may
//! send has to be quicker once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hookward_shared::limits::{KIB, MIB};
use tokio_util::sync::CancellationToken;

/// What the heads of one stranger's connection may hold, in bytes: some thirty requests that wait for their bodies,
/// with heads as webhooks have them. It is half a mebibyte with what the connection needs beside them.
const HEADS_OF_ONE: u64 = 320 * KIB;
/// What the heads of all strangers may hold before the first of them goes, and before new ones are refused because
/// those that had to go are not gone yet.
const HEADS_OF_ALL: u64 = 8 * MIB;
const HEADS_AT_MOST: u64 = 12 * MIB;

/// So many connections in all.
pub struct Slots {
    most: usize,
    /// Bytes of strangers' heads.
    held: AtomicU64,
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
    /// Bytes of its heads.
    held: AtomicU64,
}

/// Memory that a stranger's head needs. Dropping it gives it back.
pub struct Held {
    slot: Arc<Slot>,
    bytes: u64,
}

impl Slots {
    /// So many slots.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, held: AtomicU64::new(0), state: Mutex::default() })
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
        let (slots, known, held) = (Arc::clone(self), AtomicBool::new(false), AtomicU64::new(0));
        Some(Slot { slots, number, evicted, known, held })
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

    /// Memory for a head of this connection, which is free for one that is known. `None` when there is none left.
    pub fn hold(self: &Arc<Self>, bytes: u64) -> Option<Held> {
        let mut held = Held { slot: Arc::clone(self), bytes: 0 };
        held.set(bytes).then_some(held)
    }

    /// Until somebody else is given the slot.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Held {
    /// Changes how much it is; `false` when there is not so much left, and then it stays as it was.
    pub fn set(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 || self.slot.is_known() {
            self.give_back(self.bytes.saturating_sub(bytes));
            return true;
        }
        let slots = &self.slot.slots;
        if self.slot.held.load(Ordering::Relaxed) + more > HEADS_OF_ONE {
            return false;
        }
        // Between load and add another one may come in; the bounds are no sharper than the estimates.
        let all = slots.held.load(Ordering::Relaxed) + more;
        if all > HEADS_OF_ALL {
            slots.evict();
        }
        if all > HEADS_AT_MOST {
            return false;
        }
        slots.held.fetch_add(more, Ordering::Relaxed);
        self.slot.held.fetch_add(more, Ordering::Relaxed);
        self.bytes = bytes;
        true
    }

    fn give_back(&mut self, bytes: u64) {
        self.slot.slots.held.fetch_sub(bytes, Ordering::Relaxed);
        self.slot.held.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes -= bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back(self.bytes);
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

    #[test]
    fn heads_of_strangers_are_bounded_and_those_of_others_are_not() {
        let slots = Slots::new(1000);
        let slot = || Arc::new(slots.take().unwrap());
        let first = slot();
        let mut head = first.hold(HEADS_OF_ONE).unwrap();
        assert!(first.hold(1).is_none() && !head.set(HEADS_OF_ONE + 1));
        assert!(head.set(1) && first.hold(HEADS_OF_ONE - 1).is_some());
        let known = slot();
        known.know();
        assert!(known.hold(HEADS_AT_MOST * 2).is_some());
        let others: Vec<_> = (0..HEADS_AT_MOST / HEADS_OF_ONE).map(|_| slot().hold(HEADS_OF_ONE).unwrap()).collect();
        assert!(first.evicted.is_cancelled(), "the first goes before all is used up");
        assert!(slot().hold(HEADS_OF_ONE).is_none(), "and nobody comes in while nobody has gone");
        drop((head, others));
        assert_eq!(slots.held.load(Ordering::Relaxed), 0);
        assert!(slot().hold(HEADS_OF_ONE).is_some());
    }
}
