//! Slots for connections, and memory for the heads of unverified requests. When all slots are
//! taken, the relay closes the oldest unverified connection. When head memory is short, it closes
//! the unverified connections that held the most for the longest. An attacker with thousands of
//! connections therefore displaces only unverified connections; a legitimate sender needs one quick
//! request to be safe. When few connections are unverified, the relay closes the longest-idle
//! verified ones first, because new connections start unverified and need time to send a request.

mod slot;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::limits::{KIB, MIB};
use tokio_util::sync::CancellationToken;

pub(crate) use self::slot::{ConnectionSlot, HeaderMemory};
use crate::overload::activity::ConnectionActivity;

/// Like [`HEADERS_PER_UNVERIFIED`], for requests without a body, which wait for no data: one for
/// each allowed stream.
const BODILESS_PER_UNVERIFIED: u64 = 4 * HEADERS_PER_UNVERIFIED;

/// Maximum size of buffered request heads per unverified connection, in bytes: some thirty heads of
/// webhooks. With its own memory, such a connection needs 512 KiB.
const HEADERS_PER_UNVERIFIED: u64 = 320 * KIB;

/// Maximum size of all heads, including those of connections that are closing, in bytes. Beyond it,
/// the relay refuses new heads.
const HEADERS_MAX: u64 = 16 * MIB;

/// Table of all connections, with a maximum number.
pub(crate) struct ConnectionTable {
    limit: usize,
    // A std mutex: it guards counters and maps, and nothing waits while it is held.
    state: Mutex<TableState>,
}

/// Use of the table.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ConnectionStats {
    pub unverified: usize,
    pub verified: usize,
    pub limit: usize,
    /// Bytes of unverified connections' heads, and the bound from which connections are evicted.
    pub head_bytes: u64,
    pub head_limit: u64,
    pub evicted: u64,
}

#[derive(Default)]
struct TableState {
    taken: usize,
    next: u64,
    evicted: u64,
    /// Unverified connections, oldest first.
    unverified: BTreeMap<u64, Unverified>,
    verified: HashMap<u64, Verified>,
    /// Time of the last search in which no verified connection was idle.
    all_busy: Option<Instant>,
    /// Bytes of unverified connections' heads.
    held: u64,
    /// Bytes of evicted connections that have not ended yet, for each and in total.
    evicting: HashMap<u64, u64>,
    leaving_held: u64,
}

struct Unverified {
    evicted: CancellationToken,
    since: Instant,
    held: u64,
}

/// A verified connection.
struct Verified {
    evicted: CancellationToken,
    /// `None` if the connection is never evicted.
    activity: Option<Arc<ConnectionActivity>>,
}

impl ConnectionTable {
    #[must_use]
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: most,
            state: Mutex::default(),
        })
    }

    /// Acquires a slot for a new connection. If none is free, evicts the oldest unverified
    /// connection or an idle verified one. Returns `None` if all are in use.
    #[must_use]
    pub(crate) fn acquire(self: &Arc<Self>) -> Option<ConnectionSlot> {
        let full = self.lock().taken >= self.limit;
        if full && !self.evict(IDLE_IMMEDIATE) {
            return None;
        }

        let evicted = CancellationToken::new();
        let entry = Unverified {
            evicted: evicted.clone(),
            since: Instant::now(),
            held: 0,
        };

        let mut state = self.lock();
        let number = state.next;
        (state.next, state.taken) = (number + 1, state.taken + 1);
        state.unverified.insert(number, entry);
        drop(state);

        Some(ConnectionSlot {
            slots: Arc::clone(self),
            number,
            evicted,
            known: AtomicBool::new(false),
        })
    }

    /// Evicts the oldest unverified connection, or up to `idle` idle ones, which come first when
    /// few connections are unverified. Returns `true` if any was evicted.
    pub(crate) fn evict(&self, idle: usize) -> bool {
        let mut state = self.lock();
        let few = state.unverified.len() < self.limit / MIN_CANDIDATES;
        let mut evicted = if few {
            state.evict_idle(idle, IDLE)
        } else {
            Vec::new()
        };

        if evicted.is_empty() {
            evicted = match state.unverified.keys().next().copied() {
                Some(first) => state.evict(first).into_iter().collect(),
                None => state.evict_idle(idle, IDLE),
            };
        }

        drop(state);
        evicted.iter().for_each(CancellationToken::cancel);
        !evicted.is_empty()
    }

    /// Returns the use of the table.
    pub(crate) fn stats(&self) -> ConnectionStats {
        let state = self.lock();
        ConnectionStats {
            unverified: state.unverified.len(),
            verified: state.verified.len(),
            limit: self.limit,
            head_bytes: state.held + state.leaving_held,
            head_limit: HEADERS_UNVERIFIED,
            evicted: state.evicted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, TableState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Minimum idle time of a verified connection before it may be evicted. By then its last response,
/// of which the relay holds up to 150 KiB, has left on all but the slowest links.
const IDLE: Duration = Duration::from_secs(5);

/// Divisor of the slots: below an eighth, the relay evicts idle verified connections before
/// unverified ones.
const MIN_CANDIDATES: usize = 8;

/// Number of idle connections to evict at once, because each search visits all of them.
const IDLE_IMMEDIATE: usize = 64;

impl TableState {
    /// Takes the slot and memory of an unverified connection. The connection ends when it observes
    /// the returned token's cancellation.
    fn evict(&mut self, number: u64) -> Option<CancellationToken> {
        let entry = self.unverified.remove(&number)?;
        self.taken -= 1;
        self.evicted += 1;
        self.held -= entry.held;
        self.evicting.insert(number, entry.held);
        self.leaving_held += entry.held;
        Some(entry.evicted)
    }

    /// Takes the slots of up to `most` verified connections, the longest-idle first, which were
    /// idle for at least `least`.
    fn evict_idle(&mut self, most: usize, least: Duration) -> Vec<CancellationToken> {
        if self
            .all_busy
            .is_some_and(|at| at.elapsed() < RECHECK_INTERVAL)
        {
            return Vec::new();
        }

        let idle = |known: &Verified| {
            known
                .activity
                .as_ref()?
                .idle_for()
                .filter(|idle| *idle >= least)
        };

        let mut found: Vec<_> = self
            .verified
            .iter()
            .filter_map(|(number, known)| Some((idle(known)?, *number)))
            .collect();
        found.sort_unstable_by(|one, other| other.cmp(one));
        found.truncate(most);
        self.all_busy = found.is_empty().then(Instant::now);
        self.taken -= found.len();
        self.evicted += found.len() as u64;

        found
            .iter()
            .filter_map(|(_, number)| self.verified.remove(number))
            .map(|known| known.evicted)
            .collect()
    }

    /// Takes the slots of those that held the most for the longest, until memory is available.
    fn make_room(&mut self) -> Vec<CancellationToken> {
        if self.held <= HEADERS_UNVERIFIED {
            return Vec::new();
        }

        let now = Instant::now();
        let cost = |entry: &Unverified| {
            u128::from(entry.held) * now.duration_since(entry.since).as_nanos()
        };
        let holding = self.unverified.iter().filter(|(_, entry)| entry.held > 0);
        let mut holders: Vec<_> = holding
            .map(|(number, entry)| (cost(entry), *number))
            .collect();
        holders.sort_unstable();

        let enough = HEADERS_UNVERIFIED - FREED_AT_ONCE;
        let mut evicted = Vec::new();

        while let Some((_, number)) = holders.pop().filter(|_| self.held > enough) {
            evicted.extend(self.evict(number));
        }

        evicted
    }
}

/// Size of all unverified connections' heads, in bytes, at which the relay starts to evict
/// connections.
const HEADERS_UNVERIFIED: u64 = 12 * MIB;

const FREED_AT_ONCE: u64 = MIB;

/// Minimum pause after a search that found no idle connection.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::slot::COMING;
    use super::*;

    #[test]
    fn the_oldest_unverified_connection_is_evicted_and_no_verified_one() {
        let slots = ConnectionTable::new(2);
        let (first, second) = (slots.acquire().unwrap(), slots.acquire().unwrap());
        first.mark_verified(None);

        let third = slots.acquire().unwrap();
        assert!(second.evicted.is_cancelled() && !first.evicted.is_cancelled());
        second.mark_verified(None);
        assert!(!second.is_verified(), "too late");
        third.mark_verified(None);
        assert!(slots.acquire().is_none(), "both are held by known ones");
        drop(second);
        assert!(
            slots.acquire().is_none(),
            "an evicted one has no slot to free"
        );
        drop(first);

        assert!(slots.acquire().is_some());
        drop(third);
        assert_eq!(slots.lock().taken, 0);
    }

    #[test]
    fn idle_verified_connections_are_evicted_when_few_are_unverified() {
        let slots = ConnectionTable::new(16);
        let known: Vec<_> = (0..15)
            .map(|_| (slots.acquire().unwrap(), ConnectionActivity::new()))
            .collect();
        for (slot, activity) in &known {
            slot.mark_verified(Some(activity));
        }

        let entry = slots.acquire().unwrap();
        let busy = known[0].1.open_request();
        let gone = |number: usize| known[number].0.evicted.is_cancelled();
        let evict = |most| {
            slots
                .lock()
                .evict_idle(most, Duration::ZERO)
                .iter()
                .for_each(CancellationToken::cancel);
        };
        evict(3);

        assert_eq!((0..15).filter(|number| gone(*number)).count(), 3);
        evict(usize::MAX);
        assert!(!gone(0) && (1..15).all(gone), "all but the busy one");
        assert!(!entry.evicted.is_cancelled());
        assert_eq!(slots.lock().taken, 2);
        drop((busy, known, entry));
        assert_eq!(slots.lock().taken, 0);
    }

    #[test]
    fn only_unverified_heads_are_bounded() {
        let slots = ConnectionTable::new(1000);
        let slot = || Arc::new(slots.acquire().unwrap());
        let first = slot();
        let mut head = first.hold(HEADERS_PER_UNVERIFIED, true).unwrap();
        assert!(first.hold(1, true).is_none() && !head.set(HEADERS_PER_UNVERIFIED + 1));
        assert!(
            first.hold_coming().set(COMING),
            "a head that comes has memory of its own"
        );

        assert!(head.set(1) && first.hold(HEADERS_PER_UNVERIFIED - 1, true).is_some());
        let known = slot();
        known.mark_verified(None);
        assert!(known.hold(HEADERS_MAX * 2, true).is_some());

        let others: Vec<_> = (0..2 * HEADERS_MAX / HEADERS_PER_UNVERIFIED)
            .map(|_| slot().hold(HEADERS_PER_UNVERIFIED, true))
            .collect();
        assert!(
            others.iter().any(Option::is_none),
            "a full table admits no connection"
        );
        drop((head, others));
        assert_eq!(slots.lock().held, 0);

        assert_eq!(slots.lock().leaving_held, 0);
        assert!(slot().hold(HEADERS_PER_UNVERIFIED, true).is_some());
    }

    /// Evicts connections that hoard; keeps older ones that hold little, and one whose head arrives
    /// slowly.
    #[test]
    fn connections_that_hoard_memory_are_evicted() {
        let slots = ConnectionTable::new(1000);
        let slot = || Arc::new(slots.acquire().unwrap());
        let waiting = slot();
        let _little = waiting.hold(8 * KIB, true).unwrap();
        let hoards: Vec<_> = (0..HEADERS_UNVERIFIED / HEADERS_PER_UNVERIFIED)
            .map(|_| slot())
            .collect();
        let held: Vec<_> = hoards
            .iter()
            .map(|hoard| hoard.hold(HEADERS_PER_UNVERIFIED, true).unwrap())
            .collect();

        let dripping = slot();
        let mut drip = dripping.hold_coming();

        for bytes in 1..1000 {
            assert!(drip.set(200 * KIB + bytes));
        }

        assert!(!waiting.evicted.is_cancelled() && !dripping.evicted.is_cancelled());
        let gone = hoards
            .iter()
            .filter(|hoard| hoard.evicted.is_cancelled())
            .count() as u64;
        assert!(
            (1..=FREED_AT_ONCE / HEADERS_PER_UNVERIFIED + 1).contains(&gone),
            "{gone}: as many as needed, and once"
        );

        drop(held);
    }
}
