//! Why a signature was not accepted, in words for the tunnel's owner.

use crate::inspection::{Kind, WorkLimitExceeded};
use hookward_core::json::JsonError;

/// Failure to verify a signature. The text is for the tunnel's owner; it contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The request is not of the kind that this scheme is for.
    #[error("{0} is not what this provider's scheme requires")]
    Required(String),
    /// Something that the scheme needs is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// Something that must stand once stands more than once.
    #[error("{0} stands more than once")]
    Repeated(String),
    /// The body can't be read as the scheme needs it.
    #[error("{0}")]
    Body(JsonError),
    /// Something can't be read as the scheme writes it.
    #[error("{0} is not written as this provider writes it: {1}")]
    Malformed(String, &'static str),
    /// To judge it costs more than one request may cost.
    #[error("judging this request takes more work than one may cost ({0} bytes)")]
    WorkLimit(&'static str),
    /// The text is one that the provider's challenges have signed for anybody who asks.
    #[error("the provider's challenge signs this text for anyone, so it proves nothing")]
    ChosenMessage,
    /// The configured secret has no such part.
    #[error("the secret has no part {0:?}")]
    NoPart(String),
    /// The key's address is none that this provider uses.
    #[error("the key's address is none of this provider's: {0}")]
    KeyAddress(&'static str),
    /// The key could not be had.
    #[error("the key at {0} could not be fetched")]
    NoKey(String),
    /// No published key has the name that the token gives.
    #[error("the token names a key that the provider does not publish")]
    UnknownKey,
    /// The token can't be used.
    #[error("the token can't be used: {0}")]
    Token(&'static str),
    /// A claim of the token is not what it must be.
    #[error("the token's claim {0:?} does not match this request")]
    Claim(String),
    /// The token's time is over.
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
    /// Text that a challenge's answer would repeat is not what the provider sends.
    #[error("{0} is not what this provider's challenges hold, so it is not answered")]
    Guard(String),
    /// The token is none of the configured secrets.
    #[error("the token is another one than here")]
    OtherToken,
    /// The signature is not that of this request under any configured secret.
    #[error(
        "the signature does not fit: another secret at the provider than here, or the request was changed on its way"
    )]
    Mismatch,
}

impl SignatureError {
    /// Returns the progress of the verification: of several schemes, the one with most progress is
    /// reported.
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
