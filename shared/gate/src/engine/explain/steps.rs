//! The checks of an explanation, in order.

use super::{CheckOutcome, CheckStep};
use crate::engine::accept::{AcceptRule, token_refusal};
use crate::engine::{CompiledRoute, Gate, GateState, token};
use crate::policy::SecretAt;
use crate::providers::{Coverage, Scheme};
use crate::request::Request;
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::reason::{Check, Refusal};
use std::net::IpAddr;

pub(super) type Steps<'g> = (Option<&'g CompiledRoute>, Vec<CheckStep>, Vec<String>);

pub(super) fn steps<'g>(
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

    list.add_result(
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

    for (number, rule) in route.accept.iter().enumerate() {
        accept_rule_steps(
            &mut list,
            number + 1,
            rule,
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

#[allow(
    clippy::too_many_arguments,
    reason = "one place, and a struct of the same names would say no more"
)]
pub(super) fn accept_rule_steps(
    list: &mut List,
    number: usize,
    accept: &AcceptRule,
    route: &CompiledRoute,
    request: &Request<'_>,
    client: IpAddr,
    now: UnixMillis,
    state: &GateState,
    keys: &FetchedKeys,
) {
    let at = Some(number);
    let address = accept.check_address(&route.deny, client, state, now);
    let ages = accept
        .allowed()
        .map(|rule| rule.ages(state, now))
        .unwrap_or_default();
    let reason = match (accept.allowed(), ages.is_empty()) {
        (None, _) => format!("{client} is not denied; no range is required"),
        (Some(_), true) => format!("{client} is allowed"),
        (Some(_), false) => format!("{client} is allowed ({})", ages.join("; ")),
    };
    list.add_result(at, Check::Address, address, &reason);

    for check in accept.tokens() {
        let found = token::check(check, request.head.target, request.head.headers);
        let reason = found
            .as_ref()
            .map(|(_, name)| format!("it is {name}"))
            .unwrap_or_default();

        list.add_result(
            at,
            Check::Token,
            found.map_err(|reason| token_refusal(check, reason.to_string())),
            &reason,
        );
    }

    let (types, headers) = accept.has_field_rules();
    if types {
        list.add_result(
            at,
            Check::ContentType,
            accept.check_content_type(request.head),
            "the media type is an allowed one",
        );
    }

    if headers {
        list.add_result(
            at,
            Check::Header,
            accept.check_headers(request.head),
            "the headers have allowed values",
        );
    }

    for rule in accept.signatures() {
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

        let reason = match &verified {
            Ok(Some((_, name))) => format!("{}: right, by {name}; {covers}", rule.title()),
            _ => String::new(),
        };
        list.add_result(at, Check::Signature, verified, &reason);
    }

    if accept.has_body_rules() {
        list.add_result(
            at,
            Check::BodyRule,
            accept.check_rules(request),
            "the values of the body are allowed ones",
        );
    }
}

pub(super) struct List {
    steps: Vec<CheckStep>,
    observing: bool,
}

impl List {
    fn push(
        &mut self,
        accept_rule: Option<usize>,
        check: Check,
        outcome: CheckOutcome,
        reason: impl Into<String>,
    ) {
        self.steps.push(CheckStep {
            check,
            outcome,
            reason: reason.into(),
            accept_rule,
        });
    }

    fn add_result<T>(
        &mut self,
        accept_rule: Option<usize>,
        check: Check,
        result: Result<T, Refusal>,
        passed: &str,
    ) {
        let relaxed =
            self.observing && matches!(check, Check::Address | Check::Token | Check::Signature);

        match result {
            Ok(_) => self.push(accept_rule, check, CheckOutcome::Pass, passed),
            Err(refusal) => {
                let outcome = if relaxed {
                    CheckOutcome::Observed
                } else {
                    CheckOutcome::Refuse
                };
                self.push(accept_rule, check, outcome, refusal.reason);
            }
        }
    }
}
