//! Schedule of the attempts to connect to a relay, and their timeouts.
//!
//! In the first minutes of an outage, attempts start at least every second, so that a restarted
//! relay or a changed network is noticed at once. Later they become rarer, with jitter, so that a
//! recovered relay does not get all its agents at once.

use std::time::{Duration, Instant};

/// Schedule of one outage.
#[derive(Debug)]
pub(crate) struct Backoff {
    since: Instant,
    attempts: u32,
    pause: Duration,
}

impl Backoff {
    /// Starts the schedule of an outage.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            attempts: 0,
            pause: Duration::ZERO,
        }
    }

    /// Returns the number of attempts so far.
    #[must_use]
    pub(crate) const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns the pause before the next attempt.
    #[must_use]
    pub(crate) const fn pause(&self) -> Duration {
        self.pause
    }

    /// Starts an attempt, and returns its timeout.
    pub(crate) fn next(&mut self, now: Instant) -> Duration {
        let young = now.duration_since(self.since) < OUTAGE_YOUNG;
        self.attempts = self.attempts.saturating_add(1);
        let patient = !young || self.attempts.is_multiple_of(PATIENT_ATTEMPTS);
        let bound = INITIAL_PAUSE.saturating_mul(2_u32.saturating_pow(self.attempts.min(16)));
        let bound = bound.min(if young { YOUNG_MAX_PAUSE } else { MAX_PAUSE });
        self.pause = bound.mul_f64(jitter());
        if patient {
            ATTEMPT_TIMEOUT
        } else {
            YOUNG_TIMEOUT
        }
    }
}

const INITIAL_PAUSE: Duration = Duration::from_millis(200);

/// Time after which an outage is no longer young.
const OUTAGE_YOUNG: Duration = Duration::from_secs(600);

/// Maximum pause in a young outage.
const YOUNG_MAX_PAUSE: Duration = Duration::from_secs(1);

const MAX_PAUSE: Duration = Duration::from_secs(15);

/// Timeout of an attempt in a young outage.
const YOUNG_TIMEOUT: Duration = Duration::from_secs(2);

/// Timeout of an attempt in an old outage, and of every fifth in a young one, because some links
/// are slow.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Interval of attempts with the long timeout.
const PATIENT_ATTEMPTS: u32 = 5;

/// Returns a factor from 0.5 to 1, which spreads simultaneous waits.
pub(crate) fn jitter() -> f64 {
    0.5 + random() / 2.0
}

/// Returns a random number from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_young_outage_is_tried_every_second_and_an_old_one_rarely() {
        let begin = Instant::now();
        let mut schedule = Backoff::new(begin);
        let mut at = Duration::ZERO;
        while at < OUTAGE_YOUNG {
            let (patience, pause) = (schedule.next(begin + at), schedule.pause());
            assert!(
                pause <= YOUNG_MAX_PAUSE && pause >= INITIAL_PAUSE / 2,
                "{pause:?}"
            );
            assert_eq!(
                patience == ATTEMPT_TIMEOUT,
                schedule.attempts().is_multiple_of(PATIENT_ATTEMPTS)
            );
            at += pause;
        }

        let (patience, pause) = (schedule.next(begin + at), schedule.pause());
        assert!(
            pause > YOUNG_MAX_PAUSE && pause <= MAX_PAUSE && patience == ATTEMPT_TIMEOUT,
            "{pause:?}"
        );
    }
}
