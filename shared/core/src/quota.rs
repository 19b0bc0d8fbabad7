//! Quota of lines per second, which counts the rest by kind.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Allows a number of lines a second, and counts the others by kind.
#[derive(Debug)]
pub struct Quota<K> {
    limit: usize,
    /// Times of the last lines within [`WINDOW`].
    recent: VecDeque<Instant>,
    counted: BTreeMap<K, u64>,
}

impl<K: Ord> Quota<K> {
    /// Creates a quota of this many lines a second.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            limit: most,
            recent: VecDeque::new(),
            counted: BTreeMap::new(),
        }
    }

    /// Returns `true` if one more line may pass; otherwise counts it.
    pub fn take(&mut self, kind: K) -> bool {
        while self.recent.front().is_some_and(|at| at.elapsed() >= WINDOW) {
            self.recent.pop_front();
        }

        if self.recent.len() < self.limit {
            self.recent.push_back(Instant::now());
            return true;
        }

        *self.counted.entry(kind).or_insert(0) += 1;
        false
    }

    /// Returns `true` if nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counted.is_empty()
    }

    /// Returns the counts since the last call.
    pub fn take_counted(&mut self) -> Vec<(K, u64)> {
        std::mem::take(&mut self.counted).into_iter().collect()
    }
}

/// Window of the quota.
const WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted() {
        let mut quota = Quota::new(3);
        let passed = (0..10).filter(|n| quota.take(n % 2)).count();
        assert_eq!(passed, 3);
        assert_eq!(quota.take_counted(), [(0, 3), (1, 4)]);
        assert!(quota.is_empty());
    }
}
