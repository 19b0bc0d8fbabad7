//! Responses of the relay itself, and the reasons for them.

use crate::forward::ForwardError;
use hookward_core::reason::Refusal;
use hookward_gate::providers::challenge::ChallengeResponse;

/// Reason why the relay answers a request itself.
pub(super) enum Rejection {
    Refused(Refusal),
    /// The request was permitted, and forwarding failed.
    Failed(ForwardError),
    /// No agent is connected.
    Offline,
    /// Too many requests of this client address are in progress.
    Overloaded,
}

/// A response that is neither a refusal nor the application's.
pub(super) enum RelayResponse {
    /// Response to a provider's challenge.
    Challenge(Box<ChallengeResponse>),
    /// Acknowledgement of a duplicate delivery.
    Acknowledged,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
