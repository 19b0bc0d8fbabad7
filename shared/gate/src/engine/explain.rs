//! Explanation of a verdict: the result of every check of one request, in order, including those
//! after the first refusal. The overall verdict is the gate's own.

mod steps;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::steps::steps;
use crate::engine::{Decision, Evaluation, Gate, HeadVerdict};
use crate::inspection::Work;
use crate::request::Request;
use hookward_core::limits::DOCTOR_BYTES;
use hookward_core::reason::{Check, Refusal};

/// Result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// The check passes.
    Pass,
    /// The check refuses.
    Refuse,
    /// The check would refuse, but the route only observes.
    Observed,
    /// Only the running relay can decide, because it counts or remembers.
    RelayOnly,
    /// The relay leaves the check to the agent, which has the secret.
    AgentOnly,
}

/// One check of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStep {
    /// Name of the check.
    pub check: Check,
    /// Result of the check.
    pub outcome: CheckOutcome,
    /// Reason of the result, or the finding of the check.
    pub reason: String,
    /// Accept rule of the route that the check belongs to, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept_rule: Option<usize>,
}

/// Explanation of the gate's decision about a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Overall verdict.
    pub verdict: ExplainedVerdict,
    /// Check that refuses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Reason of the refusal, or the handling of the request.
    pub reason: String,
    /// Status that the relay sends, if it refuses or answers the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Route that decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Names of the secrets and tokens that matched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Every check in order.
    pub checks: Vec<CheckStep>,
    /// Causes of a wrong signature.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Notes for the route's owner: limits of its checks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Overall verdict of an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainedVerdict {
    /// The gate permits the request, or answers it as a challenge.
    Allow,
    /// The request is refused.
    Refuse,
}

/// Explains what this gate does with a request, with advice about a wrong signature.
#[must_use]
pub fn explain(gate: &Arc<Gate>, request: &Request<'_>, evaluation: Evaluation<'_>) -> Explanation {
    explain_within(gate, request, evaluation, &Work::up_to(DOCTOR_BYTES))
}

/// Explains what this gate does with a request. `work` bounds the cost of the advice.
#[must_use]
pub fn explain_within(
    gate: &Arc<Gate>,
    request: &Request<'_>,
    evaluation: Evaluation<'_>,
    work: &Arc<Work>,
) -> Explanation {
    let decided = decide(gate, request, evaluation);
    let (route, checks, notes) = steps(gate, request, evaluation);
    let mut explanation = Explanation {
        verdict: ExplainedVerdict::Allow,
        check: None,
        reason: String::new(),
        status: None,
        route: route.map(|route| route.settings.name.clone()),
        secrets: Vec::new(),
        checks,
        hints: Vec::new(),
        notes,
    };

    match decided {
        Ok(Decision::Forward(permit)) => {
            explanation.reason = match permit.observed() {
                None => "every check of one accept rule passes".to_owned(),
                Some(refusal) => format!("the route only observes; refused otherwise: {refusal}"),
            };
            explanation.secrets = permit.secrets().to_vec();
        }
        Ok(Decision::Claim(pending)) => {
            explanation.reason =
                "every check of one accept rule passes, unless it is a duplicate".to_owned();
            explanation.secrets = pending.permit.secrets().to_vec();
        }
        Ok(Decision::Answer(answer)) => {
            explanation.reason = "the gate answers the provider's challenge".to_owned();
            explanation.status = Some(answer.status.as_u16());
        }
        Ok(Decision::Pair(_, answer)) => {
            explanation.reason = "the gate takes the secret of the challenge".to_owned();
            explanation.status = Some(answer.status.as_u16());
        }
        Err(refusal) => {
            if refusal.check == Check::Signature {
                explanation.hints = gate.diagnose(request, evaluation, work);
            }
            explanation.verdict = ExplainedVerdict::Refuse;
            explanation.check = Some(refusal.check);
            explanation.status = Some(refusal.status.as_u16());
            explanation.reason = refusal.reason;
        }
    }

    explanation
}

/// Runs the gate as the relay does.
fn decide(
    gate: &Arc<Gate>,
    request: &Request<'_>,
    evaluation: Evaluation<'_>,
) -> Result<Decision, Refusal> {
    match gate.check_head(request.head, evaluation)? {
        HeadVerdict::Decided(decision) => Ok(decision),
        HeadVerdict::ReadBody(pending) => {
            if request.body.len() as u64 > pending.max_body() {
                let reason = format!("the body has more than {} bytes", pending.max_body());
                return Err(Refusal::new(
                    Check::BodySize,
                    hookward_core::reason::Code::BodyTooLarge,
                    reason,
                ));
            }

            pending.check_body(request.head, request.body, evaluation)
        }
    }
}
