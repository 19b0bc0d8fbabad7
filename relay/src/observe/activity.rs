//! Activity of the last hour: requests, refusals by check and durations in each minute. Memory is
//! bounded: it does not grow with the number of requests.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hookward_core::reason::Check;

use crate::observe::outcome::{RequestOutcome, Verdict};

/// Number of minutes that are kept.
const MINUTES: usize = 60;

/// Counts of each of the last [`MINUTES`].
#[derive(Default)]
pub(crate) struct LastHour {
    // A std mutex: it guards counters, and nothing waits while it is held.
    minutes: Mutex<MinuteRing>,
}

#[derive(Default)]
struct MinuteRing {
    /// Number of the newest minute.
    newest: u64,
    /// Counts, the newest minute last.
    counts: VecDeque<MinuteCounts>,
}

/// Counts of one minute.
#[derive(Clone)]
pub(crate) struct MinuteCounts {
    /// Number of requests.
    pub requests: u64,
    refusals: [u32; Check::ALL.len()],
    /// Forwarded requests by duration, in the buckets of [`bucket_of`].
    durations: [u32; BUCKETS],
}

/// Buckets of a duration for each doubling: a percentile is at most 19 % too high.
const BUCKETS_PER_DOUBLING: f64 = 4.0;

/// Number of buckets: up to 2³² µs, which is 71 minutes. A route waits at most an hour.
const BUCKETS: usize = 32 * BUCKETS_PER_DOUBLING as usize;

impl Default for MinuteCounts {
    fn default() -> Self {
        Self {
            requests: 0,
            refusals: [0; Check::ALL.len()],
            durations: [0; BUCKETS],
        }
    }
}

impl MinuteCounts {
    fn add(&mut self, outcome: &RequestOutcome) {
        self.requests += 1;
        match &outcome.verdict {
            Verdict::Refused(refusal) => increment(&mut self.refusals, refusal.check as usize),
            Verdict::Forwarded(_) => increment(&mut self.durations, bucket_of(outcome.took)),
            _ => {}
        }
    }

    /// Returns the number of refusals by a check.
    pub(crate) fn refusals(&self, check: Check) -> u64 {
        let count = self.refusals.get(check as usize);
        count.copied().map_or(0, u64::from)
    }

    /// Returns the duration that this part of the forwarded requests did not exceed, in microseconds;
    /// `None` without requests.
    pub(crate) fn percentile(&self, part: f64) -> Option<u64> {
        let total: u64 = self.durations.iter().copied().map(u64::from).sum();
        let wanted = ((total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.durations.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        })?;
        Some(2_f64.powf((bucket + 1) as f64 / BUCKETS_PER_DOUBLING) as u64)
    }
}

fn increment(counts: &mut [u32], at: usize) {
    if let Some(count) = counts.get_mut(at) {
        *count = count.saturating_add(1);
    }
}

/// Returns the bucket of a duration. The longest ones share the last bucket.
fn bucket_of(duration: Duration) -> usize {
    let micros = (duration.as_micros() as f64).max(1.0);
    ((micros.log2() * BUCKETS_PER_DOUBLING) as usize).min(BUCKETS - 1)
}

impl LastHour {
    /// Counts the outcome of a request in this minute.
    pub(super) fn request(&self, outcome: &RequestOutcome, minute: u64) {
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.advance(minute);
        if let Some(newest) = minutes.counts.back_mut() {
            newest.add(outcome);
        }
    }

    /// Returns the counts of the last hour, the oldest minute first.
    pub(crate) fn counts(&self, minute: u64) -> Vec<MinuteCounts> {
        let mut minutes = self.minutes.lock().unwrap_or_else(PoisonError::into_inner);
        minutes.advance(minute);
        minutes.counts.iter().cloned().collect()
    }
}

impl MinuteRing {
    /// Adds minutes until this one. Requests that end around a full minute arrive in any order.
    fn advance(&mut self, minute: u64) {
        let missing = match self.counts.is_empty() {
            true => MINUTES as u64,
            false => minute.saturating_sub(self.newest).min(MINUTES as u64),
        };
        for _ in 0..missing {
            self.counts.push_back(MinuteCounts::default());
        }
        while self.counts.len() > MINUTES {
            self.counts.pop_front();
        }
        self.newest = self.newest.max(minute);
    }
}

#[cfg(test)]
mod tests {
    use hookward_core::reason::Refusal;

    use super::*;
    use crate::observe::outcome::{BodySizes, UpstreamResult};

    fn outcome(verdict: Verdict, took: Duration) -> RequestOutcome {
        RequestOutcome {
            verdict,
            status: None,
            took,
            sizes: BodySizes::default(),
            observed: None,
            note: None,
        }
    }

    #[test]
    fn minutes_move_through_the_hour() {
        let refused = |check| {
            let refusal = Refusal::new(check, hookward_core::reason::Code::Overloaded, "no");
            outcome(Verdict::Refused(refusal), Duration::ZERO)
        };
        let activity = LastHour::default();
        activity.request(&refused(Check::Signature), 1000);
        activity.request(&refused(Check::Signature), 1000);
        activity.request(&refused(Check::Token), 1002);
        // It ended before, and arrives after.
        activity.request(&refused(Check::Token), 1001);

        let signatures = |minute| {
            let hour = activity.counts(minute);
            assert_eq!(hour.len(), MINUTES);
            let counts = hour.iter().map(|minute| minute.refusals(Check::Signature));
            counts.collect::<Vec<_>>()
        };
        assert_eq!(signatures(1002)[MINUTES - 3..], [2, 0, 0]);
        assert_eq!(activity.counts(1002)[MINUTES - 1].refusals(Check::Token), 2);
        assert_eq!(signatures(1059)[0], 2);
        assert_eq!(signatures(1060).iter().sum::<u64>(), 0);
        assert_eq!(signatures(9_000_000).iter().sum::<u64>(), 0);
    }

    #[test]
    fn percentiles_are_exact_to_a_fifth() {
        let activity = LastHour::default();
        for millis in 1..=100 {
            let upstream = UpstreamResult {
                took: Duration::ZERO,
                attempts: 1,
            };
            let forwarded = outcome(Verdict::Forwarded(upstream), Duration::from_millis(millis));
            activity.request(&forwarded, 5);
        }
        let hour = activity.counts(5);
        let newest = hour.last().unwrap();
        for (part, expected) in [(0.5, 50_000), (0.99, 99_000), (1.0, 100_000)] {
            let found = newest.percentile(part).unwrap();
            assert!(
                (expected..expected * 6 / 5).contains(&found),
                "{part}: {found}"
            );
        }
        assert_eq!(hour[0].percentile(0.5), None);
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!(bucket_of(Duration::from_secs(100_000)), BUCKETS - 1);
    }
}
