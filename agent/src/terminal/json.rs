//! One JSON object a line, for programs. Every object has `time`, `level` and `event`; fields without a
//! value are omitted.

use std::collections::BTreeMap;
use std::time::Duration;

use hookward_core::reason::{Check, Code};
use serde::Serialize;

use super::lines::time_of;
use crate::events::{Event, Ready, RequestResult, TimedEvent};

#[derive(Serialize)]
struct JsonLine<'r> {
    time: String,
    level: &'static str,
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
    Disconnected {
        reason: &'r str,
    },
    RelayDisconnected {
        relay: &'r str,
        reason: &'r str,
        permanent: bool,
    },
    Request(JsonRequest<'r>),
    Refused(JsonRequest<'r>),
    Observed(JsonRequest<'r>),
    Answered(JsonRequest<'r>),
    Hint(JsonRequest<'r>),
    RefusedSummary {
        counts: BTreeMap<String, u64>,
    },
    Api {
        address: String,
    },
    Stopping {
        in_flight: usize,
    },
    Note {
        message: &'r str,
    },
    Warning {
        message: &'r str,
    },
}

/// Fields of a request, as far as known.
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
    trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'r str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<Observed<'r>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    secrets: &'r [String],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    challenge: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    aborted: bool,
}

/// Duration: measured here, or reported by the relay in whole milliseconds.
#[derive(Serialize)]
#[serde(untagged)]
enum Millis {
    Measured(f64),
    Reported(u64),
}

impl Default for Millis {
    fn default() -> Self {
        Self::Reported(0)
    }
}

/// Check that would have refused a request on a route that only observes.
#[derive(Serialize)]
struct Observed<'r> {
    check: Check,
    reason: &'r str,
}

/// Returns the line for an event.
#[must_use]
pub(crate) fn line(stamped: &TimedEvent) -> Option<String> {
    serde_json::to_string(&JsonLine {
        time: time_of(stamped.at),
        level: level(&stamped.event),
        event: event(&stamped.event),
    })
    .ok()
}

/// Returns the level of an event, as of lines of the log.
const fn level(event: &Event) -> &'static str {
    match event {
        Event::Disconnected { .. } | Event::RelayDisconnected { .. } | Event::Warning(_) => "warn",
        Event::Application {
            is_healthy: false, ..
        } => "warn",
        Event::Request(request) => match request.outcome {
            RequestResult::Failed { .. } => "warn",
            _ => "info",
        },
        _ => "info",
    }
}

fn event(report: &Event) -> JsonEvent<'_> {
    match report {
        Event::Connecting { relay } => JsonEvent::Connecting { relay },
        Event::RelayDisconnected {
            relay,
            reason,
            permanent,
        } => JsonEvent::RelayDisconnected {
            relay,
            reason,
            permanent: *permanent,
        },
        Event::Ready(ready) => JsonEvent::Ready(ready),
        Event::Disconnected { reason } => JsonEvent::Disconnected { reason },
        Event::Request(request) => {
            let common = JsonRequest {
                id: request.id.to_string(),
                host: Some(&request.host),
                method: request.method(),
                path: &request.path,
                ms: Millis::Measured(millis(request.took)),
                client: request.client.to_string(),
                trace: request.trace.map(|trace| trace.to_string()),
                ..JsonRequest::default()
            };

            JsonEvent::Request(match &request.outcome {
                RequestResult::Answered {
                    status,
                    observed,
                    secrets,
                    ..
                } => {
                    let observed = observed.as_ref().map(|(check, reason)| Observed {
                        check: *check,
                        reason,
                    });

                    JsonRequest {
                        status: Some(*status),
                        observed,
                        secrets,
                        ..common
                    }
                }
                RequestResult::Challenge { status } => JsonRequest {
                    status: Some(*status),
                    challenge: true,
                    ..common
                },
                RequestResult::Refused {
                    status,
                    check,
                    reason,
                } => JsonRequest {
                    status: Some(*status),
                    refused_by: Some("agent"),
                    check: Some(*check),
                    reason: Some(reason),
                    ..common
                },
                RequestResult::Failed {
                    status,
                    code,
                    reason,
                } => JsonRequest {
                    status: Some(*status),
                    code: Some(*code),
                    reason: Some(reason),
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
                ms: Millis::Reported(refused.ms),
                client: refused.client.clone(),
                host: Some(&refused.host),
                refused_by: Some("relay"),
                check: Some(refused.check),
                reason: Some(&refused.reason),
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
        Event::RefusedSummary(counted) => JsonEvent::RefusedSummary {
            counts: counted
                .iter()
                .map(|(check, count)| (check.to_string(), *count))
                .collect(),
        },
        Event::Api { address } => JsonEvent::Api {
            address: address.to_string(),
        },
        Event::Stopping { in_flight } => JsonEvent::Stopping {
            in_flight: *in_flight,
        },
        Event::Application {
            is_healthy: true,
            message,
            ..
        }
        | Event::Note(message) => JsonEvent::Note { message },
        Event::Application { message, .. } => JsonEvent::Warning { message },
        Event::Warning(message) => JsonEvent::Warning { message },
    }
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
