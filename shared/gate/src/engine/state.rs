//! State of a gate between requests: rates and lockouts of one tunnel, the named address sets, and on
//! the agent the deliveries that it has processed. The gate itself is pure and gets this state together with the time.
//!
//! Everything here is bounded, because an attacker has many addresses but must not fill the memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::policy::Lockout;
use hookward_core::address::{AddressSet, source};
use hookward_core::clock::{SteadyMillis, UnixMillis};
use hookward_core::ip_sets::NamedSets;
use hookward_core::rate::Rate;

/// Bucket of a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Requests of one client address (an IPv6 /64 counts as one).
    Client(IpAddr),
    /// Requests of one client address with a valid signature, apart from unsigned ones.
    Signed(IpAddr),
    /// Unsigned challenges of one client address, which anyone can send.
    Challenge(IpAddr),
    /// Signed requests of one client address that is locked out or beyond its rate.
    Barred(IpAddr),
    /// Requests of all client addresses beyond the table's capacity.
    Others,
    /// Permitted requests of one route.
    Route(usize),
    /// Permitted requests of the tunnel.
    Tunnel,
    /// Requests of a tunnel, against the operator's maximum.
    Operator,
    /// Requests of a tunnel, against the maximum of its agent.
    Agent,
}

/// State of one tunnel's gate.
#[derive(Default)]
pub struct GateState {
    /// Named address sets.
    pub sets: NamedSets,
    /// Addresses that are never locked out, because trusted proxies carry many senders.
    pub exempt: AddressSet,
    // A std mutex: it guards some maps, and nothing waits while it is held.
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Used part of each bucket, in microseconds of the monotonic clock.
    spent: HashMap<Counted, u64>,
    failures: HashMap<IpAddr, Failures>,
    /// Digests of the signed contents that the agent has processed, with the end of their memory.
    processed: HashMap<[u8; 32], UnixMillis>,
    /// Time of the last sweep of each full table.
    swept_spent: SteadyMillis,
    swept_failures: SteadyMillis,
    swept_processed: SteadyMillis,
}

impl Counts {
    /// Forgets processed contents beyond their time, when the memory is full.
    fn sweep_processed(&mut self, now: UnixMillis) {
        let is_full = self.processed.len() >= MAX_PROCESSED;
        // Any clock serves: the sweep only has to be rare.
        if is_full && may_sweep(&mut self.swept_processed, SteadyMillis(now.0)) {
            self.processed.retain(|_, until| *until > now);
        }
    }
}

/// Returns `true` if a full table may be swept: at most once a second, because a sweep visits all
/// entries.
fn may_sweep(swept: &mut SteadyMillis, now: SteadyMillis) -> bool {
    let due = now.0 < swept.0 || now.0 - swept.0 >= 1000;
    if due {
        *swept = now;
    }
    due
}

/// Failures of one client.
struct Failures {
    count: u32,
    since: SteadyMillis,
    locked_until: SteadyMillis,
}

impl GateState {
    /// Creates a state that shares the named sets.
    #[must_use]
    pub fn new(sets: NamedSets, exempt: AddressSet) -> Self {
        Self {
            sets,
            exempt,
            counts: Mutex::default(),
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// Milliseconds after which the next one passes.
    pub(crate) fn admit(&self, what: Counted, rate: Rate, now: SteadyMillis) -> Result<(), u64> {
        let mut counts = self.lock();
        let full = counts.spent.len() >= MAX_SOURCES && !counts.spent.contains_key(&what);
        if full && may_sweep(&mut counts.swept_spent, now) {
            let now = now.0.saturating_mul(1000);
            counts.spent.retain(|_, spent| *spent > now);
        }

        let what = if counts.spent.len() >= MAX_SOURCES && full {
            Counted::Others
        } else {
            what
        };
        let spent = counts.spent.entry(what).or_default();
        *spent = rate.admit(*spent, now)?;

        Ok(())
    }

    /// Takes back a counted request.
    pub(crate) fn give_back(&self, what: Counted, rate: Rate) {
        if let Some(spent) = self.lock().spent.get_mut(&what) {
            *spent = spent.saturating_sub(rate.cost());
        }
    }

    /// Returns the remaining lockout of this address in milliseconds, or `None`.
    #[must_use]
    pub(crate) fn locked_out(&self, address: IpAddr, now: SteadyMillis) -> Option<u64> {
        let counts = self.lock();
        let until = counts.failures.get(&source(address))?.locked_until;
        until.0.checked_sub(now.0).filter(|left| *left > 0)
    }

    /// Records that a request of this address failed a check that only unknown senders fail.
    pub(crate) fn note_failure(&self, address: IpAddr, lockout: Lockout, now: SteadyMillis) {
        if self.exempt.contains(address) {
            return;
        }

        let mut counts = self.lock();
        if counts.failures.len() >= MAX_SOURCES
            && !counts.failures.contains_key(&source(address))
            && may_sweep(&mut counts.swept_failures, now)
        {
            counts
                .failures
                .retain(|_, seen| seen.is_fresh(lockout, now));
        }

        let full = counts.failures.len() >= MAX_SOURCES;
        let seen = match counts.failures.entry(source(address)) {
            Entry::Occupied(seen) => seen.into_mut(),
            // A full table ignores new addresses, and forgets no other for them.
            Entry::Vacant(_) if full => return,
            Entry::Vacant(place) => place.insert(Failures {
                count: 0,
                since: now,
                locked_until: SteadyMillis(0),
            }),
        };
        if !seen.is_fresh(lockout, now) {
            (seen.count, seen.since) = (0, now);
        }

        seen.count += 1;
        if seen.count >= lockout.failures {
            seen.locked_until = SteadyMillis(now.0 + lockout.for_ms);
            (seen.count, seen.since) = (0, now);
        }
    }

    /// Remembers a signed content that the application has accepted, until this time.
    pub(crate) fn note_processed(&self, digest: [u8; 32], until: UnixMillis, now: UnixMillis) {
        let mut counts = self.lock();
        counts.sweep_processed(now);
        if counts.processed.len() < MAX_PROCESSED {
            counts.processed.insert(digest, until);
        }
    }

    /// Returns `true` if this signed content was processed. A full memory remembers no more contents:
    /// refusing unknown ones would lose webhooks.
    pub(crate) fn was_processed(&self, digest: &[u8; 32], now: UnixMillis) -> bool {
        let mut counts = self.lock();
        counts.sweep_processed(now);
        counts
            .processed
            .get(digest)
            .is_some_and(|until| *until > now)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // A panic elsewhere cannot leave a count half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of processed contents in memory: some 50 MB for a million.
const MAX_PROCESSED: usize = 1_000_000;

/// Maximum number of clients in each table: some 5 MB for a tunnel under attack.
const MAX_SOURCES: usize = 65_536;

impl Failures {
    /// Returns `true` if the failures are still relevant.
    const fn is_fresh(&self, lockout: Lockout, now: SteadyMillis) -> bool {
        now.0.saturating_sub(self.since.0) < lockout.within_ms || self.locked_until.0 > now.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCKOUT: Lockout = Lockout {
        failures: 3,
        within_ms: 1000,
        for_ms: 5000,
    };

    #[test]
    fn repeated_failures_cause_a_lockout() {
        let state = GateState::default();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let fail = |at| state.note_failure(address, LOCKOUT, SteadyMillis(at));
        fail(0);
        fail(900);
        fail(2000);
        fail(2100);

        assert_eq!(
            state.locked_out(address, SteadyMillis(2100)),
            None,
            "too slow"
        );
        fail(2200);
        assert_eq!(state.locked_out(address, SteadyMillis(2200)), Some(5000));
        assert_eq!(
            state.locked_out("192.0.2.2".parse().unwrap(), SteadyMillis(2200)),
            None
        );

        assert_eq!(state.locked_out(address, SteadyMillis(7200)), None);
    }

    #[test]
    fn a_trusted_proxy_is_never_locked_out() {
        let state = GateState::new(
            NamedSets::default(),
            AddressSet::new(&["10.0.0.0/8".parse().unwrap()]),
        );
        let proxy = "10.1.2.3".parse().unwrap();
        (0..10).for_each(|_| state.note_failure(proxy, LOCKOUT, SteadyMillis(0)));
        assert_eq!(state.locked_out(proxy, SteadyMillis(0)), None);
    }

    #[test]
    fn many_addresses_do_not_fill_the_memory() {
        let state = GateState::default();
        let rate = Rate::parse("1/d").unwrap();
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).unwrap()));

        for n in 0..MAX_SOURCES + 1000 {
            let _ = state.admit(Counted::Client(address(n)), rate, SteadyMillis(0));
            state.note_failure(address(n), LOCKOUT, SteadyMillis(0));
        }

        let counts = state.lock();
        assert!(counts.spent.len() <= MAX_SOURCES + 1 && counts.failures.len() <= MAX_SOURCES);
        drop(counts);
        assert!(
            state
                .admit(Counted::Client(address(0)), rate, SteadyMillis(0))
                .is_err(),
            "still remembered"
        );

        let next_day = SteadyMillis(2 * 86_400_000);
        assert!(
            state
                .admit(
                    Counted::Client(address(usize::from(u16::MAX) * 3)),
                    rate,
                    next_day
                )
                .is_ok()
        );
    }
}
