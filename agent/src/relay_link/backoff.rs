//! When the next attempt to reach a relay is due, and how long it may take.
//!
//! In the first minutes of an outage a new attempt starts at least every second: whoever restarts a
//! relay, or walks from one network to the next, does not wait for a backoff. Later they become
//! rarer, with jitter, so that a relay that comes back is not met by all its agents at once.

use std::time::{Duration, Instant};

/// Attempts of one outage.
#[derive(Debug)]
pub(crate) struct Backoff {
    since: Instant,
    attempts: u32,
    pause: Duration,
}

impl Backoff {
    /// An outage that begins now.
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

    /// After what pause the next attempt begins.
    #[must_use]
    pub(crate) const fn pause(&self) -> Duration {
        self.pause
    }

    /// An attempt begins: how long it may take.
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

/// For so long an outage counts as young.
const OUTAGE_YOUNG: Duration = Duration::from_secs(600);

/// The longest pause of a young outage.
const YOUNG_MAX_PAUSE: Duration = Duration::from_secs(1);

const MAX_PAUSE: Duration = Duration::from_secs(15);

/// An attempt of a young outage is given up after this: the next one has begun already.
const YOUNG_TIMEOUT: Duration = Duration::from_secs(2);

/// An attempt of an old one, and now and then one of a young one: some links are slow.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Every so manyth attempt is a patient one.
const PATIENT_ATTEMPTS: u32 = 5;

/// From 0.5 to 1: so that those who wait for the same thing do not come at one time.
pub(crate) fn jitter() -> f64 {
    0.5 + random() / 2.0
}

/// A number from 0 to 1.
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
