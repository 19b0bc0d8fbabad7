//! Decides what follows the end of an attempt.

use std::time::Duration;

use hookward_core::reason::Code;
use hookward_gate::policy::Delivery;
use http::StatusCode;

use crate::storage::deliveries::{LastResponse, Outcome};

/// End of an attempt.
#[derive(Debug)]
pub(crate) enum AttemptEnd {
    /// The application responded.
    Response {
        status: StatusCode,
        /// Time of `Retry-After`.
        retry_after: Option<Duration>,
        response: LastResponse,
    },
    /// No response came.
    Failed { code: Code, reason: String },
    /// One of the gates refuses the webhook, or its payload is unusable.
    Refused { reason: String },
}

/// Circumstances of a decision.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Circumstances {
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Time since the receipt.
    pub age: Duration,
    pub max_age: Duration,
    /// Random number from 0 to 1.
    pub random: f64,
}

impl AttemptEnd {
    /// Returns `true` if the application is down, or its proxy answers for it; `None` if the attempt
    /// did not reach it.
    pub(crate) fn is_outage(&self) -> Option<bool> {
        match self {
            Self::Failed {
                code: Code::AgentOffline | Code::Overloaded,
                ..
            }
            | Self::Refused { .. } => None,
            Self::Failed { .. } => Some(true),
            Self::Response { status, .. } => Some(matches!(status.as_u16(), 502..=504)),
        }
    }

    /// Returns what follows.
    pub(crate) fn decide(self, delivery: &Delivery, circumstances: Circumstances) -> Outcome {
        let (status, error, retry_after, response) = match self {
            Self::Refused { reason } => {
                return Outcome::Dead {
                    status: None,
                    reason,
                    response: None,
                };
            }
            Self::Response { status, .. } if status.is_success() => {
                return Outcome::Delivered {
                    status: status.as_u16(),
                };
            }
            Self::Response {
                status, response, ..
            } if !delivery.retries(status.as_u16()) => {
                return Outcome::Dead {
                    status: Some(status.as_u16()),
                    reason: format!("the application answered {}", status.as_u16()),
                    response: Some(response),
                };
            }
            Self::Response {
                status,
                retry_after,
                response,
            } => {
                let error = format!("the application answered {}", status.as_u16());
                (Some(status.as_u16()), error, retry_after, Some(response))
            }
            Self::Failed { code, reason } => (None, format!("{code}: {reason}"), None, None),
        };

        if circumstances.age >= circumstances.max_age {
            let seconds = circumstances.max_age.as_secs();
            return Outcome::Dead {
                status,
                reason: format!("older than {seconds} s (max_age); the last attempt: {error}"),
                response,
            };
        }
        let wait = backoff(circumstances.attempt, circumstances.random);
        Outcome::Retry {
            after: wait.max(retry_after.unwrap_or_default()).min(LONGEST_WAIT),
            status,
            error,
        }
    }
}

/// Returns the wait before the next attempt: random, up to a bound that doubles ("full jitter",
/// aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter).
fn backoff(attempt: u32, random: f64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(MAX_DOUBLINGS);
    let bound = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    bound.mul_f64(random.clamp(0.0, 1.0)).max(SHORTEST_WAIT)
}

/// Bound of the wait after the first attempt.
const FIRST_WAIT: Duration = Duration::from_secs(5);

/// Shortest wait, so that random numbers near zero cause no burst.
const SHORTEST_WAIT: Duration = Duration::from_millis(500);

/// Longest wait between two attempts.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Number of doublings after which the bound is the longest wait.
const MAX_DOUBLINGS: u32 = 10;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hookward_gate::policy::DeliveryMode;

    use super::*;

    fn response(status: u16, retry_after: Option<u64>) -> AttemptEnd {
        AttemptEnd::Response {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(Duration::from_secs),
            response: LastResponse {
                head: String::new(),
                body: Bytes::new(),
            },
        }
    }

    fn decide(end: AttemptEnd, attempt: u32, age: u64) -> Outcome {
        let circumstances = Circumstances {
            attempt,
            age: Duration::from_secs(age),
            max_age: Duration::from_secs(3600),
            random: 1.0,
        };
        end.decide(&Delivery::new(DeliveryMode::Queue), circumstances)
    }

    #[test]
    fn statuses_decide() {
        for status in [200, 202, 204] {
            let outcome = decide(response(status, None), 1, 0);
            assert!(matches!(outcome, Outcome::Delivered { .. }), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 599] {
            let outcome = decide(response(status, None), 1, 0);
            assert!(matches!(outcome, Outcome::Retry { .. }), "{status}");
        }
        for status in [301, 304, 400, 401, 404, 410, 422] {
            let outcome = decide(response(status, None), 1, 0);
            assert!(matches!(outcome, Outcome::Dead { .. }), "{status}");
        }
    }

    #[test]
    fn waits_double_up_to_an_hour_and_follow_retry_after() {
        let wait = |attempt, retry_after| match decide(response(503, retry_after), attempt, 0) {
            Outcome::Retry { after, .. } => after.as_secs(),
            outcome => panic!("{outcome:?}"),
        };
        assert_eq!(
            [1, 2, 3, 99].map(|attempt| wait(attempt, None)),
            [5, 10, 20, 3600]
        );
        assert_eq!(wait(1, Some(60)), 60);
        assert_eq!(wait(1, Some(1_000_000)), 3600);
        assert!(backoff(1, 0.0) > Duration::ZERO);
    }

    #[test]
    fn an_old_delivery_is_given_up_after_an_attempt() {
        let failed = AttemptEnd::Failed {
            code: Code::AgentOffline,
            reason: "no agent".to_owned(),
        };
        let Outcome::Dead { reason, .. } = decide(failed, 7, 3600) else {
            panic!("tried again");
        };
        assert!(
            reason.contains("max_age") && reason.contains("no agent"),
            "{reason}"
        );
    }
}
