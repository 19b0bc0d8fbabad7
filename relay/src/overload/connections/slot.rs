//! The slot of one connection, and the memory of its heads.

use super::{
    BODILESS_PER_UNVERIFIED, ConnectionTable, HEADERS_MAX, HEADERS_PER_UNVERIFIED, Verified,
};
use crate::overload::activity::ConnectionActivity;
use hookward_core::limits::KIB;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_util::sync::CancellationToken;

/// Maximum size of a head that is still being received, in bytes: the largest that settings allow,
/// with its copies.
pub(super) const COMING: u64 = 304 * KIB;

/// Memory that h2 keeps for a refused stream until its connection ends, in bytes.
pub(super) const REFUSED: u64 = KIB;

/// One slot; dropping it frees it.
pub(crate) struct ConnectionSlot {
    pub(super) slots: Arc<ConnectionTable>,
    pub(super) number: u64,
    pub(super) evicted: CancellationToken,
    pub(super) known: AtomicBool,
}

/// Memory that a stranger's head needs. Dropping it gives it back. It keeps the slot as well: an
/// upgraded connection stays counted through its reader.
pub(crate) struct HeaderMemory {
    slot: Arc<ConnectionSlot>,
    bytes: u64,
    /// Maximum size of the connection's heads, in bytes.
    most: u64,
}

impl ConnectionSlot {
    /// The connection is no stranger's: a request of it passed the gate. It may have to go when
    /// nothing happens on it; without an `activity` it stays.
    pub(crate) fn mark_verified(&self, activity: Option<&Arc<ConnectionActivity>>) {
        if self.is_verified() {
            return;
        }

        let mut state = self.slots.lock();
        // One that was evicted a moment ago stays so.
        if let Some(stranger) = state.unverified.remove(&self.number) {
            state.held -= stranger.held;
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

    /// Memory for a request of this connection, which is free for one that is known. `None` when
    /// there is none left.
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

    /// A stream of the connection was refused, which holds something until the connection ends.
    pub(crate) fn note_refused(&self) {
        let mut state = self.slots.lock();
        let Some(stranger) = state.unverified.get_mut(&self.number) else {
            return;
        };
        stranger.held += REFUSED;
        state.held += REFUSED;

        let evicted = state.make_room();
        drop(state);
        evicted.iter().for_each(CancellationToken::cancel);
    }

    /// Memory for a head of this connection that is coming: none yet.
    pub(crate) fn hold_coming(self: &Arc<Self>) -> HeaderMemory {
        HeaderMemory {
            slot: Arc::clone(self),
            bytes: 0,
            most: HEADERS_PER_UNVERIFIED + COMING,
        }
    }

    /// Until somebody else is given the slot.
    pub(crate) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl HeaderMemory {
    /// Changes how much it is; `false` when there is not so much left, and then it stays as it was.
    pub(crate) fn set(&mut self, bytes: u64) -> bool {
        if self.bytes == bytes || self.slot.is_verified() {
            return true;
        }

        let mut state = self.slot.slots.lock();
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && state.held + state.leaving_held + more > HEADERS_MAX {
            return false;
        }

        // Who is known, or had to go, is not counted any more.
        let Some(stranger) = state.unverified.get_mut(&self.slot.number) else {
            return true;
        };
        if more > 0 && stranger.held + more > self.most {
            return false;
        }

        stranger.held = stranger.held + bytes - self.bytes;
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

        if let Some(stranger) = state.unverified.remove(&self.number) {
            (state.taken, state.held) = (state.taken - 1, state.held - stranger.held);
        } else if state.verified.remove(&self.number).is_some() {
            // An evicted one has given its slot away already.
            state.taken -= 1;
        }
    }
}
