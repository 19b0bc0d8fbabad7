//! Activity of one tunnel: number, rates and durations of its requests.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counts of one tunnel. Memory is bounded.
#[derive(Clone, Default)]
pub(crate) struct TunnelActivity {
    count: u64,
    /// Number of requests in each slot of [`SLOT`], newest last.
    slots: VecDeque<(Instant, u64)>,
    /// Durations of the last requests.
    durations: VecDeque<Duration>,
}

/// Length of a slot.
const SLOT: Duration = Duration::from_secs(5);

/// Time for which slots are kept: the longest rate.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// Number of durations for the percentiles.
const DURATIONS: usize = 1000;

impl TunnelActivity {
    /// Counts a request. `took` is the time until the application's response, if there was one.
    pub(super) fn count(&mut self, took: Option<Duration>) {
        let now = Instant::now();
        self.count += 1;
        match self.slots.back_mut() {
            Some((begin, count)) if now.duration_since(*begin) < SLOT => *count += 1,
            _ => self.slots.push_back((now, 1)),
        }
        while self
            .slots
            .front()
            .is_some_and(|(begin, _)| now.duration_since(*begin) > KEPT)
        {
            self.slots.pop_front();
        }

        let Some(took) = took else { return };
        if self.durations.len() == DURATIONS {
            self.durations.pop_front();
        }
        self.durations.push_back(took);
    }

    /// Returns the number of requests.
    pub(crate) const fn requests(&self) -> u64 {
        self.count
    }

    /// Returns the requests a second in the last minutes.
    pub(crate) fn rate(&self, minutes: u64) -> f64 {
        let span = Duration::from_secs(minutes * 60);
        let now = Instant::now();
        let recent = self
            .slots
            .iter()
            .filter(|(begin, _)| now.duration_since(*begin) <= span);
        let count: u64 = recent.map(|(_, count)| count).sum();
        count as f64 / span.as_secs_f64()
    }

    /// Returns the duration that this share of the last requests did not exceed.
    pub(crate) fn percentile(&self, share: f64) -> Duration {
        let mut sorted: Vec<_> = self.durations().collect();
        sorted.sort_unstable();
        percentile(&sorted, share)
    }

    /// Returns the durations of the last requests.
    pub(super) fn durations(&self) -> impl Iterator<Item = Duration> {
        self.durations.iter().copied()
    }
}

/// Returns the duration that this share of sorted durations does not exceed.
pub(super) fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let index = (sorted.len().saturating_sub(1)) as f64 * share;
    sorted.get(index as usize).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_percentiles() {
        let mut activity = TunnelActivity::default();
        assert_eq!(activity.percentile(0.5), Duration::ZERO);
        for millis in 0..2000 {
            activity.count(Some(Duration::from_millis(millis)));
        }
        activity.count(None);
        assert_eq!(activity.requests(), 2001);
        assert!((activity.rate(1) - 2001.0 / 60.0).abs() < 0.01);
        assert_eq!(activity.durations.len(), DURATIONS);
        assert_eq!(activity.percentile(0.5), Duration::from_millis(1499));
        assert_eq!(activity.percentile(1.0), Duration::from_millis(1999));
    }
}
