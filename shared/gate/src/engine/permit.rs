//! Permits, pending checks and verdicts: values that only the gate creates.

use super::dedup::{Claimed, DeliveryClaim};
use super::evaluation::Evaluation;
use super::signature::VerifiedSignature;
use super::token::TokenSpan;
use super::{Gate, PendingBody};
use crate::policy::{Delivery, DeliveryMode, OnDuplicate};
use crate::providers::challenge::ChallengeResponse;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::secret::Secret;
use http::Method;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Settings of a route that concern forwarding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSettings {
    /// Display name of the route.
    pub name: String,
    /// Maximum size of a body that a check reads, in bytes.
    pub max_body: u64,
    /// Timeout for the head of the application's response.
    pub answer_timeout: Duration,
    /// `true` if WebSockets are allowed.
    pub websocket: bool,
    /// `true` if the token is forwarded to the application.
    pub keep_token: bool,
    /// `true` if escaped slashes may occur below the path's final `/**`.
    pub encoded_slashes: bool,
    /// Path patterns, as written.
    pub paths: Vec<String>,
    /// Delivery; `None` for direct.
    #[serde(default)]
    pub delivery: Option<Delivery>,
}

impl RouteSettings {
    /// Returns the delivery of a request with this method; `None` for direct. A fallback does not
    /// store requests with a safe method (RFC 9110 §9.2.1), because they change nothing: their
    /// senders want the response.
    #[must_use]
    pub fn delivery_of(&self, method: &Method) -> Option<&Delivery> {
        let delivery = self.delivery.as_ref()?;
        let stores = match delivery.mode {
            DeliveryMode::Direct => false,
            DeliveryMode::Queue => true,
            DeliveryMode::Fallback | DeliveryMode::Preset => !method.is_safe(),
        };
        stores.then_some(delivery)
    }

    /// Returns the maximum age of a stored delivery; `None` if the route stores none.
    #[must_use]
    pub fn max_age(&self) -> Option<Duration> {
        let delivery = self.delivery.as_ref().filter(|delivery| delivery.stores());
        delivery.map(|delivery| Duration::from_millis(delivery.max_age_ms))
    }
}

/// Verdict of the checks that need no body.
pub enum HeadVerdict {
    /// Every check passed, and none needs the body.
    Decided(Decision),
    /// A check needs the whole body.
    ReadBody(PendingBody),
}

/// Decision after all checks, if none refused.
pub enum Decision {
    /// The request may be forwarded.
    Forward(Permit),
    /// The delivery must be claimed first.
    Claim(PendingClaim),
    /// The request is a provider's challenge, and this is the response.
    Answer(Box<ChallengeResponse>),
    /// The request is a challenge with the provider's secret, and pairing is in progress.
    Pair(Secret, Box<ChallengeResponse>),
}

/// Proof that the gate permitted a request. Only the gate creates one, and forwarding consumes it.
#[derive(Debug)]
pub struct Permit {
    pub(super) gate: Arc<Gate>,
    pub(super) route: usize,
    /// Number of the accept rule in the route.
    pub(super) rule: usize,
    pub(super) tokens: Vec<TokenSpan>,
    pub(super) secrets: Vec<String>,
    pub(super) observed: Option<Refusal>,
    /// Signatures that were verified, on a route that stores deliveries.
    pub(super) signatures: Vec<VerifiedSignature>,
}

/// A request that passed every check, and whose delivery must be claimed before it is forwarded.
#[derive(Debug)]
pub struct PendingClaim {
    /// The delivery to claim.
    pub claim: DeliveryClaim,
    pub(super) permit: Permit,
    pub(super) observing: bool,
}

/// Decision about a request after its claim.
#[derive(Debug)]
pub enum AfterClaim {
    /// The request may be forwarded. The claim is kept only if the response is 2xx.
    Forward(Permit),
    /// The delivery is a duplicate, and is acknowledged without being forwarded.
    Acknowledge,
}

impl PendingClaim {
    /// Decides about the request by the result of its claim.
    ///
    /// # Errors
    /// A refusal if the delivery is a duplicate, if the store cannot decide, or if a rate is exceeded.
    /// The caller must then release a new claim.
    pub fn after_claim(
        self,
        claimed: Claimed,
        evaluation: Evaluation<'_>,
    ) -> Result<AfterClaim, Refusal> {
        let mut permit = self.permit;
        let refusal = match (claimed, self.claim.on_duplicate) {
            (Claimed::New, _) => return permit.counted(evaluation).map(AfterClaim::Forward),
            (Claimed::Pending, _) => {
                let reason = "this delivery may be a duplicate of one in flight, or deduplication is unavailable";
                Refusal::new(Check::Replay, Code::Overloaded, reason)
            }
            (Claimed::Duplicate, OnDuplicate::Acknowledge) if !self.observing => {
                return Ok(AfterClaim::Acknowledge);
            }
            (Claimed::Duplicate, _) => {
                Refusal::failed(Check::Replay, "duplicate of an accepted delivery")
            }
        };

        if self.observing || self.claim.on_duplicate == OnDuplicate::Forward {
            permit.observed = Some(refusal);
            return permit.counted(evaluation).map(AfterClaim::Forward);
        }

        Err(refusal)
    }
}

impl Permit {
    /// Returns the route's settings for forwarding.
    #[must_use]
    pub fn settings(&self) -> &RouteSettings {
        self.gate.settings_of(self.route)
    }

    /// Returns the spans of the tokens that the agent must remove; none if the route keeps them.
    #[must_use]
    pub fn tokens_to_remove(&self) -> &[TokenSpan] {
        if self.settings().keep_token {
            &[]
        } else {
            &self.tokens
        }
    }

    /// Returns the checks that the request passed, in their order. On a route that only observes,
    /// [`Permit::observed`] names one that it failed.
    #[must_use]
    pub fn checks(&self) -> Arc<[Check]> {
        let route = self.gate.routes.get(self.route);
        route
            .and_then(|route| route.checks.get(self.rule))
            .map_or_else(|| Arc::from([]), Arc::clone)
    }

    /// Returns the names of the secrets and tokens that matched, such as `env:NAME`.
    #[must_use]
    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// Returns the failed check on a route that only observes.
    #[must_use]
    pub const fn observed(&self) -> Option<&Refusal> {
        self.observed.as_ref()
    }

    pub(super) fn counted(self, evaluation: Evaluation<'_>) -> Result<Self, Refusal> {
        self.gate.count(self.route, evaluation)?;
        Ok(self)
    }
}
