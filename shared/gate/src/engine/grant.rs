//! Grants: the serialisable part of a permit, with which a gate permits a stored request again.
//!
//! Reachability (path and method) and all checks follow the policy in force at that time. A
//! signature that was verified at receipt stays valid after its secret was retired: for the same
//! accept rule of the same route. The relay takes that from its own grant. The agent does not trust
//! the relay. It verifies the signature again, at the time of receipt, by the secrets in force then.
//! So a captured relay can only present old webhooks. The agent refuses those that it has recorded
//! as processed since its start.

use std::sync::Arc;

use hookward_core::clock::{Moment, UnixMillis};
use hookward_core::reason::{Check, Code, Refusal};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::accept::Evidence;
use super::body::further;
use super::permit::{Permit, RouteSettings};
use super::signature::{SignatureRule, VerifiedSignature};
use super::token::TokenSpan;
use super::{CompiledRoute, Evaluation, Gate, Side, no_route};
use crate::inspection::{Inspection, Work};
use crate::request::Request;

/// Serialisable part of a permit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Time of receipt, by the relay's clock.
    pub received: UnixMillis,
    /// Digest of the permitted request, which the grant is valid for.
    pub request: RequestDigest,
    /// Settings of the route at receipt, for a relay that has started again and does not know the
    /// policy yet. A stored request follows the settings in force later.
    pub settings: RouteSettings,
    /// Spans of the tokens to remove.
    pub tokens: Vec<TokenSpan>,
    /// Signatures that were verified.
    pub signatures: Vec<VerifiedSignature>,
    /// `true` if the agent's user has requested this delivery again, whatever its age and result.
    #[serde(skip)]
    pub is_requested: bool,
}

impl Grant {
    /// Creates the grant of a request that a relay presents to the agent, which trusts the relay
    /// for nothing but the time of receipt.
    #[must_use]
    pub fn unproven(request: &Request<'_>, received: UnixMillis) -> Self {
        Self {
            received,
            request: RequestDigest::of(request),
            settings: RouteSettings::default(),
            tokens: Vec::new(),
            signatures: Vec::new(),
            is_requested: false,
        }
    }
}

/// Digest of a request: method, target, header fields in order, and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestDigest([u8; 32]);

impl RequestDigest {
    /// Computes the digest.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Self {
        let head = request.head;
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };

        part(head.method.as_str().as_bytes());
        part(head.target);
        for (name, value) in head.headers {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
        }
        part(request.body);
        Self(digest.finalize().into())
    }
}

/// A gate that was in force until a time, with secrets that may be retired now.
#[derive(Clone)]
pub struct RetiredGate {
    /// The gate.
    pub gate: Arc<Gate>,
    /// Time at which another gate replaced it.
    pub until: UnixMillis,
}

/// Beginning of the reason for which a stored request is not permitted again.
pub const POLICY_CHANGED: &str = "policy_changed";

impl Permit {
    /// Records that the application has accepted the request. The agent then refuses it when a relay
    /// presents it as a stored one. Has no effect on a route that stores nothing, or that may get the
    /// same content twice.
    pub fn note_processed(&self, evaluation: Evaluation<'_>) {
        let refuses = self.gate.side == Side::Agent && self.gate.refuses_repeats(self.route);
        let Some(max_age) = self.settings().max_age().filter(|_| refuses) else {
            return;
        };

        // A relay may claim a time of receipt that is ahead by the tolerance.
        let max_age = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
        let span = max_age.saturating_add(2 * CLOCK_TOLERANCE_MS);
        let until = UnixMillis(evaluation.now.wall.0.saturating_add(span));
        for digest in self
            .signatures
            .iter()
            .filter_map(|signature| signature.digest)
        {
            evaluation
                .state
                .note_processed(digest, until, evaluation.now.wall);
        }
    }
}

impl Gate {
    /// Permits a stored request again, under the policy in force. `retired` are earlier gates of the
    /// agent; the relay has the grant instead.
    ///
    /// # Errors
    /// A refusal whose reason begins with [`POLICY_CHANGED`], if the policy in force does not permit
    /// the request. Without it: the request is not that of the grant, or the agent finds it too old,
    /// from the future, or processed before.
    pub fn permit_again(
        self: &Arc<Self>,
        request: &Request<'_>,
        grant: &Grant,
        evaluation: Evaluation<'_>,
        retired: &[RetiredGate],
    ) -> Result<Permit, Refusal> {
        if RequestDigest::of(request) != grant.request {
            let reason = "the stored request is not the permitted one";
            return Err(Refusal::failed(Check::Syntax, reason));
        }

        let head = request.head;
        self.check_shape(head).map_err(changed)?;
        let index = self.find_route(head).map_err(changed)?;
        let Some(route) = self.routes.get(index) else {
            return Err(changed(no_route()));
        };
        if self.side == Side::Agent {
            let now = if grant.is_requested {
                grant.received
            } else {
                evaluation.now.wall
            };
            check_receipt(route.settings.max_age(), grant.received, now)?;
        }
        if request.body.len() as u64 > route.settings.max_body {
            let reason = format!("the body has more than {} bytes", route.settings.max_body);
            return Err(changed(Refusal::new(
                Check::BodySize,
                Code::BodyTooLarge,
                reason,
            )));
        }

        // Signatures follow the time of receipt; a delay is no fault of the sender. Observation does
        // not, because a captured relay may choose the time.
        let at_receipt = Evaluation {
            now: Moment {
                wall: grant.received,
                ..evaluation.now
            },
            ..route.evaluation(evaluation)
        };
        let inspection = Inspection::new(Arc::clone(&route.body_fields), Work::of_a_request());
        let request = request.inspected(&inspection);
        let evidence = self.check_rules_again(route, &request, at_receipt, grant, retired)?;
        let permit = self.permit(index, evidence, head);
        match grant.is_requested {
            true => Ok(permit),
            false => self.check_processed(permit, evaluation),
        }
    }

    /// Returns the findings of the accept rule that accepts the stored request.
    fn check_rules_again(
        &self,
        route: &CompiledRoute,
        request: &Request<'_>,
        at_receipt: Evaluation<'_>,
        grant: &Grant,
        retired: &[RetiredGate],
    ) -> Result<Evidence, Refusal> {
        let (mut furthest, mut observed): (Option<Refusal>, Option<Evidence>) = (None, None);
        for (number, rule) in route.accept.iter().enumerate() {
            let at = RulePosition {
                route: &route.settings.name,
                rule: number,
            };
            let vouch = |rule: &SignatureRule| match self.side {
                Side::Relay => vouched_by_grant(rule, at, grant),
                Side::Agent => verified_before(rule, at, request, at_receipt, retired),
            };

            match rule.check_again(&route.deny, request, at_receipt, &vouch) {
                Ok(evidence) if evidence.failed.is_none() => return Ok(evidence),
                // An observed failure counts only without a rule that passes.
                Ok(evidence) => observed = observed.or(Some(evidence)),
                Err(refusal) => furthest = Some(further(furthest, refusal)),
            }
        }
        observed.ok_or_else(|| changed(furthest.unwrap_or_else(no_route)))
    }

    fn refuses_repeats(&self, route: usize) -> bool {
        let route = self.routes.get(route);
        route.is_some_and(|route| route.refuses_repeats)
    }

    /// Refuses what the agent has processed before.
    fn check_processed(
        &self,
        permit: Permit,
        evaluation: Evaluation<'_>,
    ) -> Result<Permit, Refusal> {
        if self.side == Side::Relay || !self.refuses_repeats(permit.route) {
            return Ok(permit);
        }

        let now = evaluation.now.wall;
        let mut digests = permit
            .signatures
            .iter()
            .filter_map(|signature| signature.digest);
        match digests.any(|digest| evaluation.state.was_processed(&digest, now)) {
            true => Err(Refusal::failed(
                Check::Replay,
                "this agent has processed the delivery before",
            )),
            false => Ok(permit),
        }
    }
}

fn changed(refusal: Refusal) -> Refusal {
    Refusal {
        reason: format!("{POLICY_CHANGED}: {}", refusal.reason),
        ..refusal
    }
}

/// Checks the time of receipt, which a captured relay may choose.
fn check_receipt(
    max_age: Option<std::time::Duration>,
    received: UnixMillis,
    now: UnixMillis,
) -> Result<(), Refusal> {
    let Some(max_age) = max_age else {
        let reason = format!("{POLICY_CHANGED}: the route stores no deliveries");
        return Err(Refusal::failed(Check::Replay, reason));
    };

    let max_age = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
    if received.0 > now.0.saturating_add(CLOCK_TOLERANCE_MS) {
        return Err(Refusal::failed(
            Check::Replay,
            "the time of receipt lies in the future: does the relay's clock agree with this one?",
        ));
    }
    if now.0.saturating_sub(received.0) > max_age {
        let reason = format!("received more than {} s ago", max_age / 1000);
        return Err(Refusal::failed(Check::Replay, reason));
    }
    Ok(())
}

/// Tolerated difference between the clocks of relay and agent, in milliseconds.
pub const CLOCK_TOLERANCE_MS: u64 = 60_000;

/// Position of an accept rule in a policy. A signature vouches for its own rule only: another rule
/// of the same provider may require more.
#[derive(Clone, Copy)]
struct RulePosition<'r> {
    /// Name of the route.
    route: &'r str,
    /// Number of the accept rule.
    rule: usize,
}

/// Returns the signature of this rule that the relay itself verified at receipt.
fn vouched_by_grant(
    rule: &SignatureRule,
    at: RulePosition<'_>,
    grant: &Grant,
) -> Option<VerifiedSignature> {
    let (scheme, is_same_route) = (rule.identity(), grant.settings.name == at.route);
    let mut verified = grant.signatures.iter().filter(|_| is_same_route);
    verified
        .find(|verified| verified.scheme == scheme && verified.rule == at.rule)
        .cloned()
}

/// Verifies the signature by secrets of the same rule that were in force at receipt.
fn verified_before(
    rule: &SignatureRule,
    at: RulePosition<'_>,
    request: &Request<'_>,
    at_receipt: Evaluation<'_>,
    retired: &[RetiredGate],
) -> Option<VerifiedSignature> {
    let identity = rule.identity();
    let in_force = retired
        .iter()
        .filter(|retired| retired.until >= at_receipt.now.wall);
    let same_route = in_force.filter_map(|retired| {
        let gate = &retired.gate;
        let route = gate.routes.get(gate.find_route(request.head).ok()?)?;
        (route.settings.name == at.route).then_some(route)
    });

    same_route
        .filter_map(|route| route.accept.get(at.rule))
        .flat_map(|accept| accept.signatures())
        .filter(|old| old.identity() == identity)
        .find_map(|old| {
            let (verified, _) = old.verify(request, at_receipt).ok()??;
            verified.signs.then(|| VerifiedSignature {
                scheme: identity.to_owned(),
                rule: at.rule,
                digest: old.content_digest(request, &verified),
            })
        })
}
