//! Findings of an accept rule's checks.

use crate::engine::signature::DeliveryIdentity;
use crate::engine::token::TokenSpan;
use crate::policy::{TokenCheck, TokenLocation};
use hookward_core::reason::{Check, Refusal};
use http::StatusCode;

/// Findings of the checks of an accept rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// Spans of right tokens.
    pub(crate) tokens: Vec<TokenSpan>,
    /// The names of the secrets and tokens that were right.
    pub(crate) secrets: Vec<String>,
    /// Values that identify the delivery.
    pub(crate) identity: Vec<DeliveryIdentity>,
    /// All signatures were checked here and are right, and at least one is no token.
    pub(crate) signed: bool,
    /// The first check that failed, on a route that only observes.
    pub(crate) failed: Option<Refusal>,
}

/// The refusal of a token; of Basic authentication one that asks for it.
pub(crate) fn token_refusal(check: &TokenCheck, reason: String) -> Refusal {
    let refusal = Refusal::failed(Check::Token, reason);
    match check.location {
        TokenLocation::Basic => Refusal {
            status: StatusCode::UNAUTHORIZED,
            asks_for_basic: true,
            ..refusal
        },
        _ => refusal,
    }
}

impl Evidence {
    /// A failed check refuses, or is only noted.
    pub(super) fn record_or_fail(
        &mut self,
        refusal: Refusal,
        observing: bool,
    ) -> Result<(), Refusal> {
        if !observing {
            return Err(refusal);
        }
        self.failed.get_or_insert(refusal);
        Ok(())
    }
}
