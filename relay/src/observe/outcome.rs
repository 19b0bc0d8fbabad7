//! Outcome of a request. The edge produces one for each request, and the observer consumes it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::trace::TraceId;
use hookward_gate::providers::challenge::ChallengeResponse;
use hookward_tunnel::protocol::head::{ExchangeRequest, RequestId};
use http::{Method, StatusCode};
use uuid::Uuid;

use crate::observe::owner_events::OwnerEvents;
use crate::storage::deliveries::StoreRefusal;

/// View of a request for the observer.
#[derive(Clone, Copy)]
pub(crate) struct RequestFacts<'r> {
    pub id: RequestId,
    /// Public host, or empty.
    pub host: &'r str,
    pub method: &'r Method,
    /// Path and query. Only the path is shown, because queries carry tokens.
    pub target: &'r [u8],
    /// Client address.
    pub client: IpAddr,
    /// Trace of the sender.
    pub trace: Option<TraceId>,
    /// Host of the tunnel, if an agent owns it.
    pub tunnel: Option<&'r str>,
    /// Name of the agent that serves the tunnel, while one is connected.
    pub agent: Option<&'r str>,
    /// Facts of the permit, if the gate gave one.
    pub permitted: Option<&'r Permitted>,
    /// The request, if it was refused and the owner wants it.
    pub refused: Option<&'r RefusedExchange>,
    /// Events of the tunnel's owner, while an agent is connected.
    pub owner: Option<&'r OwnerEvents>,
}

/// A refused request, for an owner that captures it.
pub(crate) struct RefusedExchange {
    pub head: ExchangeRequest,
    /// Whole body; `None` if no check has read it.
    pub body: Option<Bytes>,
    /// Size of the body in bytes, if it is known.
    pub body_bytes: Option<u64>,
}

/// Facts of a permit.
pub(crate) struct Permitted {
    /// Name of the route.
    pub route: String,
    /// Checks that the request passed.
    pub checks: Arc<[Check]>,
    /// Names of the secrets that matched.
    pub secrets: Vec<String>,
}

/// Outcome of a request.
pub(crate) struct RequestOutcome {
    pub verdict: Verdict,
    /// Status of the response; `None` if the sender got none.
    pub status: Option<StatusCode>,
    /// Time from the head of the request to the head of the response.
    pub took: Duration,
    pub sizes: BodySizes,
    /// Check that would have refused the request, if its route did not only observe.
    pub observed: Option<Refusal>,
    /// Hint for the tunnel's owner.
    pub note: Option<&'static str>,
}

/// End of a request.
pub(crate) enum Verdict {
    /// The application responded.
    Forwarded(UpstreamResult),
    /// The relay answered a provider's challenge.
    Challenge(Box<ChallengeResponse>),
    /// The relay stored the webhook, and delivers it later.
    Stored(StoredWebhook),
    /// The relay acknowledged a duplicate of an accepted delivery.
    Duplicate,
    /// A check of the relay refused.
    Refused(Refusal),
    /// The agent's gate refused, and has reported the reason to its owner.
    RefusedByAgent { code: Code, status: StatusCode },
    /// The request was permitted, and no response came.
    Failed(Failure),
    /// The relay has too many requests of this client address.
    Overloaded,
    /// The sender left before the response.
    Aborted,
}

/// A webhook that the relay has stored.
#[derive(Debug)]
pub(crate) struct StoredWebhook {
    /// Public id of the delivery.
    pub delivery: Uuid,
    /// `true` if the application should have responded instead.
    pub is_fallback: bool,
    /// Reason, for the tunnel's owner.
    pub reason: String,
}

/// Result of the exchange with the application.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamResult {
    /// Time from the permit to the head of the response.
    pub took: Duration,
    /// Number of sessions over which the relay sent the request.
    pub attempts: usize,
}

/// Failure to forward a permitted request.
pub(crate) struct Failure {
    pub code: Code,
    pub status: StatusCode,
    pub reason: String,
    /// Recipient of an event about it: the agent reports its own failures.
    pub reported_by: Reporter,
}

/// Program that reports a failure to the tunnel's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reporter {
    Relay,
    Agent,
    /// Without a connected agent, there is no recipient.
    Nobody,
}

/// Sizes of both bodies in bytes, as known at the head of the response.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct BodySizes {
    pub request: Option<u64>,
    pub response: Option<u64>,
}

impl From<Refusal> for Verdict {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Verdict {
    /// Returns the verdict on a request without a connected agent.
    pub(crate) fn offline() -> Self {
        Self::Failed(Failure {
            code: Code::AgentOffline,
            status: Code::AgentOffline.status(),
            reason: "no agent is connected for this host".to_owned(),
            reported_by: Reporter::Nobody,
        })
    }

    /// Returns the verdict on a permitted request while the audit log fails.
    pub(crate) fn unaudited() -> Self {
        Self::Failed(Failure {
            code: Code::AuditFailing,
            status: Code::AuditFailing.status(),
            reason: "the relay's audit log fails, and its settings refuse requests then".to_owned(),
            reported_by: Reporter::Relay,
        })
    }

    /// Returns the verdict on a permitted webhook that cannot be stored now.
    pub(crate) fn unstorable(refusal: StoreRefusal) -> Self {
        Self::Failed(Failure {
            code: Code::StorageUnavailable,
            status: Code::StorageUnavailable.status(),
            reason: format!("the webhook is not stored: {refusal}"),
            reported_by: Reporter::Relay,
        })
    }

    /// Returns the name of the event in records.
    pub(crate) const fn event(&self) -> &'static str {
        match self {
            Self::Forwarded(_) => "forwarded",
            Self::Stored(_) => "stored",
            Self::Challenge(_) | Self::Duplicate => "answered",
            Self::Refused(_) | Self::RefusedByAgent { .. } | Self::Overloaded => "refused",
            Self::Failed(_) => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Returns the check that decided, if one did.
    pub(crate) const fn check(&self) -> Option<Check> {
        match self {
            Self::Challenge(_) => Some(Check::Signature),
            Self::Duplicate => Some(Check::Replay),
            Self::Refused(refusal) => Some(refusal.check),
            Self::Failed(_) => Some(Check::Tunnel),
            Self::Forwarded(_)
            | Self::Stored(_)
            | Self::RefusedByAgent { .. }
            | Self::Overloaded
            | Self::Aborted => None,
        }
    }

    /// Returns the error code of the response, if it is an error.
    pub(crate) const fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(refusal) => Some(refusal.code),
            Self::RefusedByAgent { code, .. } => Some(*code),
            Self::Failed(failure) => Some(failure.code),
            Self::Overloaded => Some(Code::Overloaded),
            Self::Forwarded(_)
            | Self::Stored(_)
            | Self::Challenge(_)
            | Self::Duplicate
            | Self::Aborted => None,
        }
    }

    /// Returns the reason for records and the log of the operator.
    pub(crate) fn recorded_reason(&self) -> Option<&str> {
        match self {
            Self::Refused(refusal) => Some(refusal.recorded_reason()),
            _ => self.reason(),
        }
    }

    /// Returns the reason for the tunnel's owner.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Challenge(_) => Some("the provider's challenge"),
            Self::Duplicate => Some("acknowledged: duplicate of an accepted delivery"),
            Self::Refused(refusal) => Some(&refusal.reason),
            Self::Failed(failure) => Some(&failure.reason),
            Self::Stored(stored) => Some(&stored.reason),
            Self::Overloaded => Some("too many requests of this client address are in progress"),
            Self::Forwarded(_) | Self::RefusedByAgent { .. } | Self::Aborted => None,
        }
    }
}
