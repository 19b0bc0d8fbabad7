//! Audit records of requests, in the format of the relay's.

use std::net::IpAddr;

use hookward_core::reason::{Check, Code};
use hookward_observe::audit::{AuditLog, Causer, LimitedKind};
use serde::Serialize;

use crate::events::{RequestEvent, RequestResult};

/// Fields of a record. There is no query, no header and no body, because those carry secrets.
#[derive(Serialize)]
struct ExchangeFields<'r> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    client: IpAddr,
    tunnel: &'r str,
    method: String,
    path: &'r str,
    #[serde(skip_serializing_if = "str::is_empty")]
    route: &'r str,
    #[serde(skip_serializing_if = "<[Check]>::is_empty")]
    checks: &'r [Check],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    secrets: &'r [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'r str>,
    ms: u64,
}

/// Records the outcome of a request.
pub(super) fn request(audit: &AuditLog, request: &RequestEvent) {
    if audit.is_off() {
        return;
    }
    let RequestResult::Refused { check, .. } = &request.outcome else {
        return audit.record(request.outcome.verdict(), &fields(request));
    };
    let kind = LimitedKind {
        event: "refused",
        reason: check.as_str(),
    };
    audit.limited(Causer::Stranger, request.client, kind, || fields(request));
}

fn fields(request: &RequestEvent) -> ExchangeFields<'_> {
    let outcome = &request.outcome;
    let (route, checks, secrets): (&str, &[Check], &[String]) = match outcome {
        RequestResult::Answered {
            route,
            checks,
            secrets,
            ..
        } => (route, checks, secrets),
        _ => ("", &[], &[]),
    };
    let reason = match outcome {
        RequestResult::Refused { check, reason, .. } => Some(check.recorded_reason(reason)),
        RequestResult::Failed { reason, .. } => Some(reason.as_str()),
        _ => None,
    };

    ExchangeFields {
        id: request.id.to_string(),
        trace: request.trace.map(|trace| trace.to_string()),
        client: request.client,
        tunnel: &request.host,
        method: request.method(),
        path: &request.path,
        route,
        checks,
        secrets,
        status: outcome.status(),
        check: outcome.check(),
        code: outcome.code(),
        reason,
        ms: u64::try_from(request.took.as_millis()).unwrap_or(u64::MAX),
    }
}
