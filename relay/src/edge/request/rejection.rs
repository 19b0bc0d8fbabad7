//! Responses of the relay itself, and the reasons for them.

use crate::forward::ForwardError;
use hookward_core::reason::Refusal;
use hookward_gate::providers::challenge::ChallengeResponse;

/// Reason why the relay answers a request itself.
pub(super) enum Rejection {
    Refused(Refusal),
    /// The request was permitted, and forwarding failed.
    Failed(ForwardError),
    /// There is no agent to take it.
    Offline,
    /// Too many requests of this client address are in progress.
    Overloaded,
}

/// An answer that no gate refused and no application gave.
pub(super) enum RelayResponse {
    /// To a provider's handshake.
    Handshake(Box<ChallengeResponse>),
    /// To a delivery that came before.
    Acknowledged,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
