//! One JSON object a line, for programs. Every object has `time` and `event`; a field that has
//! nothing to say is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use hookward_core::reason::{Check, Code};
use serde::Serialize;

use super::lines::time_of;
use crate::events::{Event, Ready, RequestResult, TimedEvent};

#[derive(Serialize)]
struct JsonLine<'r> {
    time: String,
    #[serde(flatten)]
    event: JsonEvent<'r>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum JsonEvent<'r> {
    Connecting {
        relay: &'r str,
    },
    Ready(&'r Ready),
    Away {
        why: &'r str,
    },
    RelayLost {
        relay: &'r str,
        why: &'r str,
        for_good: bool,
    },
    Request(JsonRequest<'r>),
    Refused(JsonRequest<'r>),
    Observed(JsonRequest<'r>),
    Answered(JsonRequest<'r>),
    Hint(JsonRequest<'r>),
    RefusedMore {
        counts: BTreeMap<String, u64>,
    },
    Stopping {
        under_way: usize,
    },
    Note {
        message: &'r str,
    },
    Warning {
        message: &'r str,
    },
}

/// A request, as far as the agent got to know it.
#[derive(Serialize, Default)]
struct JsonRequest<'r> {
    id: String,
    method: String,
    path: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    ms: Millis,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<Observed<'r>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    secrets: &'r [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    handshake: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    aborted: bool,
}

/// A span of time: measured here, or told by the relay in whole milliseconds.
#[derive(Serialize)]
#[serde(untagged)]
enum Millis {
    Measured(f64),
    Told(u64),
}

impl Default for Millis {
    fn default() -> Self {
        Self::Told(0)
    }
}

/// What would have refused a request on a route that only observes.
#[derive(Serialize)]
struct Observed<'r> {
    check: Check,
    why: &'r str,
}

/// The line for a report.
#[must_use]
pub fn line(stamped: &TimedEvent) -> Option<String> {
    serde_json::to_string(&JsonLine {
        time: time_of(stamped.at),
        event: event(&stamped.event),
    })
    .ok()
}

fn event(report: &Event) -> JsonEvent<'_> {
    match report {
        Event::Connecting { relay } => JsonEvent::Connecting { relay },
        Event::RelayDisconnected {
            relay,
            why,
            for_good,
        } => JsonEvent::RelayLost {
            relay,
            why,
            for_good: *for_good,
        },
        Event::Ready(ready) => JsonEvent::Ready(ready),
        Event::Disconnected { why } => JsonEvent::Away { why },
        Event::Request(request) => {
            let common = JsonRequest {
                id: request.id.to_string(),
                host: Some(&request.host),
                method: request.method(),
                path: &request.path,
                ms: Millis::Measured(millis(request.took)),
                client: request.client.to_string(),
                ..JsonRequest::default()
            };

            JsonEvent::Request(match &request.outcome {
                RequestResult::Answered {
                    status,
                    observed,
                    secrets,
                } => {
                    let observed = observed
                        .as_ref()
                        .map(|(check, why)| Observed { check: *check, why });

                    JsonRequest {
                        status: Some(*status),
                        observed,
                        secrets,
                        ..common
                    }
                }
                RequestResult::Handshake { status } => JsonRequest {
                    status: Some(*status),
                    handshake: true,
                    ..common
                },
                RequestResult::Refused { status, check, why } => JsonRequest {
                    status: Some(*status),
                    refused_by: Some("agent"),
                    check: Some(*check),
                    why: Some(why),
                    ..common
                },
                RequestResult::Failed { status, code, why } => JsonRequest {
                    status: Some(*status),
                    code: Some(*code),
                    why: Some(why),
                    ..common
                },
                RequestResult::Aborted => JsonRequest {
                    aborted: true,
                    ..common
                },
            })
        }
        Event::Refused(refused) => {
            let fields = JsonRequest {
                id: refused.id.clone(),
                method: refused.method.clone(),
                path: &refused.path,
                status: (!refused.observed).then_some(refused.status),
                ms: Millis::Told(refused.ms),
                client: refused.client.clone(),
                host: Some(&refused.host),
                refused_by: Some("relay"),
                check: Some(refused.check),
                why: Some(&refused.reason),
                ..JsonRequest::default()
            };

            if refused.note {
                return JsonEvent::Hint(JsonRequest {
                    refused_by: None,
                    check: None,
                    status: None,
                    ..fields
                });
            }

            match (refused.observed, refused.answered) {
                (true, _) => JsonEvent::Observed(fields),
                (false, true) => JsonEvent::Answered(JsonRequest {
                    refused_by: None,
                    check: None,
                    ..fields
                }),
                (false, false) => JsonEvent::Refused(fields),
            }
        }
        Event::RefusedSummary(counted) => JsonEvent::RefusedMore {
            counts: counted
                .iter()
                .map(|(check, count)| (check.to_string(), *count))
                .collect(),
        },
        Event::Stopping { under_way } => JsonEvent::Stopping {
            under_way: *under_way,
        },
        Event::Note(message) => JsonEvent::Note { message },
        Event::Warning(message) => JsonEvent::Warning { message },
    }
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
