//! Permits, pending checks and verdicts: the values that only the gate makes.

use super::dedup::{Claimed, DeliveryClaim};
use super::state::GateState;
use super::token::TokenSpan;
use super::{Gate, PendingBody};
use crate::policy::OnDuplicate;
use crate::providers::challenge::ChallengeResponse;
use hookward_core::clock::Moment;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::secret::Secret;
use std::sync::Arc;
use std::time::Duration;

/// Settings of a route that concern forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSettings {
    /// Display name of the route.
    pub name: String,
    /// Most bytes of a body that a check must read whole.
    pub max_body: u64,
    /// Wait for the head of the application's answer.
    pub answer_timeout: Duration,
    /// `true` if WebSockets are allowed.
    pub websocket: bool,
    /// `true` if the token is forwarded to the application.
    pub keep_token: bool,
    /// `true` if escaped slashes may stand below the path's final `/**`.
    pub encoded_slashes: bool,
    /// Path patterns, as written.
    pub paths: Vec<String>,
}

/// The outcome of the checks that need no body.
pub enum HeadVerdict {
    /// Everything passed; no check needs the body.
    Decided(Decision),
    /// A check needs the whole body first.
    ReadBody(PendingBody),
}

/// The outcome of all checks, when none refused.
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

/// The proof that the gate let a request pass. Only the gate makes one; forwarding takes it.
#[derive(Debug)]
pub struct Permit {
    pub(super) gate: Arc<Gate>,
    pub(super) route: usize,
    pub(super) tokens: Vec<TokenSpan>,
    pub(super) secrets: Vec<String>,
    pub(super) observed: Option<Refusal>,
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
    /// Judges the request by how its claim went.
    ///
    /// # Errors
    /// When it is refused as a duplicate, when nobody can tell, or when a rate is used up. A claim
    /// that was new is then to be given back.
    pub fn judged(
        self,
        claimed: Claimed,
        now: impl Into<Moment>,
        state: &GateState,
    ) -> Result<AfterClaim, Refusal> {
        let now: Moment = now.into();
        let mut permit = self.permit;
        let refusal = match (claimed, self.claim.on_duplicate) {
            (Claimed::New, _) => return permit.counted(now, state).map(AfterClaim::Forward),
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
            return permit.counted(now, state).map(AfterClaim::Forward);
        }

        Err(refusal)
    }
}

impl Permit {
    /// Returns the route's settings for forwarding.
    #[must_use]
    pub fn settings(&self) -> &RouteSettings {
        // A permit is made with the index of a route of its own gate, which never changes.
        static NONE: RouteSettings = RouteSettings {
            name: String::new(),
            max_body: 0,
            answer_timeout: Duration::ZERO,
            websocket: false,
            keep_token: false,
            encoded_slashes: false,
            paths: Vec::new(),
        };

        self.gate
            .routes
            .get(self.route)
            .map_or(&NONE, |route| &route.settings)
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

    /// The names of the secrets and tokens that were right: `env:NAME` or `file:PATH`.
    #[must_use]
    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// The check that failed on a route that only observes.
    #[must_use]
    pub const fn observed(&self) -> Option<&Refusal> {
        self.observed.as_ref()
    }

    pub(super) fn counted(self, now: Moment, state: &GateState) -> Result<Self, Refusal> {
        self.gate.count(self.route, now, state)?;
        Ok(self)
    }
}
