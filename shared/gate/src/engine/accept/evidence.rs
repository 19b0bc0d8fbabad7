//! Findings of an accept rule's checks.

use crate::engine::evaluation::Evaluation;
use crate::engine::signature::{DeliveryIdentity, VerifiedSignature};
use crate::engine::token::TokenSpan;
use crate::policy::{TokenCheck, TokenLocation};
use hookward_core::reason::{Check, Refusal};
use http::StatusCode;

/// Findings of the checks of an accept rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Evidence {
    /// Number of the rule in its route.
    pub(crate) rule: usize,
    /// Spans of valid tokens.
    pub(crate) tokens: Vec<TokenSpan>,
    /// Names of the secrets and tokens that matched.
    pub(crate) secrets: Vec<String>,
    /// Values that identify the delivery.
    pub(crate) identity: Vec<DeliveryIdentity>,
    /// `true` if all signatures were checked here and match, and at least one is not a token.
    pub(crate) signed: bool,
    /// Signatures that were verified, on a route that stores deliveries.
    pub(crate) signatures: Vec<VerifiedSignature>,
    /// First failed check, on a route that only observes.
    pub(crate) failed: Option<Refusal>,
}

/// Returns the refusal of a token. For Basic authentication, it requests credentials.
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
    /// Refuses after a failed check, or records the failure on a route that only observes.
    pub(super) fn record_or_fail(
        &mut self,
        refusal: Refusal,
        evaluation: Evaluation<'_>,
    ) -> Result<(), Refusal> {
        if !evaluation.observing {
            return Err(refusal);
        }
        self.failed.get_or_insert(refusal);
        Ok(())
    }
}
