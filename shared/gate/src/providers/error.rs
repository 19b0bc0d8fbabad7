//! Errors of signature verification, in words for the tunnel's owner.

use crate::inspection::{Kind, WorkLimitExceeded};
use hookward_core::json::JsonError;

/// Failure to verify a signature. The text is for the tunnel's owner, and contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The request is not of the kind that this scheme applies to.
    #[error("{0} is not what this provider's scheme requires")]
    Required(String),
    /// A value that the scheme needs is missing.
    #[error("{0} is missing")]
    Missing(String),
    /// A value that must occur once is repeated.
    #[error("{0} occurs more than once")]
    Repeated(String),
    /// The body does not have the format of the scheme.
    #[error("{0}")]
    Body(JsonError),
    /// A value does not have the format of the scheme.
    #[error("{0} does not have this provider's format: {1}")]
    Malformed(String, &'static str),
    /// Verification would exceed the work limit of one request.
    #[error("checking this request exceeds the work limit of {0} bytes")]
    WorkLimit(&'static str),
    /// A challenge of the provider signs this text for anyone.
    #[error("the provider's challenge signs this text for anyone, so it proves nothing")]
    ChosenMessage,
    /// The configured secret has no such part.
    #[error("the secret has no part {0:?}")]
    NoPart(String),
    /// The provider does not use this key URL.
    #[error("the key's URL is not one of this provider's: {0}")]
    KeyAddress(&'static str),
    /// The key is not available.
    #[error("the key at {0} could not be fetched")]
    NoKey(String),
    /// No published key has the id in the token.
    #[error("the token names a key that the provider does not publish")]
    UnknownKey,
    /// The token is unusable.
    #[error("the token can't be used: {0}")]
    Token(&'static str),
    /// A claim of the token does not match.
    #[error("the token's claim {0:?} does not match this request")]
    Claim(String),
    /// The token has expired.
    #[error("the token expired {0} s ago (is this machine's clock right?)")]
    Expired(u64),
    /// The signature is too old.
    #[error("signed {0} s ago, more than the {1} s allowed (is this machine's clock right?)")]
    Stale(u64, u64),
    /// The signature is from the future.
    #[error(
        "signed {0} s in the future, more than the {1} s allowed: check the clocks of both sides"
    )]
    Future(u64, u64),
    /// Text that the response to a challenge would reflect is not the provider's.
    #[error(
        "{0} does not have the form of this provider's challenges, so the relay does not answer it"
    )]
    Guard(String),
    /// The token matches no configured secret.
    #[error("the token is wrong")]
    OtherToken,
    /// The signature does not match the request with any configured secret.
    #[error(
        "the signature does not match: the provider uses another secret, or the request was changed in transit"
    )]
    Mismatch,
}

impl SignatureError {
    /// Returns the progress of the verification. Of several schemes, the one with the most progress
    /// is reported.
    pub(crate) const fn progress(&self) -> u8 {
        match self {
            Self::Required(_) => 0,
            Self::Missing(_) => 1,
            Self::Repeated(_)
            | Self::Body(_)
            | Self::Malformed(..)
            | Self::NoPart(_)
            | Self::KeyAddress(_) => 2,
            Self::WorkLimit(_) => 2,
            Self::NoKey(_) | Self::UnknownKey | Self::Token(_) => 3,
            Self::Expired(_) | Self::Stale(..) | Self::Future(..) => 4,
            Self::OtherToken | Self::Mismatch => 5,
            Self::Claim(_) | Self::Guard(_) | Self::ChosenMessage => 6,
        }
    }
}

impl From<WorkLimitExceeded> for SignatureError {
    fn from(WorkLimitExceeded(kind): WorkLimitExceeded) -> Self {
        Self::WorkLimit(match kind {
            Kind::Parsed => "parsed",
            Kind::Hashed => "hashed",
            Kind::Rendered => "rendered",
        })
    }
}
