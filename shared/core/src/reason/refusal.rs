//! A refusal: the response to the sender, and the reason for the tunnel's owner.

use crate::reason::Check;
use crate::reason::Code;
use http::StatusCode;
use std::fmt;

/// A refusal: what the sender gets, and what the tunnel's owner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The check that refused.
    pub check: Check,
    /// The code of the answer.
    pub code: Code,
    /// The status of the answer: the code's own, unless a provider wants another one.
    pub status: StatusCode,
    /// Reason, for the tunnel's owner only. Contains no secret, and text of the sender only
    /// escaped.
    pub reason: String,
    /// Seconds after which it makes sense to try again, where that is known.
    pub retry_after: Option<u64>,
    /// `true` if only a sender without the secret can fail so, and no provider with a wrong clock
    /// or a long queue.
    pub is_unverified: bool,
    /// Closeness of the request to passing this check. Of several refusals, the relay reports the
    /// closest.
    pub closeness: u8,
    /// `true` if user and password could let the sender in: some clients send them only after a
    /// challenge (RFC 9110 §11.6.1).
    pub asks_for_basic: bool,
}

impl Refusal {
    /// A refusal with the code's own status.
    pub fn new(check: Check, code: Code, reason: impl Into<String>) -> Self {
        Self {
            check,
            code,
            status: code.status(),
            reason: reason.into(),
            retry_after: None,
            is_unverified: false,
            closeness: 0,
            asks_for_basic: false,
        }
    }

    /// Returns the refusal with a Retry-After of this many milliseconds.
    #[must_use]
    pub fn after(self, wait_ms: u64) -> Self {
        Self {
            retry_after: Some(wait_ms.div_ceil(1000).max(1)),
            ..self
        }
    }

    /// Progress of the request: the later check, and within it the closer miss.
    #[must_use]
    pub const fn progress(&self) -> (Check, u8) {
        (self.check, self.closeness)
    }

    /// A request that is malformed, ambiguous or oversized.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::new(Check::Syntax, Code::Malformed, reason)
    }

    /// A failed check: 403, no reason given to the sender.
    pub fn failed(check: Check, reason: impl Into<String>) -> Self {
        Self::new(check, Code::Refused, reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.reason)
    }
}
