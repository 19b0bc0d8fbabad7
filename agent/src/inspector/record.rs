//! Turns captured requests into records: explains the verdict, then removes secrets. Runs on a
//! thread of its own, so that no exchange waits for it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use hookward_core::clock::UnixMillis;
use hookward_core::text::{printable, shown_path};
use hookward_gate::engine::explain::Explanation;
use hookward_gate::engine::{Request, RequestHead};
use hookward_tunnel::protocol::head::HeaderCase;
use http::{HeaderMap, header};

use super::capture::{
    BodySample, Captured, CapturedExchange, CapturedRefusal, CapturedRequest, Source, Timing,
};
use super::history::{HistoryQueue, Message, Record, RecordedBy};
use super::policy::InspectedPolicy;
use super::redact::Redaction;
use crate::events::RequestResult;

/// Time in which requests are gathered for one commit.
const GATHER_TIME: Duration = Duration::from_millis(20);

/// Maximum number of requests in one commit.
const BATCH: usize = 64;

/// Records what is captured, until every sender is gone.
pub(super) fn run(captured: &Receiver<Captured>, history: &HistoryQueue) {
    while let Ok(first) = captured.recv() {
        let mut batch = vec![record(first)];
        let deadline = Instant::now() + GATHER_TIME;
        while batch.len() < BATCH {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(next) = captured.recv_timeout(left) else {
                break;
            };
            batch.push(record(next));
        }
        history.insert(batch);
    }
}

fn record(captured: Captured) -> Record {
    match captured {
        Captured::Exchange(exchange) => of_exchange(*exchange),
        Captured::Refused(refusal) => of_refusal(*refusal),
    }
}

/// What the policy says about a request, and its form without secrets.
#[derive(Default)]
struct Inspected {
    request: Message,
    explanation: Option<Explanation>,
    route: Option<String>,
    provider: Option<String>,
    event: Option<String>,
}

/// Inspects a request of a client, with the policy and the origin of its tunnel.
fn inspect(
    request: &CapturedRequest,
    (policy, origin): (&InspectedPolicy, &str),
    (client, at): (IpAddr, UnixMillis),
) -> Inspected {
    let head = RequestHead {
        method: &request.method,
        target: &request.target,
        headers: &request.headers,
        origin,
    };
    let whole = Request::new(head, &request.body.kept);
    let is_whole = request.body.is_whole();
    let explanation = is_whole
        .then(|| policy.explain(&whole, client, at))
        .flatten();
    let route = explanation
        .as_ref()
        .and_then(|explained| explained.route.clone());
    let sender = policy.policy.sender_of(route.as_deref(), &whole);

    let rules = &policy.redaction;
    let target = rules.target(&request.target);
    let start_line = [
        request.method.as_str().as_bytes(),
        b" ",
        &target,
        b" HTTP/1.1",
    ]
    .concat();
    let head = (start_line, &request.headers, &request.header_case);
    Inspected {
        request: message(rules, head, &request.body),
        explanation,
        route,
        provider: sender.as_ref().map(|sender| sender.provider.id.clone()),
        event: sender
            .and_then(|sender| sender.event)
            .map(|event| printable(&event)),
    }
}

fn of_exchange(exchange: CapturedExchange) -> Record {
    let request = &exchange.request;
    let policy = &exchange.policy;
    // A stored webhook is checked as at its receipt.
    let received = exchange.delivery.and_then(|delivery| delivery.received);
    let inspected = inspect(
        request,
        (policy, &exchange.origin),
        (exchange.client, received.unwrap_or(exchange.at)),
    );
    let outcome = exchange.outcome.as_ref().map(|event| &event.outcome);
    let route = match outcome {
        Some(RequestResult::Answered { route, .. }) => Some(route.clone()),
        _ => inspected.route,
    };

    let rules = &policy.redaction;
    let response = exchange.response.as_ref().map(|response| {
        let start = format!("HTTP/1.1 {}", response.status);
        let head = (
            start.into_bytes(),
            &response.headers,
            &HeaderCase::default(),
        );
        message(rules, head, &response.body)
    });

    Record {
        at: exchange.at,
        id: exchange.id.to_string(),
        by: RecordedBy::Agent,
        tunnel: exchange.tunnel.to_string(),
        client: exchange.client.to_string(),
        method: printable(request.method.as_str()),
        path: shown_path(&request.target).into_owned(),
        verdict: outcome.map_or("aborted", RequestResult::verdict),
        status: outcome.and_then(RequestResult::status),
        check: outcome
            .and_then(RequestResult::check)
            .map(|check| check.as_str().to_owned()),
        code: outcome
            .and_then(RequestResult::code)
            .map(|code| code.as_str().to_owned()),
        reason: outcome.and_then(reason),
        route,
        provider: inspected.provider,
        event: inspected.event,
        delivery: exchange.delivery.map(|delivery| delivery.id),
        source: exchange.source,
        timing: exchange.timing,
        request: inspected.request,
        response,
        explanation: inspected.explanation,
    }
}

fn of_refusal(refusal: CapturedRefusal) -> Record {
    let refused = refusal.refused;
    let verdict = match (refused.observed, refused.answered) {
        (true, _) => "observed",
        (_, true) => "answered",
        _ => "refused",
    };
    let is_refused = verdict != "answered";
    let request = refusal.content.and_then(|content| content.decode().ok());
    let inspected = request.map_or_else(Inspected::default, |(head, body, body_bytes)| {
        let client = head.meta.client;
        let request = CapturedRequest {
            method: head.method,
            target: head.target,
            headers: head.headers,
            header_case: head.header_case,
            body: BodySample {
                kept: body,
                total: body_bytes,
            },
        };
        let tunnel = (&*refusal.policy, &*refusal.origin);
        inspect(&request, tunnel, (client, refusal.at))
    });
    Record {
        at: refusal.at,
        id: refused.id,
        by: RecordedBy::Relay,
        tunnel: refused.host,
        client: refused.client,
        method: refused.method,
        path: refused.path,
        verdict,
        status: (!refused.observed).then_some(refused.status),
        check: is_refused.then(|| refused.check.as_str().to_owned()),
        code: None,
        reason: Some(refused.reason),
        route: inspected.route,
        provider: inspected.provider,
        event: inspected.event,
        delivery: None,
        source: Source::Sender,
        timing: Timing {
            total: Duration::from_millis(refused.ms),
            ..Timing::default()
        },
        request: inspected.request,
        response: None,
        explanation: inspected.explanation,
    }
}

fn reason(outcome: &RequestResult) -> Option<String> {
    match outcome {
        RequestResult::Refused { reason, .. } | RequestResult::Failed { reason, .. } => {
            Some(reason.clone())
        }
        RequestResult::Answered {
            observed: Some((check, reason)),
            ..
        } => Some(format!("only observed: {check}: {reason}")),
        _ => None,
    }
}

/// Returns a message without secrets, with the head as in HTTP/1.1.
fn message(
    rules: &Redaction,
    (start_line, headers, case): (Vec<u8>, &HeaderMap, &HeaderCase),
    body: &BodySample,
) -> Message {
    let mut written = case.names();
    let mut head = start_line;
    head.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        let spelled = written.next().unwrap_or(name.as_str().as_bytes());
        head.extend_from_slice(spelled);
        head.extend_from_slice(b": ");
        head.extend_from_slice(&rules.header(name, value.as_bytes()));
        head.extend_from_slice(b"\r\n");
    }

    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let redacted = rules.body(&kind.to_ascii_lowercase(), &body.kept);
    Message {
        head,
        is_redacted: matches!(redacted, Cow::Owned(_)),
        body: redacted.into_owned(),
        body_bytes: body.total,
        is_whole: body.is_whole(),
    }
}
