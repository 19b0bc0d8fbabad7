//! The checks of an explanation, in order.

use super::{CheckOutcome, CheckStep};
use crate::engine::accept::{AcceptRule, AddressRule, token_refusal};
use crate::engine::{CompiledRoute, Evaluation, Gate, token};
use crate::policy::SecretAt;
use crate::providers::{Coverage, Scheme};
use crate::request::Request;
use hookward_core::reason::{Check, Refusal};

pub(super) type Steps<'g> = (Option<&'g CompiledRoute>, Vec<CheckStep>, Vec<String>);

pub(super) fn steps<'g>(
    gate: &'g Gate,
    request: &Request<'_>,
    evaluation: Evaluation<'_>,
) -> Steps<'g> {
    let mut list = List {
        steps: Vec::new(),
        observing: false,
        accept_rule: None,
    };
    let head = request.head;

    list.add_result(
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
        list.push(Check::Lockout, CheckOutcome::RelayOnly, text);
    }

    if let Some(rate) = gate.client_rate {
        list.push(
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
                    Check::Path,
                    CheckOutcome::Pass,
                    "a route has this path".to_owned(),
                );
            }

            list.push(refusal.check, CheckOutcome::Refuse, refusal.reason);
            None
        }
    };
    let Some(route) = route else {
        return (None, list.steps, Vec::new());
    };

    list.push(
        Check::Path,
        CheckOutcome::Pass,
        format!("the route {:?} has this path", route.settings.name),
    );

    list.push(
        Check::Method,
        CheckOutcome::Pass,
        format!("it takes {}", head.method),
    );
    let evaluation = route.evaluation(evaluation);
    list.observing = evaluation.observing;

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
        list.push(Check::BodySize, outcome, text);
    }

    for (number, rule) in route.accept.iter().enumerate() {
        list.accept_rule = Some(number + 1);
        list.add_accept_rule(rule, &route.deny, request, evaluation);
    }

    list.accept_rule = None;
    if let Some(replay) = route.replay {
        let text = format!(
            "deliveries are remembered for {} s",
            replay.window_ms / 1000
        );
        list.push(Check::Replay, CheckOutcome::RelayOnly, text);
    }

    for (rate, whose) in [(route.rate, "this route"), (gate.rate, "this tunnel")] {
        if let Some(rate) = rate {
            list.push(
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
pub(super) fn note(rule: &crate::engine::signature::SignatureRule) -> Option<String> {
    let what = match rule.check().coverage() {
        Coverage::Nothing => "identifies the sender, and does not cover the body",
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
            "its secret is known to the relay: it protects against other senders, not against the relay"
        }
    };

    let sentence = if what.is_empty() {
        shared.to_owned()
    } else {
        format!("it {what}; {shared}")
    };
    Some(format!("{}: {sentence}", rule.title()))
}

pub(super) struct List {
    steps: Vec<CheckStep>,
    observing: bool,
    /// Accept rule of the next steps, from 1; `None` before the first.
    accept_rule: Option<usize>,
}

impl List {
    fn push(&mut self, check: Check, outcome: CheckOutcome, reason: impl Into<String>) {
        self.steps.push(CheckStep {
            check,
            outcome,
            reason: reason.into(),
            accept_rule: self.accept_rule,
        });
    }

    fn add_result<T>(&mut self, check: Check, result: Result<T, Refusal>, passed: &str) {
        let relaxed =
            self.observing && matches!(check, Check::Address | Check::Token | Check::Signature);

        match result {
            Ok(_) => self.push(check, CheckOutcome::Pass, passed),
            Err(refusal) => {
                let outcome = if relaxed {
                    CheckOutcome::Observed
                } else {
                    CheckOutcome::Refuse
                };
                self.push(check, outcome, refusal.reason);
            }
        }
    }

    /// Adds the steps of one accept rule.
    fn add_accept_rule(
        &mut self,
        accept: &AcceptRule,
        deny: &AddressRule,
        request: &Request<'_>,
        evaluation: Evaluation<'_>,
    ) {
        let address = accept.check_address(deny, evaluation);
        let client = evaluation.client;
        let ages = accept
            .allowed()
            .map(|rule| rule.ages(evaluation))
            .unwrap_or_default();
        let reason = match (accept.allowed(), ages.is_empty()) {
            (None, _) => format!("{client} is not denied; no range is required"),
            (Some(_), true) => format!("{client} is allowed"),
            (Some(_), false) => format!("{client} is allowed ({})", ages.join("; ")),
        };
        self.add_result(Check::Address, address, &reason);

        for check in accept.tokens() {
            let found = token::check(check, request.head.target, request.head.headers);
            let reason = found
                .as_ref()
                .map(|(_, name)| format!("it is {name}"))
                .unwrap_or_default();

            self.add_result(
                Check::Token,
                found.map_err(|reason| token_refusal(check, reason.to_string())),
                &reason,
            );
        }

        let (types, headers) = accept.has_field_rules();
        if types {
            self.add_result(
                Check::ContentType,
                accept.check_content_type(request.head),
                "the media type is an allowed one",
            );
        }

        if headers {
            self.add_result(
                Check::Header,
                accept.check_headers(request.head),
                "the headers have allowed values",
            );
        }

        for rule in accept.signatures() {
            if rule.is_left_to_agent() {
                self.push(
                    Check::Signature,
                    CheckOutcome::AgentOnly,
                    format!("{}: the agent holds the secret", rule.title()),
                );
                continue;
            }

            let verified = rule.verify(request, evaluation);
            let covers = match rule.check().coverage() {
                Coverage::Body => "the whole body is signed",
                Coverage::Part => "a part of the body is signed",
                Coverage::Nothing => "nothing of the body is signed",
            };

            let reason = match &verified {
                Ok(Some((_, name))) => format!("{}: right, by {name}; {covers}", rule.title()),
                _ => String::new(),
            };
            self.add_result(Check::Signature, verified, &reason);
        }

        if accept.has_body_rules() {
            self.add_result(
                Check::BodyRule,
                accept.check_rules(request),
                "the values of the body are allowed ones",
            );
        }
    }
}
