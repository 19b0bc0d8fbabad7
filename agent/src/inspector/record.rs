//! Turns captured requests into records: explains the verdict, then removes secrets. Runs on a
//! thread of its own, so that no exchange waits for it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::limits::{DOCTOR_BYTES, DOCTOR_BYTES_PER_SECOND};
use hookward_core::rate::ByteMeter;
use hookward_core::text::{printable, shown_path};
use hookward_gate::engine::explain::{CheckOutcome, Explanation};
use hookward_gate::engine::{Request, RequestHead};
use hookward_gate::inspection::Work;
use hookward_tunnel::protocol::control::RefusedParts;
use hookward_tunnel::protocol::head::HeaderCase;
use http::{HeaderMap, header};

use super::capture::{
    BODY_BYTES, BodySample, Captured, CapturedExchange, CapturedRefusal, CapturedRequest, Dropped,
    Source, Timing,
};
use super::history::{HistoryQueue, Record, RecordedBy};
use super::message::StoredMessage;
use super::policy::InspectedPolicy;
use crate::events::RequestResult;
use hookward_gate::redaction::Redacted;

/// Time in which requests are gathered for one commit: ten at the highest rate, and no delay that people
/// notice.
const GATHER_TIME: Duration = Duration::from_millis(50);

/// Maximum number of requests in one commit.
const BATCH: usize = 64;

/// Share of the agent's budget for diagnoses, which those on the data path have first.
const DIAGNOSIS_SHARE: u64 = 4;

/// Maximum length of a text of a relay, in bytes.
const RELAY_TEXT_BYTES: usize = 4096;

/// Recorder of captured requests.
pub(super) struct Recorder {
    pub history: HistoryQueue,
    pub clock: Clock,
    pub dropped: Dropped,
    diagnoses: ByteMeter,
}

impl Recorder {
    pub(super) fn new(history: HistoryQueue, clock: Clock, dropped: Dropped) -> Self {
        Self {
            history,
            clock,
            dropped,
            diagnoses: ByteMeter::new(DOCTOR_BYTES_PER_SECOND / DIAGNOSIS_SHARE),
        }
    }

    /// Records what is captured, until every sender is gone.
    pub(super) fn run(&self, captured: &Receiver<Captured>) {
        while let Ok(first) = captured.recv() {
            let waiting = captured.try_iter().take(BATCH - 1);
            let mut batch: Vec<_> = std::iter::once(first).chain(waiting).collect();
            if batch.len() < BATCH {
                // Sleeping costs one wakeup for all, where waiting would cost one for each.
                std::thread::sleep(GATHER_TIME);
                batch.extend(captured.try_iter().take(BATCH - batch.len()));
            }
            let records = batch.into_iter().filter_map(|next| self.record(next));
            self.history.insert(records.collect());
        }
    }

    /// Returns the record. A request that panics a parser costs its own record only.
    fn record(&self, captured: Captured) -> Option<Record> {
        let record = || match captured {
            Captured::Exchange(exchange) => self.of_exchange(*exchange),
            Captured::Refused(refusal) => self.of_refusal(*refusal),
        };
        let recorded = catch_unwind(AssertUnwindSafe(record));
        if recorded.is_err() {
            self.dropped.add(1);
            tracing::error!("a captured request could not be recorded: this is a bug");
        }
        recorded.ok()
    }

    fn explain(
        &self,
        request: &CapturedRequest,
        (policy, origin): (&InspectedPolicy, &str),
        at: (IpAddr, UnixMillis),
        keys: &FetchedKeys,
    ) -> Option<Explanation> {
        let now = self.clock.moment().steady;
        let work = match self.diagnoses.has_room(now) {
            true => Work::up_to(DOCTOR_BYTES),
            false => Work::up_to(0),
        };
        // A check that did not read the body has decided by the head.
        let body = match request.body.is_whole() {
            true => request.body.kept.as_slice(),
            false => b"",
        };
        let request = Request::new(head_of(request, origin), body);
        let explanation = policy.explain(&request, at, keys, &work);
        self.diagnoses
            .spend(work.total(), self.clock.moment().steady);
        explanation
    }

    /// Inspects a request, with the policy and the origin of its tunnel. `refused_by` is the check
    /// that refused it.
    fn inspect(
        &self,
        request: &CapturedRequest,
        tunnel: (&InspectedPolicy, &str),
        at: (IpAddr, UnixMillis),
        keys: &FetchedKeys,
        refused_by: Option<&str>,
    ) -> Inspected {
        let (policy, origin) = tunnel;
        let explanation = self.explain(request, tunnel, at, keys);
        let explanation = match request.body.is_whole() {
            true => explanation,
            false => explanation.and_then(|explained| of_head(explained, refused_by)),
        };
        let whole = Request::new(head_of(request, origin), &request.body.kept);
        let route = explanation
            .as_ref()
            .and_then(|explained| explained.route.clone());
        let sender = policy.policy.sender_of(route.as_deref(), &whole);

        let mut redacted = policy.redaction.redacted();
        let method = request.method.as_str().as_bytes();
        let target = one_line(&redacted.target(&request.target));
        let start_line = [method, b" ", &target, b" HTTP/1.1"].concat();
        let head = (start_line, &request.headers, &request.header_case);
        let message = message(&mut redacted, head, &request.body);
        let event = sender.as_ref().and_then(|sender| sender.event.clone());
        Inspected {
            request: message,
            explanation: explanation.map(|explained| redacted.explanation(explained)),
            route,
            provider: sender.map(|sender| sender.provider.id.clone()),
            event: event.map(|event| printable(&redacted.text(&event))),
            secrets: redacted.into_secrets(),
        }
    }

    fn of_exchange(&self, exchange: CapturedExchange) -> Record {
        let request = &exchange.request;
        let policy = &exchange.policy;
        // A stored webhook is checked as at its receipt.
        let received = exchange.delivery.and_then(|delivery| delivery.received);
        let outcome = exchange.outcome.as_ref().map(|event| &event.outcome);
        let check = outcome.and_then(RequestResult::check);
        let inspected = self.inspect(
            request,
            (policy, &exchange.origin),
            (exchange.client, received.unwrap_or(exchange.at)),
            &exchange.keys,
            check.map(|check| check.as_str()),
        );
        let route = match outcome {
            Some(RequestResult::Answered { route, .. }) => Some(route.clone()),
            _ => inspected.route,
        };

        let mut redacted = Redacted::with_secrets(&policy.redaction, inspected.secrets);
        let response = exchange.response.as_ref().map(|response| {
            let start = format!("HTTP/1.1 {}", response.status);
            let plain = HeaderCase::default();
            let head = (start.into_bytes(), &response.headers, &plain);
            message(&mut redacted, head, &response.body)
        });

        Record {
            at: exchange.at,
            id: exchange.id.to_string(),
            by: RecordedBy::Agent,
            tunnel: exchange.tunnel.to_string(),
            client: exchange.client.to_string(),
            method: printable(request.method.as_str()),
            path: redacted.text(&shown_path(&request.target)),
            verdict: outcome.map_or("aborted", RequestResult::verdict),
            status: outcome.and_then(RequestResult::status),
            check: check.map(|check| check.as_str().to_owned()),
            code: outcome
                .and_then(RequestResult::code)
                .map(|code| code.as_str().to_owned()),
            reason: outcome
                .and_then(reason)
                .map(|reason| redacted.text(&reason)),
            route,
            provider: inspected.provider,
            event: inspected.event,
            // Others are only being delivered for the first time.
            delivery: received.and(exchange.delivery).map(|delivery| delivery.id),
            source: exchange.source,
            timing: exchange.timing,
            request: inspected.request,
            response,
            explanation: inspected.explanation,
            _charge: Some(exchange.charge),
        }
    }

    fn of_refusal(&self, refusal: CapturedRefusal) -> Record {
        let refused = refusal.refused;
        let verdict = match (refused.observed, refused.answered) {
            (true, _) => "observed",
            (_, true) => "answered",
            _ => "refused",
        };
        let check = (verdict != "answered").then(|| refused.check.as_str());
        let policy = &refusal.policy;
        let parts = refusal.content.and_then(|content| content.decode().ok());
        let inspected = parts.map_or_else(Inspected::default, |parts| {
            let RefusedParts {
                head,
                mut body,
                body_bytes,
                is_whole,
            } = parts;
            body.truncate(BODY_BYTES);
            let request = CapturedRequest {
                method: head.method,
                target: head.target,
                headers: head.headers,
                header_case: head.header_case,
                body: BodySample {
                    kept: body,
                    total: body_bytes,
                    has_ended: is_whole,
                },
            };
            let tunnel = (&**policy, &*refusal.origin);
            let at = (head.meta.client, refusal.at);
            self.inspect(&request, tunnel, at, &head.meta.keys, check)
        });

        let redacted = Redacted::with_secrets(&policy.redaction, inspected.secrets);
        Record {
            at: refusal.at,
            id: clamped(&refused.id).to_owned(),
            by: RecordedBy::Relay,
            tunnel: clamped(&refused.host).to_owned(),
            client: clamped(&refused.client).to_owned(),
            method: clamped(&refused.method).to_owned(),
            path: redacted.text(clamped(&refused.path)),
            verdict,
            status: (!refused.observed).then_some(refused.status),
            check: check.map(str::to_owned),
            code: None,
            reason: Some(redacted.text(clamped(&refused.reason))),
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
            _charge: Some(refusal.charge),
        }
    }
}

/// Explanation of a request by the policy, and its form without secrets.
#[derive(Default)]
struct Inspected {
    request: StoredMessage,
    explanation: Option<Explanation>,
    route: Option<String>,
    provider: Option<String>,
    event: Option<String>,
    /// Values that were redacted, and that other texts may repeat.
    secrets: Vec<Vec<u8>>,
}

fn head_of<'r>(request: &'r CapturedRequest, origin: &'r str) -> RequestHead<'r> {
    RequestHead {
        method: &request.method,
        target: &request.target,
        headers: &request.headers,
        origin,
    }
}

/// Returns the part of an explanation that needs no body: up to the check of the head that refused.
/// `None` if another check did.
fn of_head(explained: Explanation, refused_by: Option<&str>) -> Option<Explanation> {
    let refuses = |outcome| outcome == CheckOutcome::Refuse;
    let mut steps = explained.checks.iter();
    let last = steps.position(|step| refuses(step.outcome))?;
    let mut checks = explained.checks;
    checks.truncate(last + 1);
    let is_same = checks.last().map(|step| step.check.as_str()) == refused_by;
    is_same.then(|| Explanation {
        checks,
        hints: Vec::new(),
        notes: Vec::new(),
        ..explained
    })
}

/// Escapes what would end a line of a head.
fn one_line(target: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(target.len());
    for byte in target {
        match byte {
            0..=0x20 | 0x7f => escaped.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

/// Returns a text of a relay, which may be hostile, within a length.
fn clamped(text: &str) -> &str {
    let mut ends = (0..=RELAY_TEXT_BYTES.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
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
    redacted: &mut Redacted<'_>,
    (start_line, headers, case): (Vec<u8>, &HeaderMap, &HeaderCase),
    body: &BodySample,
) -> StoredMessage {
    let mut written = case.names();
    let mut head = start_line;
    head.extend_from_slice(b"\r\n");
    for (name, value) in headers {
        let spelled = written.next().unwrap_or(name.as_str().as_bytes());
        head.extend_from_slice(spelled);
        head.extend_from_slice(b": ");
        head.extend_from_slice(&redacted.header(name, value.as_bytes()));
        head.extend_from_slice(b"\r\n");
    }

    // Secrets in a compressed body cannot be found.
    let is_compressed = headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"));
    if is_compressed {
        return StoredMessage {
            head,
            body: Vec::new(),
            body_bytes: body.total,
            is_whole: body.total == 0,
            is_redacted: body.total > 0,
        };
    }

    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let shown = redacted.body(kind, &body.kept, !body.is_whole());
    StoredMessage {
        head,
        is_redacted: matches!(shown, Cow::Owned(_)),
        body: shown.into_owned(),
        body_bytes: body.total,
        is_whole: body.is_whole(),
    }
}
