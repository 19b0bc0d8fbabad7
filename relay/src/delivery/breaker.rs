//! Circuit breaker of a tunnel's application, with one probe at a time and a slow start.

use std::time::{Duration, Instant};

/// Circuit breaker of one application.
#[derive(Debug)]
pub(super) struct Breaker {
    /// Maximum number of attempts at the same time.
    most: usize,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The application works; so many attempts may run at the same time.
    Closed { allowed: usize, failures: u32 },
    /// The application is down until a probe succeeds.
    Open { probe_at: Instant, wait: Duration },
}

impl Breaker {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            state: State::Closed {
                allowed: most,
                failures: 0,
            },
        }
    }

    /// Returns the number of attempts that may run at the same time now.
    pub(super) fn allowed(&self, now: Instant) -> usize {
        match self.state {
            State::Closed { allowed, .. } => allowed,
            State::Open { probe_at, .. } => usize::from(probe_at <= now),
        }
    }

    /// Returns the time of the next probe, if the application is down.
    pub(super) const fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { probe_at, .. } => Some(probe_at),
        }
    }

    /// Records a response that shows that the application works. Returns `true` if it was down.
    pub(super) fn succeeded(&mut self) -> bool {
        let was_down = matches!(self.state, State::Open { .. });
        let allowed = match self.state {
            // Slow start: one attempt after the probe, then more with each success.
            State::Open { .. } => 1,
            State::Closed { allowed, .. } => allowed.saturating_add(1),
        };
        self.state = State::Closed {
            allowed: allowed.min(self.most),
            failures: 0,
        };
        was_down
    }

    /// Records an outage.
    pub(super) fn failed(&mut self, now: Instant) {
        self.state = match self.state {
            State::Closed { allowed, failures } if failures + 1 < FAILURES => State::Closed {
                allowed: allowed.div_ceil(2),
                failures: failures + 1,
            },
            State::Closed { .. } => State::Open {
                probe_at: now + FIRST_WAIT,
                wait: FIRST_WAIT,
            },
            State::Open { wait, probe_at } if probe_at <= now => {
                let wait = wait.saturating_mul(2).min(LONGEST_WAIT);
                State::Open {
                    probe_at: now + wait,
                    wait,
                }
            }
            // An attempt that began before the breaker opened.
            open @ State::Open { .. } => open,
        };
    }

    /// Lets the next probe run at once: the agent reports that the application has returned.
    pub(super) fn probe_now(&mut self, now: Instant) {
        if let State::Open { wait, .. } = self.state {
            self.state = State::Open {
                probe_at: now,
                wait,
            };
        }
    }
}

/// Number of outages in a row that open the breaker.
const FAILURES: u32 = 3;

/// Wait before the first probe.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest wait between two probes.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_leaves_one_probe_and_starts_slowly() {
        let (mut breaker, start) = (Breaker::new(8), Instant::now());
        assert_eq!(breaker.allowed(start), 8);
        (0..FAILURES).for_each(|_| breaker.failed(start));
        assert_eq!(breaker.allowed(start), 0);

        let later = breaker.probe_at().unwrap();
        assert_eq!(breaker.allowed(later), 1);
        breaker.failed(later);
        assert_eq!(breaker.allowed(later), 0);
        assert_eq!(breaker.probe_at(), Some(later + 2 * FIRST_WAIT));

        breaker.probe_now(later);
        assert_eq!(breaker.allowed(later), 1);
        assert!(breaker.succeeded());
        assert_eq!(breaker.allowed(later), 1);
        assert!(!(0..20).any(|_| breaker.succeeded()));
        assert_eq!(breaker.allowed(later), 8);
    }

    #[test]
    fn single_failures_do_not_open_it() {
        let (mut breaker, now) = (Breaker::new(8), Instant::now());
        for _ in 0..10 {
            breaker.failed(now);
            breaker.succeeded();
        }
        assert!(breaker.allowed(now) >= 1);
    }
}
