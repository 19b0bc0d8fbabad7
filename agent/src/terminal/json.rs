//! One JSON object a line, for programs. Every object has `time` and `event`.

use serde_json::{Map, Value, json};

use super::lines::now;
use crate::report::{Outcome, Report};

/// The line for a report.
#[must_use]
pub fn line(report: &Report) -> Option<String> {
    let mut object = Map::new();
    object.insert("time".to_owned(), now().into());
    let (event, Value::Object(fields)) = event(report) else { return None };
    object.insert("event".to_owned(), event.into());
    object.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    serde_json::to_string(&object).ok()
}

fn event(report: &Report) -> (&'static str, Value) {
    match report {
        Report::Connecting { relay } => ("connecting", json!({ "relay": relay })),
        Report::Ready(ready) => (
            "ready",
            json!({
                "url": ready.url,
                "base_url": ready.base_url,
                "host": ready.host,
                "edge": ready.edge,
                "ca": ready.ca,
                "relay": ready.relay,
                "transport": ready.transport,
                "application": ready.application,
            }),
        ),
        Report::Away { why, again_in } => ("away", json!({ "why": why, "again_in_ms": millis(*again_in) })),
        Report::Request(request) => {
            let (status, rest) = match &request.outcome {
                Outcome::Answered { status, observed } => (
                    Some(*status),
                    json!({ "observed": observed.as_ref().map(|(check, why)| json!({ "check": check, "why": why })) }),
                ),
                Outcome::Refused { status, check, why } => {
                    (Some(*status), json!({ "refused_by": "agent", "check": check, "why": why }))
                }
                Outcome::Failed { status, code, why } => (Some(*status), json!({ "code": code, "why": why })),
                Outcome::Aborted => (None, json!({ "aborted": true })),
            };
            let mut fields = json!({
                "id": request.id,
                "method": request.method,
                "path": request.path,
                "status": status,
                "ms": millis(request.took),
                "client": request.client,
            });
            if let (Value::Object(fields), Value::Object(rest)) = (&mut fields, rest) {
                fields.extend(rest);
            }
            ("request", fields)
        }
        Report::Refused(refused) => (
            if refused.observed { "observed" } else { "refused" },
            json!({
                "id": refused.id,
                "method": refused.method,
                "path": refused.path,
                "status": if refused.observed { None } else { Some(refused.status) },
                "ms": refused.ms,
                "client": refused.client,
                "host": refused.host,
                "refused_by": "relay",
                "check": refused.check,
                "why": refused.why,
            }),
        ),
        Report::Counted(counted) => {
            let counts: Map<_, _> = counted.iter().map(|(check, count)| (check.to_string(), (*count).into())).collect();
            ("refused_more", json!({ "counts": counts }))
        }
        Report::Note(text) => ("note", json!({ "message": text })),
        Report::Warning(text) => ("warning", json!({ "message": text })),
    }
}

fn millis(span: std::time::Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
