//! Refusals: the response to the sender, and the reason for the tunnel's owner.

use crate::reason::Check;
use crate::reason::Code;
use http::StatusCode;
use std::fmt;

/// A refusal: the response to the sender, and the reason for the tunnel's owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Check that refused.
    pub check: Check,
    /// Code of the response.
    pub code: Code,
    /// Status of the response: the code's own, unless a provider requires another one.
    pub status: StatusCode,
    /// Reason, for the tunnel's owner only. Contains no secret, and text of the sender only
    /// escaped.
    pub reason: String,
    /// Seconds after which a retry may succeed, if known.
    pub retry_after: Option<u64>,
    /// `true` if only a sender without the secret can fail in this way, and no provider with a wrong
    /// clock or a long queue.
    pub is_unverified: bool,
    /// Closeness of the request to passing this check. Of several refusals, the relay reports the
    /// closest.
    pub closeness: u8,
    /// `true` if user and password could permit the request: some clients send them only after a
    /// challenge (RFC 9110 §11.6.1).
    pub asks_for_basic: bool,
}

impl Refusal {
    /// Creates a refusal with the code's own status.
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

    /// Returns the progress of the request: the later check, and within it the closer miss.
    #[must_use]
    pub const fn progress(&self) -> (Check, u8) {
        (self.check, self.closeness)
    }

    /// Returns the reason for records.
    #[must_use]
    pub fn recorded_reason(&self) -> &str {
        self.check.recorded_reason(&self.reason)
    }

    /// Creates the refusal of a malformed, ambiguous or oversized request.
    pub fn malformed(reason: impl Into<String>) -> Self {
        Self::new(Check::Syntax, Code::Malformed, reason)
    }

    /// Creates the refusal of a failed check: 403, without a reason for the sender.
    pub fn failed(check: Check, reason: impl Into<String>) -> Self {
        Self::new(check, Code::Refused, reason)
    }
}

impl Check {
    /// Returns the reason of a refusal for records. Reasons of rules for header fields and bodies quote
    /// the request and the policy, so only the tunnel's owner gets them.
    #[must_use]
    pub const fn recorded_reason(self, reason: &str) -> &str {
        match self {
            Self::Header => {
                "a header field is missing, or has a value that the rule does not allow"
            }
            Self::ContentType => "the content type is missing, or the rule does not allow it",
            Self::BodyRule => "a value in the body is missing, or the rule does not allow it",
            _ => reason,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.reason)
    }
}
