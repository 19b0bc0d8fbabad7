//! Notices that all requests come from one private address: a load balancer that hides its clients.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Requests of the only client so far.
#[derive(Default)]
pub(crate) struct SoleClient {
    /// `true` once there was a second client, or a warning.
    is_settled: AtomicBool,
    // A std mutex: it guards two values, and nothing waits while it is held.
    seen: Mutex<Option<(IpAddr, u32)>>,
}

impl SoleClient {
    /// Counts a request. Returns `true` if a warning is due, once.
    pub(crate) fn note(&self, client: IpAddr) -> bool {
        if self.is_settled.load(Ordering::Relaxed) {
            return false;
        }

        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, count) = seen.get_or_insert((client, 0));
        *count += 1;
        let is_sole = *first == client && is_private(client);
        let is_due = is_sole && *count >= REQUESTS;
        if !is_sole || is_due {
            self.is_settled.store(true, Ordering::Relaxed);
        }
        is_due
    }
}

/// Returns `true` for an address of the operator's own network.
pub(super) const fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Number of requests of one address that hardly come from one sender.
const REQUESTS: u32 = 200;

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(clients: &[[u8; 4]]) -> usize {
        let sole = SoleClient::default();
        let noted = clients.iter().map(|client| sole.note((*client).into()));
        noted.filter(|is_due| *is_due).count()
    }

    #[test]
    fn one_private_client_is_warned_of_once() {
        assert_eq!(warnings(&[[10, 0, 0, 1]; 1000]), 1);
        assert_eq!(warnings(&[[10, 0, 0, 1]; 199]), 0);
        assert_eq!(warnings(&[[192, 0, 2, 1]; 1000]), 0, "a public sender");
        let mut two = vec![[10, 0, 0, 1]; 1000];
        two.insert(100, [10, 0, 0, 2]);
        assert_eq!(warnings(&two), 0);
    }
}
