//! Counts of the most active clients. Memory is bounded: further clients share one count.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use hookward_core::address::source;

use crate::observe::outcome::{RequestFacts, RequestOutcome, Verdict};

/// Counts of one client (IPv6: of its /64).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ClientCount {
    /// Requests in all.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
}

impl ClientCount {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.refused += other.refused;
    }
}

/// Counts of this minute and of the one before.
#[derive(Default)]
pub(crate) struct ClientCounts {
    // A std mutex: it guards counters, and nothing waits while it is held.
    minutes: Mutex<Minutes>,
}

#[derive(Default)]
struct Minutes {
    minute: u64,
    current: HashMap<IpAddr, ClientCount>,
    previous: HashMap<IpAddr, ClientCount>,
    /// Clients beyond those that are counted, of this minute and the one before.
    others: ClientCount,
    previous_others: ClientCount,
}

/// Maximum number of clients to count in a minute.
const CLIENTS: usize = 1024;

impl ClientCounts {
    /// Counts the outcome of a request.
    pub(super) fn request(&self, facts: RequestFacts<'_>, outcome: &RequestOutcome, minute: u64) {
        let is_refused = matches!(
            outcome.verdict,
            Verdict::Refused(_) | Verdict::RefusedByAgent { .. } | Verdict::Overloaded
        );
        self.count(facts.client, is_refused, minute);
    }

    fn count(&self, client: IpAddr, is_refused: bool, minute: u64) {
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.advance(minute);
        let client = source(client);
        let is_known = minutes.current.len() < CLIENTS || minutes.current.contains_key(&client);
        let count = match is_known {
            true => minutes.current.entry(client).or_default(),
            false => &mut minutes.others,
        };
        count.requests += 1;
        count.refused += u64::from(is_refused);
    }

    /// Returns the `most` most active clients of this minute and the one before, and the counts of
    /// clients beyond those that are counted.
    pub(crate) fn top(
        &self,
        most: usize,
        minute: u64,
    ) -> (Vec<(IpAddr, ClientCount)>, ClientCount) {
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.advance(minute);
        let mut counts = minutes.current.clone();
        for (client, before) in &minutes.previous {
            let count = counts.entry(*client).or_default();
            count.add(*before);
        }
        let mut others = minutes.others;
        others.add(minutes.previous_others);
        drop(minutes);

        let mut top: Vec<_> = counts.into_iter().collect();
        top.sort_unstable_by_key(|(client, count)| (std::cmp::Reverse(count.requests), *client));
        top.truncate(most);
        (top, others)
    }
}

impl Minutes {
    fn advance(&mut self, minute: u64) {
        if minute == self.minute {
            return;
        }
        let (current, others) = (
            std::mem::take(&mut self.current),
            std::mem::take(&mut self.others),
        );
        (self.previous, self.previous_others) = match minute == self.minute + 1 {
            true => (current, others),
            false => Default::default(),
        };
        self.minute = minute;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_active_clients_are_known_and_memory_is_bounded() {
        let counts = ClientCounts::default();
        let client = |n: u32| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
        for n in 0..5000 {
            counts.count(client(n), true, 1);
            counts.count(client(1), false, 1);
        }
        let (top, others) = counts.top(2, 2);
        let busiest = ClientCount {
            requests: 5001,
            refused: 1,
        };
        assert_eq!((top[0], top.len()), ((client(1), busiest), 2));
        assert_eq!(others.requests + top[0].1.requests, 5001 + 3976);
        assert!(counts.minutes.lock().unwrap().previous.len() <= CLIENTS);
        assert!(counts.top(2, 4).0.is_empty());
    }
}
