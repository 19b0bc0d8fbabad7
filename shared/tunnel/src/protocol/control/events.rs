//! Refused requests, as the tunnel's owner sees them.

use hookward_core::reason::Check;
use serde::{Deserialize, Serialize};

/// Reason why the relay refused an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedReason {
    /// The credential is unknown or was withdrawn.
    Credential,
    /// The join token is unknown, used or too old.
    JoinToken,
    /// The host belongs to somebody else, or can't be given.
    Host,
    /// The policy can't be used.
    Policy,
    /// The relay could not do it now; asking again later makes sense.
    Unavailable,
    /// A reason from a newer version.
    #[serde(other)]
    Other,
}

/// A request that the relay refused, as the tunnel's owner sees it. Texts are already escaped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRequest {
    /// The request's id, in hex.
    pub id: String,
    /// Public host.
    pub host: String,
    /// Method, escaped.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// Client address.
    pub client: String,
    /// The status of the answer.
    pub status: u16,
    /// The check that refused.
    pub check: Check,
    /// Reason of the refusal.
    pub reason: String,
    /// Time until the refusal, in milliseconds.
    #[serde(default)]
    pub ms: u64,
    /// `true` if the request was forwarded all the same, because the route only observes.
    #[serde(default)]
    pub observed: bool,
    /// `true` if the relay answered the request itself: a challenge, a duplicate.
    #[serde(default)]
    pub answered: bool,
    /// `true` if it goes on to the application, and this is only a hint about it.
    #[serde(default)]
    pub note: bool,
    /// Milliseconds from its answer to this message: the agent shows it in its place among others,
    /// by its own clock.
    #[serde(default)]
    pub age_ms: u64,
}
