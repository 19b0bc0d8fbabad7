//! Slot of one connection, and the memory of its heads.

use super::{
    BODILESS_PER_UNVERIFIED, ConnectionTable, HEADERS_MAX, HEADERS_PER_UNVERIFIED, Verified,
};
use crate::overload::activity::ConnectionActivity;
use hookward_core::limits::KIB;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

/// Maximum size of a head that is still arriving, in bytes: the largest that settings allow, with
/// its copies.
pub(super) const COMING: u64 = 304 * KIB;

/// Memory that h2 keeps for a refused stream until its connection ends, in bytes.
pub(super) const REFUSED: u64 = KIB;

/// Slot of a connection; dropping it frees it.
pub(crate) struct ConnectionSlot {
    pub(super) slots: Arc<ConnectionTable>,
    pub(super) number: u64,
    pub(super) evicted: CancellationToken,
    pub(super) known: AtomicBool,
}

/// Memory of an unverified connection's head. Dropping it frees the memory. It also holds the slot:
/// an upgraded connection stays counted through its reader.
pub(crate) struct HeaderMemory {
    slot: Arc<ConnectionSlot>,
    bytes: u64,
    /// Maximum size of the connection's heads, in bytes.
    most: u64,
}

impl ConnectionSlot {
    /// Marks the connection as verified: one of its requests passed the gate. It may be evicted
    /// when it is idle; without an `activity` it never is.
    pub(crate) fn mark_verified(&self, activity: Option<&Arc<ConnectionActivity>>) {
        if self.is_verified() {
            return;
        }

        let mut state = self.slots.lock();
        // A connection that was just evicted stays evicted.
        if let Some(entry) = state.unverified.remove(&self.number) {
            state.held -= entry.held;
            let known = Verified {
                evicted: self.evicted.clone(),
                activity: activity.cloned(),
            };
            state.verified.insert(self.number, known);
            self.known.store(true, Ordering::Relaxed);
        }
    }

    /// Returns `true` if a request of the connection has passed the gate.
    #[must_use]
    pub(crate) fn is_verified(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Charges memory for a request of this connection; verified connections are not charged.
    /// Returns `None` if none is left.
    pub(crate) fn hold(self: &Arc<Self>, bytes: u64, has_body: bool) -> Option<HeaderMemory> {
        let most = if has_body {
            HEADERS_PER_UNVERIFIED
        } else {
            BODILESS_PER_UNVERIFIED
        };

        let mut held = HeaderMemory {
            slot: Arc::clone(self),
            bytes: 0,
            most,
        };
        held.set(bytes).then_some(held)
    }

    /// Charges the memory that a refused stream holds until the connection ends.
    pub(crate) fn note_refused(&self) {
        let mut state = self.slots.lock();
        let Some(entry) = state.unverified.get_mut(&self.number) else {
            return;
        };
        entry.held += REFUSED;
        state.held += REFUSED;

        let evicted = state.make_room();
        drop(state);
        evicted.iter().for_each(CancellationToken::cancel);
    }

    /// Creates an empty charge for a head that is still arriving.
    pub(crate) fn hold_coming(self: &Arc<Self>) -> HeaderMemory {
        HeaderMemory {
            slot: Arc::clone(self),
            bytes: 0,
            most: HEADERS_PER_UNVERIFIED + COMING,
        }
    }

    /// Resolves when the slot was given to another connection.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl HeaderMemory {
    /// Changes the charge. Returns `false` and leaves it unchanged if memory is short.
    pub(crate) fn set(&mut self, bytes: u64) -> bool {
        if self.bytes == bytes || self.slot.is_verified() {
            return true;
        }

        let mut state = self.slot.slots.lock();
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && state.held + state.leaving_held + more > HEADERS_MAX {
            return false;
        }

        // Verified and evicted connections are not charged.
        let Some(entry) = state.unverified.get_mut(&self.slot.number) else {
            return true;
        };
        if more > 0 && entry.held + more > self.most {
            return false;
        }

        entry.held = entry.held + bytes - self.bytes;
        state.held = state.held + bytes - self.bytes;
        self.bytes = bytes;

        let evicted = state.make_room();
        drop(state);
        evicted.iter().for_each(CancellationToken::cancel);

        true
    }
}

impl Drop for HeaderMemory {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut state = self.slots.lock();
        let left = state.evicting.remove(&self.number).unwrap_or_default();
        state.leaving_held -= left;

        if let Some(entry) = state.unverified.remove(&self.number) {
            (state.taken, state.held) = (state.taken - 1, state.held - entry.held);
        } else if state.verified.remove(&self.number).is_some() {
            // An evicted connection has already given up its slot.
            state.taken -= 1;
        }
    }
}
