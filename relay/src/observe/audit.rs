//! Audit records of requests. Those that passed the gate get a record each. Requests that strangers
//! can send at will have a bound, beyond which they are counted.

use std::borrow::Cow;

use hookward_core::reason::{Check, Code};
use hookward_core::text::shown_path;
use hookward_observe::audit::{AuditLog, Causer, LimitedKind};
use hookward_tunnel::protocol::head::RequestId;
use serde::Serialize;

use crate::observe::millis;
use crate::observe::outcome::{RequestFacts, RequestOutcome, Verdict};

/// Fields of a record. There is no query, no header and no body, because those carry secrets.
#[derive(Serialize)]
struct RequestFields<'r> {
    id: RequestId,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    client: std::net::IpAddr,
    /// Public host of the tunnel, as requested.
    tunnel: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'r str>,
    method: &'r str,
    path: Cow<'r, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'r str>,
    /// Checks that the request passed.
    #[serde(skip_serializing_if = "<[Check]>::is_empty")]
    checks: &'r [Check],
    /// Names of the secrets that matched.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    secrets: &'r [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Check that refused, or that answered instead of the application.
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'r str>,
    /// Check that would have refused the request on a route that does not only observe.
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<ObservedRefusal<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_bytes: Option<u64>,
    ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<usize>,
}

#[derive(Serialize)]
struct ObservedRefusal<'r> {
    check: Check,
    reason: &'r str,
}

/// Records the outcome of a request.
pub(super) fn request(audit: &AuditLog, facts: RequestFacts<'_>, outcome: &RequestOutcome) {
    if audit.is_off() {
        return;
    }

    let verdict = &outcome.verdict;
    // A duplicate passed the signature. Anyone can send some providers' challenges.
    if facts.permitted.is_some() || matches!(verdict, Verdict::Duplicate) {
        audit.record(verdict.event(), &fields(facts, outcome));
        return;
    }

    let reason = verdict.check().map(Check::as_str);
    let reason = reason.or_else(|| verdict.code().map(Code::as_str));
    let kind = LimitedKind {
        event: verdict.event(),
        reason: reason.unwrap_or("sender_left"),
    };
    audit.limited(Causer::Stranger, facts.client, kind, || {
        fields(facts, outcome)
    });
}

fn fields<'r>(facts: RequestFacts<'r>, outcome: &'r RequestOutcome) -> RequestFields<'r> {
    let verdict = &outcome.verdict;
    let upstream = match verdict {
        Verdict::Forwarded(upstream) => Some(*upstream),
        _ => None,
    };
    let observed = outcome.observed.as_ref();

    RequestFields {
        id: facts.id,
        trace: facts.trace.map(|trace| trace.to_string()),
        client: facts.client,
        tunnel: facts.host,
        agent: facts.agent,
        // A method is a token, which needs no escape (RFC 9110 §9.1).
        method: facts.method.as_str(),
        path: shown_path(facts.target),
        route: facts.permitted.map(|permitted| permitted.route.as_str()),
        checks: facts.permitted.map_or(&[], |permitted| &permitted.checks),
        secrets: facts.permitted.map_or(&[], |permitted| &permitted.secrets),
        status: outcome.status.map(|status| status.as_u16()),
        check: verdict.check(),
        code: verdict.code(),
        reason: verdict.recorded_reason(),
        observed: observed.map(|refusal| ObservedRefusal {
            check: refusal.check,
            reason: refusal.recorded_reason(),
        }),
        request_bytes: outcome.sizes.request,
        response_bytes: outcome.sizes.response,
        ms: millis(outcome.took),
        upstream_ms: upstream.map(|upstream| millis(upstream.took)),
        attempts: upstream.map(|upstream| upstream.attempts),
    }
}
