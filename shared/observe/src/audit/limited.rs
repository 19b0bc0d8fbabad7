//! Bounds on the records of events that others cause at will, so that they cannot fill the disk.
//!
//! In each second the log has up to [`RECORDS_PER_CLIENT`] of these events of one client, and
//! [`RECORDS_PER_SECOND`] of all, one by one. It counts further ones exactly, by client and reason.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use hookward_core::address::source;

/// Party that causes an event. Each has bounds of its own, so that strangers never hide what agents do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Causer {
    /// Any sender, or any client of an API.
    Stranger,
    /// An agent with a credential.
    Agent,
}

/// Kind of a limited event: names from fixed lists, never text of a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitedKind {
    /// Event of the record, such as `refused`.
    pub event: &'static str,
    /// Check or code that explains it.
    pub reason: &'static str,
}

/// Maximum number of single records of one client (IPv6: its /64) a second.
const RECORDS_PER_CLIENT: u32 = 20;
/// Maximum number of single records of all clients a second.
const RECORDS_PER_SECOND: u32 = 200;
/// Maximum number of counts a second. Further clients share one count for each reason.
const COUNTS_PER_SECOND: usize = 200;

/// Counts of one second.
#[derive(Default)]
pub(super) struct LimitedCounts {
    /// Second of the counts, since 1970.
    second: u64,
    singles: u32,
    by_client: HashMap<IpAddr, u32>,
    counts: BTreeMap<(Option<IpAddr>, LimitedKind), u64>,
}

/// Number of events of one client, kind and second that have no record of their own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CountedEvents {
    /// Second since 1970.
    pub second: u64,
    /// Client address (IPv6: its /64); `None` for all further clients.
    pub client: Option<IpAddr>,
    pub kind: LimitedKind,
    pub count: u64,
}

impl LimitedCounts {
    /// Returns the counts of an earlier second, once.
    pub(super) fn advance(&mut self, second: u64) -> Vec<CountedEvents> {
        // A clock that is set back ends the second, too.
        if self.second == second {
            return Vec::new();
        }

        let earlier = std::mem::take(self);
        self.second = second;
        let counts = earlier.counts.into_iter();
        counts
            .map(|((client, kind), count)| CountedEvents {
                second: earlier.second,
                client,
                kind,
                count,
            })
            .collect()
    }

    /// Returns `true` if the event gets a record of its own; otherwise counts it.
    pub(super) fn take(&mut self, client: IpAddr, kind: LimitedKind) -> bool {
        let client = source(client);
        if self.singles < RECORDS_PER_SECOND && self.has_room_for(client) {
            self.singles += 1;
            *self.by_client.entry(client).or_default() += 1;
            return true;
        }

        let own = (Some(client), kind);
        let key = match self.counts.contains_key(&own) || self.counts.len() < COUNTS_PER_SECOND {
            true => own,
            false => (None, kind),
        };
        *self.counts.entry(key).or_default() += 1;
        false
    }

    fn has_room_for(&self, client: IpAddr) -> bool {
        let taken = self.by_client.get(&client);
        taken.is_none_or(|taken| *taken < RECORDS_PER_CLIENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: LimitedKind = LimitedKind {
        event: "refused",
        reason: "token",
    };

    fn client(n: u32) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn a_flood_of_one_client_is_counted_exactly() {
        let mut limited = LimitedCounts::default();
        limited.advance(7);
        let single = (0..1000).filter(|_| limited.take(client(1), TOKEN)).count();
        assert_eq!(single, 20);
        assert!(
            limited.take(client(2), TOKEN),
            "another client has its own records"
        );

        assert!(limited.advance(7).is_empty());
        let counted = limited.advance(8);
        assert_eq!(
            counted,
            [CountedEvents {
                second: 7,
                client: Some(client(1)),
                kind: TOKEN,
                count: 980
            }]
        );
        assert!(limited.take(client(1), TOKEN));
    }

    #[test]
    fn many_clients_cost_a_bounded_number_of_lines_and_no_count_is_lost() {
        let mut limited = LimitedCounts::default();
        limited.advance(7);
        let sent = 50_000_u32;
        let single = (0..sent)
            .filter(|n| limited.take(client(*n), TOKEN))
            .count();
        let counted = limited.advance(8);
        assert!(
            single + counted.len() <= 401 + 1,
            "{single} {}",
            counted.len()
        );

        let total: u64 = counted.iter().map(|counted| counted.count).sum();
        assert_eq!(single as u64 + total, u64::from(sent));
        assert!(counted.iter().any(|counted| counted.client.is_none()));
    }
}
