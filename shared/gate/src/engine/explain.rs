//! The verdict of every check, in order, of one request: also of those that the gate itself would
//! not have come to, since the first refusal wins there. The verdict is the gate's own.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::engine::accept::{AcceptRule, token_refusal};
use crate::engine::{CompiledRoute, Decision, Gate, GateState, HeadVerdict, token};
use crate::inspection::Work;
use crate::policy::SecretAt;
use crate::providers::{Coverage, Scheme};
use crate::request::Request;
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::limits::DOCTOR_BYTES;
use hookward_core::reason::{Check, Refusal};

/// Result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    /// The check passes.
    Pass,
    /// The check refuses.
    Refuse,
    /// The check would refuse, but the route only observes.
    Observed,
    /// Only the running relay can judge it: it counts or remembers.
    RelayOnly,
    /// The relay leaves it to the agent, which holds the secret.
    AgentOnly,
}

/// One check of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckStep {
    /// Name of the check.
    pub check: Check,
    /// Result of the check.
    pub outcome: CheckOutcome,
    /// Reason of the result, or what the check found.
    pub reason: String,
    /// The route's alternative that it belongs to, from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alternative: Option<usize>,
}

/// Explanation of the gate's decision about a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Overall verdict.
    pub verdict: Verdict,
    /// Check that refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// Reason of the refusal, or what happens to the request.
    pub reason: String,
    /// The status that the sender gets from the relay, when it is refused or answered there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The route that decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The names of the secrets and tokens that were right.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
    /// Every check in order.
    pub checks: Vec<CheckStep>,
    /// Causes of a wrong signature.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Notes for the route's owner: limits of its checks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Overall verdict of an explanation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The request would reach the application, or be answered as a handshake.
    Allow,
    /// The request is refused.
    Refuse,
}

/// Explains what this gate does with a request.
#[must_use]
pub fn explain(
    gate: &Arc<Gate>,
    request: &Request<'_>,
    client: IpAddr,
    now: UnixMillis,
    state: &GateState,
    keys: &FetchedKeys,
) -> Explanation {
    let decided = decide(gate, request, client, now, state, keys);
    let (route, checks, notes) = steps(gate, request, client, now, state, keys);
    let mut explanation = Explanation {
        verdict: Verdict::Allow,
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
                None => "every check of one alternative passes".to_owned(),
                Some(refusal) => {
                    format!("the route only observes; else it would be refused: {refusal}")
                }
            };
            explanation.secrets = permit.secrets().to_vec();
        }
        Ok(Decision::Claim(pending)) => {
            explanation.reason =
                "every check of one alternative passes, if this delivery did not come before"
                    .to_owned();
            explanation.secrets = pending.permit.secrets().to_vec();
        }
        Ok(Decision::Answer(answer)) => {
            explanation.reason =
                "it is the provider's handshake, and is answered without the application"
                    .to_owned();
            explanation.status = Some(answer.status.as_u16());
        }
        Ok(Decision::Pair(_, answer)) => {
            explanation.reason =
                "it is the provider's handshake, and its secret is taken".to_owned();
            explanation.status = Some(answer.status.as_u16());
        }
        Err(refusal) => {
            if refusal.check == Check::Signature {
                explanation.hints = gate.diagnose(request, keys, now, &Work::up_to(DOCTOR_BYTES));
            }
            explanation.verdict = Verdict::Refuse;
            explanation.check = Some(refusal.check);
            explanation.status = Some(refusal.status.as_u16());
            explanation.reason = refusal.reason;
        }
    }

    explanation
}

/// The gate's own way, as the relay walks it.
fn decide(
    gate: &Arc<Gate>,
    request: &Request<'_>,
    client: IpAddr,
    now: UnixMillis,
    state: &GateState,
    keys: &FetchedKeys,
) -> Result<Decision, Refusal> {
    match gate.check_head(request.head, client, now, state)? {
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

            pending.check_body(request.head, request.body, now, state, keys)
        }
    }
}

type Steps<'g> = (Option<&'g CompiledRoute>, Vec<CheckStep>, Vec<String>);

fn steps<'g>(
    gate: &'g Gate,
    request: &Request<'_>,
    client: IpAddr,
    now: UnixMillis,
    state: &GateState,
    keys: &FetchedKeys,
) -> Steps<'g> {
    let mut list = List {
        steps: Vec::new(),
        observing: false,
    };
    let head = request.head;

    list.judge(
        None,
        Check::Syntax,
        gate.check_shape(head),
        "it can be read in one way only",
    );

    if let Some(lockout) = gate.lockout {
        let text = format!(
            "{} failures within {} s lock an address out for {} s",
            lockout.failures,
            lockout.within_ms / 1000,
            lockout.for_ms / 1000
        );
        list.push(None, Check::Lockout, CheckOutcome::RelayOnly, text);
    }

    if let Some(rate) = gate.client_rate {
        list.push(
            None,
            Check::ClientRate,
            CheckOutcome::RelayOnly,
            format!("at most {rate} of one address"),
        );
    }

    let route = match gate.find_route(head) {
        Ok(index) => gate.routes.get(index),
        Err(refusal) => {
            if refusal.check == Check::Method {
                list.push(
                    None,
                    Check::Path,
                    CheckOutcome::Pass,
                    "a route has this path".to_owned(),
                );
            }

            list.push(None, refusal.check, CheckOutcome::Refuse, refusal.reason);
            None
        }
    };
    let Some(route) = route else {
        return (None, list.steps, Vec::new());
    };

    list.push(
        None,
        Check::Path,
        CheckOutcome::Pass,
        format!("the route {:?} has this path", route.settings.name),
    );

    list.push(
        None,
        Check::Method,
        CheckOutcome::Pass,
        format!("it takes {}", head.method),
    );
    list.observing = route.observes(now);

    let needs_body = route.accept.iter().any(AcceptRule::needs_body);
    if needs_body {
        let fits = request.body.len() as u64 <= route.settings.max_body;
        let outcome = if fits {
            CheckOutcome::Pass
        } else {
            CheckOutcome::Refuse
        };
        let text = format!(
            "the body has {} of at most {} bytes",
            request.body.len(),
            route.settings.max_body
        );
        list.push(None, Check::BodySize, outcome, text);
    }

    for (number, alternative) in route.accept.iter().enumerate() {
        alternative_steps(
            &mut list,
            number + 1,
            alternative,
            route,
            request,
            client,
            now,
            state,
            keys,
        );
    }

    if let Some(replay) = route.replay {
        let text = format!(
            "deliveries are remembered for {} s",
            replay.window_ms / 1000
        );
        list.push(None, Check::Replay, CheckOutcome::RelayOnly, text);
    }

    for (rate, whose) in [(route.rate, "this route"), (gate.rate, "this tunnel")] {
        if let Some(rate) = rate {
            list.push(
                None,
                Check::Rate,
                CheckOutcome::RelayOnly,
                format!("at most {rate} for {whose}"),
            );
        }
    }

    let notes = route
        .accept
        .iter()
        .flat_map(AcceptRule::signatures)
        .filter_map(note)
        .collect();

    (Some(route), list.steps, notes)
}

/// Returns what a signature does not cover, and against whom its secret protects.
fn note(rule: &crate::engine::signature::SignatureRule) -> Option<String> {
    let what = match rule.check().coverage() {
        Coverage::Nothing => "says who sends, and nothing about the body",
        Coverage::Part => "does not cover every byte of the body, and the rest may be anything",
        Coverage::Body => "",
    };

    let public = rule
        .check()
        .schemes()
        .is_ok_and(|schemes| schemes.iter().all(Scheme::only_verifies));
    let shared = match rule.check().secret_at {
        _ if public => "its key can only verify: not even the relay can forge it",
        SecretAt::Agent => "its secret never leaves the agent: not even the relay can forge it",
        SecretAt::Relay => {
            "its secret is known to the relay: it protects against strangers, not against the relay"
        }
    };

    let sentence = if what.is_empty() {
        shared.to_owned()
    } else {
        format!("it {what}; {shared}")
    };
    Some(format!("{}: {sentence}", rule.title()))
}

#[allow(
    clippy::too_many_arguments,
    reason = "one place, and a struct of the same names would say no more"
)]
fn alternative_steps(
    list: &mut List,
    number: usize,
    alternative: &AcceptRule,
    route: &CompiledRoute,
    request: &Request<'_>,
    client: IpAddr,
    now: UnixMillis,
    state: &GateState,
    keys: &FetchedKeys,
) {
    let at = Some(number);
    let address = alternative.check_address(&route.deny, client, state, now);
    let ages = alternative
        .allowed()
        .map(|rule| rule.ages(state, now))
        .unwrap_or_default();
    let said = match (alternative.allowed(), ages.is_empty()) {
        (None, _) => format!("{client} is not denied; no range is asked for"),
        (Some(_), true) => format!("{client} is allowed"),
        (Some(_), false) => format!("{client} is allowed ({})", ages.join("; ")),
    };
    list.judge(at, Check::Address, address, &said);

    for check in alternative.tokens() {
        let found = token::check(check, request.head.target, request.head.headers);
        let said = found
            .as_ref()
            .map(|(_, name)| format!("it is {name}"))
            .unwrap_or_default();

        list.judge(
            at,
            Check::Token,
            found.map_err(|reason| token_refusal(check, reason)),
            &said,
        );
    }

    let (types, headers) = alternative.has_field_rules();
    if types {
        list.judge(
            at,
            Check::ContentType,
            alternative.check_content_type(request.head),
            "the media type is an allowed one",
        );
    }

    if headers {
        list.judge(
            at,
            Check::Header,
            alternative.check_headers(request.head),
            "the headers have allowed values",
        );
    }

    for rule in alternative.signatures() {
        if rule.is_left_to_agent() {
            list.push(
                at,
                Check::Signature,
                CheckOutcome::AgentOnly,
                format!("{}: the agent holds the secret", rule.title()),
            );
            continue;
        }

        let verified = rule.verify(request, keys, now);
        let covers = match rule.check().coverage() {
            Coverage::Body => "the whole body is signed",
            Coverage::Part => "a part of the body is signed",
            Coverage::Nothing => "nothing of the body is signed",
        };

        let said = match &verified {
            Ok(Some((_, name))) => format!("{}: right, by {name}; {covers}", rule.title()),
            _ => String::new(),
        };
        list.judge(at, Check::Signature, verified, &said);
    }

    if alternative.has_body_rules() {
        list.judge(
            at,
            Check::BodyRule,
            alternative.check_rules(request),
            "the values of the body are allowed ones",
        );
    }
}

struct List {
    steps: Vec<CheckStep>,
    observing: bool,
}

impl List {
    fn push(
        &mut self,
        alternative: Option<usize>,
        check: Check,
        outcome: CheckOutcome,
        reason: impl Into<String>,
    ) {
        self.steps.push(CheckStep {
            check,
            outcome,
            reason: reason.into(),
            alternative,
        });
    }

    fn judge<T>(
        &mut self,
        alternative: Option<usize>,
        check: Check,
        judged: Result<T, Refusal>,
        passed: &str,
    ) {
        let relaxed =
            self.observing && matches!(check, Check::Address | Check::Token | Check::Signature);

        match judged {
            Ok(_) => self.push(alternative, check, CheckOutcome::Pass, passed),
            Err(refusal) => {
                let outcome = if relaxed {
                    CheckOutcome::Observed
                } else {
                    CheckOutcome::Refuse
                };
                self.push(alternative, check, outcome, refusal.reason);
            }
        }
    }
}
