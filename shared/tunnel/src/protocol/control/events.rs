//! Refusals, for the tunnel's owner.

use hookward_core::reason::Check;
use serde::{Deserialize, Serialize};

/// Reason why the relay refused an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// The credential is unknown or was withdrawn.
    Credential,
    /// The join token is unknown, used or expired.
    JoinToken,
    /// The host belongs to another agent, or cannot be assigned.
    Host,
    /// The policy is unusable.
    Policy,
    /// The relay could not do it now; a retry may succeed.
    Unavailable,
    /// A reason from a newer version.
    #[serde(other)]
    Other,
}

/// A request that the relay refused, for the tunnel's owner. Text is already escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRequest {
    /// Id of the request, in hex.
    pub id: String,
    /// Public host.
    pub host: String,
    /// Method, escaped.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Client address.
    pub client: String,
    /// Status of the response.
    pub status: u16,
    /// Check that refused.
    pub check: Check,
    /// Reason of the refusal.
    pub reason: String,
    /// Time until the refusal, in milliseconds.
    #[serde(default)]
    pub ms: u64,
    /// `true` if the request was forwarded anyway, because the route only observes.
    #[serde(default)]
    pub observed: bool,
    /// `true` if the relay answered the request itself: a challenge, a duplicate.
    #[serde(default)]
    pub answered: bool,
    /// `true` if the request is forwarded, and this is only a hint about it.
    #[serde(default)]
    pub note: bool,
    /// Milliseconds from the response to this message, by which the agent orders it among other
    /// requests on its own clock.
    #[serde(default)]
    pub age_ms: u64,
    /// Time of the response by the relay's clock, in milliseconds since 1970.
    #[serde(default)]
    pub at_ms: u64,
    /// Number of the event among all events of the relay's process.
    #[serde(default)]
    pub order: u64,
}
