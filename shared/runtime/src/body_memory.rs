//! Memory budget of all bodies.
//!
//! A body is charged as it arrives, not by its announced length, together with the memory that its
//! request needs. One client address (IPv6: its /64) may hold an eighth. When the budget is full,
//! the slowest body that is still being received is evicted before a new one is refused.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use hookward_core::address;
use hookward_core::limits::{BODY_MEMORY_SHARES, KIB};

/// Memory of a request beside its body, in bytes (measured, with the buffers that an idle
/// connection lacks).
pub const REQUEST_OVERHEAD: u64 = 24 * KIB;

/// Memory budget; clones share it.
#[derive(Clone)]
pub struct BodyMemory {
    // A std mutex: it guards a few integers, and nothing waits while it is held.
    inner: Arc<Mutex<Inner>>,
    total: u64,
    overhead: u64,
}

/// Use of the budget, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyMemoryStats {
    /// Memory of bodies and their requests.
    pub used: u64,
    /// Its maximum.
    pub total: u64,
    /// Memory of bodies that are kept for a retry.
    pub kept: u64,
    /// Its maximum.
    pub kept_total: u64,
    /// Number of bodies that were evicted.
    pub evicted: u64,
}

struct Inner {
    used: u64,
    kept: u64,
    evicted: u64,
    next_id: u64,
    by_source: HashMap<IpAddr, u64>,
    reading: HashMap<u64, Reading>,
}

struct Reading {
    bytes: u64,
    since: Instant,
    evict: Arc<Notify>,
}

/// Reason why a body gets no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyMemoryError {
    /// The client address already holds its maximum.
    #[error("this client address already uses its share (1/8) of the memory for bodies")]
    Source,
    /// The budget is used up.
    #[error("the memory for buffered bodies is full")]
    Full,
}

/// Memory charged for one body, until it is dropped.
pub struct MemoryCharge {
    memory: BodyMemory,
    id: u64,
    source: IpAddr,
    bytes: u64,
    /// [`REQUEST_OVERHEAD`], once bytes are charged.
    overhead: u64,
    kept: bool,
    evict: Arc<Notify>,
}

impl BodyMemory {
    /// Creates a budget of `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self::with(total, REQUEST_OVERHEAD)
    }

    fn with(total: u64, beside: u64) -> Self {
        let inner = Inner {
            used: 0,
            kept: 0,
            evicted: 0,
            next_id: 0,
            by_source: HashMap::new(),
            reading: HashMap::new(),
        };

        Self {
            inner: Arc::new(Mutex::new(inner)),
            total,
            overhead: beside,
        }
    }

    /// Returns the number of bytes in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.lock().used
    }

    /// Returns the use of the budget.
    #[must_use]
    pub fn stats(&self) -> BodyMemoryStats {
        let inner = self.lock();
        BodyMemoryStats {
            used: inner.used,
            total: self.total,
            kept: inner.kept,
            kept_total: self.total / RETRY_SHARE,
            evicted: inner.evicted,
        }
    }

    /// Starts to charge a body of this client address.
    #[must_use]
    pub fn begin(&self, client: IpAddr) -> MemoryCharge {
        let evict = Arc::new(Notify::new());
        let mut inner = self.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.reading.insert(
            id,
            Reading {
                bytes: 0,
                since: Instant::now(),
                evict: Arc::clone(&evict),
            },
        );

        drop(inner);
        MemoryCharge {
            memory: self.clone(),
            id,
            source: address::source(client),
            bytes: 0,
            overhead: 0,
            kept: false,
            evict,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the integers valid.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryCharge {
    /// Charges bytes that have arrived.
    ///
    /// # Errors
    /// If there is no memory. For [`BodyMemoryError::Full`], the slowest other body was told to end;
    /// the caller may wait and try again.
    pub fn grow(&mut self, bytes: u64) -> Result<(), BodyMemoryError> {
        if bytes == 0 {
            // A request without a body is not charged.
            return Ok(());
        }

        let mut inner = self.memory.lock();
        let of_source = inner.by_source.get(&self.source).copied().unwrap_or(0);
        if of_source + bytes > self.memory.total / BODY_MEMORY_SHARES {
            return Err(BodyMemoryError::Source);
        }

        let beside = if self.overhead == 0 {
            self.memory.overhead
        } else {
            0
        };

        if inner.used + bytes + beside > self.memory.total {
            if let Some(slowest) = inner.slowest(self.id) {
                slowest.notify_one();
            }
            return Err(BodyMemoryError::Full);
        }

        inner.used += bytes + beside;
        self.overhead += beside;
        *inner.by_source.entry(self.source).or_insert(0) += bytes;
        self.bytes += bytes;

        if let Some(reading) = inner.reading.get_mut(&self.id) {
            reading.bytes = self.bytes;
        }

        Ok(())
    }

    /// Moves the charge to the separate memory for retries, because the body is only needed if the
    /// attempt fails. Returns `false`, without a change, if that memory is used up.
    pub fn keep_for_retry(&mut self) -> bool {
        let mut inner = self.memory.lock();
        if self.kept {
            return true;
        }

        if inner.kept + self.bytes > self.memory.total / RETRY_SHARE {
            return false;
        }

        inner.kept += self.bytes;
        inner.give_back(self.source, self.bytes, self.overhead);
        drop(inner);
        self.kept = true;

        true
    }

    /// Resolves when this body must end, because it is the slowest and the budget is full.
    pub async fn evicted(&self) {
        self.evict.notified().await;
        self.memory.lock().evicted += 1;
    }

    /// Records that the body was received completely, so that it is no longer evicted.
    pub fn complete(&self) {
        self.memory.lock().reading.remove(&self.id);
    }
}

/// Divisor of the budget: the memory for retries is an additional eighth.
const RETRY_SHARE: u64 = 8;

impl Inner {
    fn give_back(&mut self, source: IpAddr, bytes: u64, beside: u64) {
        self.used -= bytes + beside;
        if let Some(held) = self.by_source.get_mut(&source) {
            *held -= bytes;
            if *held == 0 {
                self.by_source.remove(&source);
            }
        }
    }

    /// Returns the body with the lowest rate, other than `but`.
    fn slowest(&self, but: u64) -> Option<Arc<Notify>> {
        let rate = |reading: &Reading| {
            reading.bytes as f64 / reading.since.elapsed().as_secs_f64().max(GRACE_SECS)
        };

        self.reading
            .iter()
            .filter(|(id, reading)| **id != but && reading.bytes > 0)
            .min_by(|(_, a), (_, b)| rate(a).total_cmp(&rate(b)))
            .map(|(_, reading)| Arc::clone(&reading.evict))
    }
}

/// Minimum time, in seconds, before a body counts as slow.
const GRACE_SECS: f64 = 1.0;

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        let mut inner = self.memory.lock();
        inner.reading.remove(&self.id);
        match self.kept {
            true => inner.kept -= self.bytes,
            false => inner.give_back(self.source, self.bytes, self.overhead),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn one_address_gets_an_eighth_and_gives_it_back() {
        let budget = BodyMemory::with(80, 0);
        let mut first = budget.begin(client(1));
        let mut second = budget.begin(client(1));
        assert_eq!(first.grow(6), Ok(()));
        assert_eq!(second.grow(6), Err(BodyMemoryError::Source));
        drop(first);
        assert_eq!(second.grow(6), Ok(()));
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn bodies_kept_for_a_retry_take_no_memory_from_others() {
        let budget = BodyMemory::with(80, 0);
        let [mut first, mut second] = [budget.begin(client(1)), budget.begin(client(1))];
        assert_eq!(first.grow(6), Ok(()));
        assert!(first.keep_for_retry() && first.keep_for_retry());
        assert_eq!((budget.used(), second.grow(10)), (0, Ok(())));
        assert!(!second.keep_for_retry(), "an eighth is kept at most");
        drop(first);
        assert!(second.keep_for_retry());
        drop(second);

        assert_eq!((budget.used(), budget.lock().kept), (0, 0));
    }

    #[test]
    fn what_a_request_needs_beside_its_body_counts_once_and_for_no_address() {
        let budget = BodyMemory::with(80, 30);
        let [mut first, mut second, mut third] = [1, 1, 2].map(|n| budget.begin(client(n)));
        assert_eq!(
            (third.grow(0), budget.used()),
            (Ok(()), 0),
            "a piece of nothing"
        );
        assert_eq!([first.grow(4), first.grow(1), second.grow(5)], [Ok(()); 3]);
        assert_eq!(
            (budget.used(), third.grow(1)),
            (70, Err(BodyMemoryError::Full))
        );

        drop(first);
        assert_eq!((third.grow(1), budget.used()), (Ok(()), 66));
        drop((second, third));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_slowest_goes_before_a_new_one_is_refused() {
        let budget = BodyMemory::with(80, 0);
        let mut held: Vec<MemoryCharge> = (0..8).map(|n| budget.begin(client(n))).collect();
        for charge in &mut held {
            charge
                .grow(if charge.source == client(3) { 9 } else { 10 })
                .unwrap();
        }

        let mut new = budget.begin(client(99));
        assert_eq!(new.grow(10), Err(BodyMemoryError::Full));
        let evicted = held.iter().position(|charge| {
            let mut evicted = std::pin::pin!(charge.evicted());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            evicted.as_mut().poll(&mut context).is_ready()
        });
        assert_eq!(evicted, Some(3));
        held.remove(3);

        assert_eq!(new.grow(9), Ok(()));
    }
}
