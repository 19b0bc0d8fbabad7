//! Decision about a request whose body was read.

use super::accept::{AcceptRule, Evidence};
use super::admit::CHALLENGES_PER_SECOND;
use super::dedup::DeliveryClaim;
use super::evaluation::Evaluation;
use super::permit::{Decision, PendingClaim, Permit};
use super::signature::WantedKey;
use super::state::Counted;
use super::{CompiledRoute, Gate, Side, no_route};
use crate::inspection::{Inspection, Work};
use crate::providers::challenge::ChallengeAction;
use crate::request::{Request, RequestHead};
use hookward_core::address::source;
use hookward_core::rate::Rate;
use hookward_core::reason::{Check, Refusal};
use std::sync::Arc;

/// A request whose head has passed, and whose body is needed.
#[derive(Debug)]
pub struct PendingBody {
    pub(super) gate: Arc<Gate>,
    pub(super) route: usize,
    /// Reason why only a valid signature permits this client.
    pub(super) barred: Option<Refusal>,
    /// Accept rules whose head checks passed, in order, with their findings.
    pub(super) candidates: Vec<(usize, Evidence)>,
    pub(super) inspection: Inspection,
}

impl PendingBody {
    /// Returns the maximum size of the body.
    #[must_use]
    pub fn max_body(&self) -> u64 {
        self.route().map_or(0, |route| route.settings.max_body)
    }

    /// Returns `true` if a check may need a public key that must be fetched.
    #[must_use]
    pub fn may_want_keys(&self) -> bool {
        self.rules().any(|(_, rule)| rule.may_want_keys())
    }

    /// Returns the public keys to fetch before the checks of the body.
    #[must_use]
    pub fn wanted_keys(&self, head: RequestHead<'_>, body: &[u8]) -> Vec<WantedKey> {
        let request = Request::new(head, body).inspected(&self.inspection);
        let mut wanted: Vec<_> = self
            .rules()
            .flat_map(|(_, rule)| rule.wanted_keys(&request))
            .collect();
        wanted.sort();
        wanted.dedup();

        wanted
    }

    /// Returns the work that the checks of this request have done so far.
    #[must_use]
    pub fn work(&self) -> Arc<Work> {
        Arc::clone(self.inspection.work())
    }

    /// Runs the checks of the body.
    ///
    /// # Errors
    /// Reason why no accept rule accepts the request.
    pub fn check_body(
        self,
        head: RequestHead<'_>,
        body: &[u8],
        evaluation: Evaluation<'_>,
    ) -> Result<Decision, Refusal> {
        let Some(route) = self.route() else {
            return Err(no_route());
        };
        let evaluation = route.evaluation(evaluation);
        let request = Request::new(head, body).inspected(&self.inspection);
        if let Some(decision) = self.answer_unsigned(&request, true, evaluation)? {
            return Ok(decision);
        }

        let mut furthest: Option<Refusal> = None;
        let mut observed = None;

        for (number, evidence) in &self.candidates {
            let Some(rule) = route.accept.get(*number) else {
                continue;
            };
            match rule.check_body(&request, evidence.clone(), evaluation) {
                Ok(evidence) if evidence.failed.is_none() => {
                    if let Some(decision) = self.answer_of(rule, &request, true, true)? {
                        self.admit_signed(&evidence, evaluation)?;
                        self.gate.count(self.route, evaluation)?;
                        return Ok(decision);
                    }
                    return self.pass(evidence, &request, evaluation);
                }
                Ok(evidence) => {
                    observed.get_or_insert(evidence);
                }
                Err(refusal) => furthest = Some(further(furthest, refusal)),
            }
        }

        match observed {
            Some(evidence) => self.pass(evidence, &request, evaluation),
            None => Err(self.barred.or(furthest).unwrap_or_else(no_route)),
        }
    }

    /// Admits a client that is barred. Only a valid signature passes a lockout and the client rate,
    /// with a bucket of its own.
    pub(super) fn admit_signed(
        &self,
        evidence: &Evidence,
        evaluation: Evaluation<'_>,
    ) -> Result<(), Refusal> {
        if !evidence.signed {
            return self.barred.clone().map_or(Ok(()), Err);
        }

        let Some(rate) = self.gate.client_rate else {
            return Ok(());
        };
        let source = source(evaluation.client);
        let over_rate = self
            .barred
            .as_ref()
            .is_some_and(|refusal| refusal.check == Check::ClientRate);
        let locked_out = self
            .barred
            .as_ref()
            .is_some_and(|refusal| refusal.check == Check::Lockout);
        if !over_rate && !locked_out {
            evaluation.state.give_back(Counted::Client(source), rate);
        }

        self.gate
            .admit_at(Counted::Signed(source), rate, evaluation)
    }

    /// Answers a challenge without a signature. Anyone can send one, so each client has a separate
    /// rate for them.
    pub(super) fn answer_unsigned(
        &self,
        request: &Request<'_>,
        has_body: bool,
        evaluation: Evaluation<'_>,
    ) -> Result<Option<Decision>, Refusal> {
        if self.barred.is_some() {
            return Ok(None);
        }

        let Some(decision) = self.answer(request, has_body, false)? else {
            return Ok(None);
        };

        if self.gate.side == Side::Relay {
            let bucket = Counted::Challenge(source(evaluation.client));
            let rate = Rate::per_second(CHALLENGES_PER_SECOND);
            self.gate.admit_at(bucket, rate, evaluation)?;
        }

        Ok(Some(decision))
    }

    fn route(&self) -> Option<&CompiledRoute> {
        self.gate.routes.get(self.route)
    }

    fn rules(&self) -> impl Iterator<Item = (usize, &AcceptRule)> {
        let route = self.route();
        self.candidates
            .iter()
            .filter_map(move |(number, _)| Some((*number, route?.accept.get(*number)?)))
    }

    /// Answers an unsigned challenge after the address and token checks of its accept rule.
    fn answer(
        &self,
        request: &Request<'_>,
        has_body: bool,
        signed: bool,
    ) -> Result<Option<Decision>, Refusal> {
        for (number, rule) in self.rules() {
            let passed = self
                .candidates
                .iter()
                .any(|(other, evidence)| *other == number && evidence.failed.is_none());
            if passed && let Some(decision) = self.answer_of(rule, request, has_body, signed)? {
                return Ok(Some(decision));
            }
        }

        Ok(None)
    }

    pub(super) fn answer_of(
        &self,
        rule: &AcceptRule,
        request: &Request<'_>,
        has_body: bool,
        signed: bool,
    ) -> Result<Option<Decision>, Refusal> {
        Ok(rule
            .react(request, has_body, signed)?
            .map(|reaction| match reaction {
                ChallengeAction::Respond(answer) => Decision::Answer(answer),
                ChallengeAction::Pair(secret, answer) => Decision::Pair(secret, answer),
            }))
    }

    /// Passes an accept rule whose checks have all passed: replay protection, then the rates.
    pub(super) fn pass(
        &self,
        mut evidence: Evidence,
        request: &Request<'_>,
        evaluation: Evaluation<'_>,
    ) -> Result<Decision, Refusal> {
        let Some(route) = self.route() else {
            return Err(no_route());
        };
        self.admit_signed(&evidence, evaluation)?;

        let mut identity = std::mem::take(&mut evidence.identity);
        // An unsigned id must not distinguish deliveries of a signed request.
        if identity.iter().any(|part| part.signed) {
            identity.retain(|part| part.signed);
        }

        let identity: Vec<Vec<u8>> = identity.into_iter().map(|part| part.value).collect();
        let permit = self.gate.permit(self.route, evidence, request.head);

        match route.replay {
            Some(replay)
                if self.gate.side == Side::Relay
                    && permit.observed.is_none()
                    && !identity.is_empty() =>
            {
                let claim = DeliveryClaim::new(&route.settings.name, &identity, replay);
                Ok(Decision::Claim(PendingClaim {
                    claim,
                    permit,
                    observing: evaluation.observing,
                }))
            }
            _ => permit.counted(evaluation).map(Decision::Forward),
        }
    }

    /// Returns the gate of this verdict.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }
}

impl Gate {
    /// Creates the permit of a request that passed an accept rule.
    pub(super) fn permit(
        self: &Arc<Self>,
        route: usize,
        evidence: Evidence,
        head: RequestHead<'_>,
    ) -> Permit {
        let Evidence {
            rule,
            mut tokens,
            secrets,
            signatures,
            failed,
            ..
        } = evidence;

        // Valid tokens are removed, even those of other accept rules.
        let rules = self.routes.get(route).map(|route| &route.accept);
        for span in rules
            .into_iter()
            .flatten()
            .flat_map(|rule| rule.find_tokens(head))
        {
            if !tokens.contains(&span) {
                tokens.push(span);
            }
        }

        Permit {
            gate: Arc::clone(self),
            route,
            rule,
            tokens,
            secrets,
            observed: failed,
            signatures,
        }
    }
}

/// Returns the refusal with more progress, of two accept rules. For the same check, appends the
/// other reason.
pub(super) fn further(before: Option<Refusal>, refusal: Refusal) -> Refusal {
    /// Length in bytes above which no further reason is appended.
    const REASON: usize = 400;

    let Some(before) = before else { return refusal };
    let (near, far) = if before.progress() < refusal.progress() {
        (refusal, before)
    } else {
        (before, refusal)
    };
    if near.check != far.check
        || near.reason == far.reason
        || near.reason.len() + far.reason.len() > REASON
    {
        return near;
    }

    Refusal {
        reason: format!("{}; another accept rule: {}", near.reason, far.reason),
        ..near
    }
}
