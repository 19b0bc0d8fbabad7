//! Detection of a suspend: the time of day advanced, and monotonic time did not.

use std::time::{Duration, Instant};

use hookward_core::clock::UnixMillis;

/// Compares both clocks. On Linux, the monotonic one stops during a suspend (CLOCK_MONOTONIC,
/// clock_gettime(2)).
#[derive(Debug)]
pub(crate) struct SuspendDetector {
    seen: (Instant, UnixMillis),
}

impl SuspendDetector {
    /// Starts to compare at this moment.
    #[must_use]
    pub(crate) const fn new(now: Instant, time_of_day: UnixMillis) -> Self {
        Self {
            seen: (now, time_of_day),
        }
    }

    /// Returns `true` if the machine was suspended since the last call.
    pub(crate) fn was_suspended(&mut self, now: Instant, time_of_day: UnixMillis) -> bool {
        let (before, day_before) = std::mem::replace(&mut self.seen, (now, time_of_day));
        let passed = Duration::from_millis(time_of_day.0.saturating_sub(day_before.0));
        passed.saturating_sub(now.duration_since(before)) > MIN_SUSPEND
    }
}

/// Minimum difference that counts as a suspend; less is a clock adjustment.
const MIN_SUSPEND: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_passed_for_the_clock_only_was_sleep() {
        let (begin, day) = (Instant::now(), UnixMillis(1_000_000));
        let mut watch = SuspendDetector::new(begin, day);
        let second = Duration::from_secs(1);
        assert!(!watch.was_suspended(begin + second, UnixMillis(day.0 + 1_000)));

        // The process was stopped, but its monotonic clock advanced.
        assert!(!watch.was_suspended(begin + second * 60, UnixMillis(day.0 + 60_000)));
        // A clock that is adjusted by a little, or backwards.
        assert!(!watch.was_suspended(begin + second * 61, UnixMillis(day.0 + 65_000)));
        assert!(!watch.was_suspended(begin + second * 62, UnixMillis(day.0)));
        assert!(watch.was_suspended(begin + second * 63, UnixMillis(day.0 + 3_600_000)));
        assert!(
            !watch.was_suspended(begin + second * 64, UnixMillis(day.0 + 3_601_000)),
            "once"
        );
    }
}
