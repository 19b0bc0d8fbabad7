//! Failed joins by client address (IPv6: its /64), so that guessing join tokens is slow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hookward_core::address::source;
use hookward_core::clock::SteadyMillis;
use hookward_core::limits::UNAUTHENTICATED_PER_CLIENT;
use hookward_core::rate::Rate;

use crate::overload::per_client::{ClientSlot, PerClientLimiter};

/// Failed joins of each client.
#[derive(Default)]
pub(crate) struct FailedJoins {
    // A std mutex: it guards a bounded map, and nothing waits while it is held.
    spent: Mutex<HashMap<IpAddr, u64>>,
    /// Answers that are delayed now.
    delayed: PerClientLimiter,
}

impl FailedJoins {
    /// Counts a failure. Returns the time by which its answer is delayed, in milliseconds, if the client
    /// has failed too often. Half of the client's connections at most wait, so that others behind its
    /// address can connect.
    pub(crate) fn note(&self, client: IpAddr, now: SteadyMillis) -> Option<(u64, ClientSlot)> {
        let mut failures = self.lock();
        if failures.len() >= CLIENTS {
            failures.retain(|_, spent| *spent > now.0.saturating_mul(1000));
        }
        let source = source(client);
        // With so many clients, a token of 256 bits alone must be enough.
        if failures.len() >= CLIENTS && !failures.contains_key(&source) {
            return None;
        }
        let spent = failures.entry(source).or_insert(0);
        match rate().admit(*spent, now) {
            Ok(next) => {
                *spent = next;
                None
            }
            Err(wait_ms) => {
                let slot = self
                    .delayed
                    .try_acquire(client, UNAUTHENTICATED_PER_CLIENT / 2)?;
                Some((wait_ms, slot))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u64>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the rate of failed joins whose answers are not delayed.
fn rate() -> Rate {
    Rate::per_minute(FAILURES_PER_MINUTE)
}

/// Number of failures a minute: an administrator mistypes less often.
const FAILURES_PER_MINUTE: u32 = 10;

/// Maximum number of clients to remember, with some 1 MiB.
const CLIENTS: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_keeps_failing_waits() {
        let failures = FailedJoins::default();
        let (client, other) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let wait = |client, at| {
            let delayed = failures.note(client, SteadyMillis(at));
            delayed.map(|(wait_ms, _)| wait_ms)
        };
        for _ in 0..FAILURES_PER_MINUTE {
            assert_eq!(wait(client, 0), None);
        }
        assert_eq!(wait(client, 0), Some(6000));
        assert_eq!(wait(client, 6000), None);
        assert_eq!(wait(other, 0), None);

        let slots: Vec<_> = (0..20)
            .map(|_| failures.note(client, SteadyMillis(6000)))
            .collect();
        let waiting = slots.iter().flatten().count();
        assert_eq!(waiting, UNAUTHENTICATED_PER_CLIENT / 2);
    }

    #[test]
    fn many_clients_do_not_fill_the_memory() {
        let failures = FailedJoins::default();
        let client = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..20_000 {
            let _ = failures.note(client(n), SteadyMillis(0));
        }
        assert_eq!(failures.lock().len(), CLIENTS);
        failures.note(client(30_000), SteadyMillis(3_600_000));
        assert_eq!(failures.lock().len(), 1);
    }
}
