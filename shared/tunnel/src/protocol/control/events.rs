//! Refusals, for the tunnel's owner.

use data_encoding::BASE64;
use hookward_core::reason::Check;
use serde::{Deserialize, Serialize};

use crate::protocol::head::{ExchangeRequest, HeadError};

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
    /// The request itself, if the agent captures refused requests, and there is room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<RefusedContent>,
}

/// Request of a refusal, in Base64. It may hold secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedContent {
    /// Encoded head, as in an exchange.
    head: String,
    /// Beginning of the body.
    body: String,
    /// Size of the whole body in bytes, as far as it is known.
    body_bytes: u64,
    /// `true` if `body` is the whole body.
    is_whole: bool,
}

/// Decoded request of a refusal.
pub struct RefusedParts {
    /// Head of the request.
    pub head: ExchangeRequest,
    /// Beginning of the body.
    pub body: Vec<u8>,
    /// Size of the whole body in bytes, as far as it is known.
    pub body_bytes: u64,
    /// `true` if `body` is the whole body.
    pub is_whole: bool,
}

impl std::fmt::Debug for RefusedContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RefusedContent({} bytes)", self.len())
    }
}

impl RefusedContent {
    /// Maximum size of the part of a body, in bytes.
    pub const BODY_BYTES: usize = 64 * 1024;

    /// Encodes a request, with the beginning of its body if a check has read it. `body_bytes` is the
    /// size that the sender announced.
    #[must_use]
    pub fn new(request: &ExchangeRequest, body: Option<&[u8]>, body_bytes: Option<u64>) -> Self {
        let whole = body.unwrap_or_default();
        let kept = whole.get(..Self::BODY_BYTES).unwrap_or(whole);
        let is_read = body.is_some() || body_bytes == Some(0);
        Self {
            head: BASE64.encode(&request.encode(|_| true)),
            body: BASE64.encode(kept),
            body_bytes: match body {
                Some(body) => body.len() as u64,
                None => body_bytes.unwrap_or_default(),
            },
            is_whole: is_read && kept.len() == whole.len(),
        }
    }

    /// Decodes the request.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn decode(&self) -> Result<RefusedParts, HeadError> {
        let bytes = |text: &str| {
            let decoded = BASE64.decode(text.as_bytes());
            decoded.map_err(|_| HeadError("Base64"))
        };
        let head = ExchangeRequest::decode(bytes(&self.head)?.into())?;
        Ok(RefusedParts {
            head,
            body: bytes(&self.body)?,
            body_bytes: self.body_bytes,
            is_whole: self.is_whole,
        })
    }

    /// Returns the size of the encoded request, in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// Returns `true` if nothing is encoded.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
