//! One JSON object a line, for programs. Every object has `time` and `event`; a field that has
//! nothing to say is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use hookward_core::reason::{Check, Code};
use serde::Serialize;

use super::lines::time_of;
use crate::events::{Outcome, Ready, Report, Stamped};

#[derive(Serialize)]
struct Line<'r> {
    time: String,
    #[serde(flatten)]
    event: Event<'r>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'r> {
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
    Request(Request<'r>),
    Refused(Request<'r>),
    Observed(Request<'r>),
    Answered(Request<'r>),
    Hint(Request<'r>),
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
struct Request<'r> {
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
pub fn line(stamped: &Stamped) -> Option<String> {
    serde_json::to_string(&Line {
        time: time_of(stamped.at),
        event: event(&stamped.report),
    })
    .ok()
}

fn event(report: &Report) -> Event<'_> {
    match report {
        Report::Connecting { relay } => Event::Connecting { relay },
        Report::RelayLost {
            relay,
            why,
            for_good,
        } => Event::RelayLost {
            relay,
            why,
            for_good: *for_good,
        },
        Report::Ready(ready) => Event::Ready(ready),
        Report::Away { why } => Event::Away { why },
        Report::Request(request) => {
            let common = Request {
                id: request.id.to_string(),
                host: Some(&request.host),
                method: request.method(),
                path: &request.path,
                ms: Millis::Measured(millis(request.took)),
                client: request.client.to_string(),
                ..Request::default()
            };

            Event::Request(match &request.outcome {
                Outcome::Answered {
                    status,
                    observed,
                    secrets,
                } => {
                    let observed = observed
                        .as_ref()
                        .map(|(check, why)| Observed { check: *check, why });

                    Request {
                        status: Some(*status),
                        observed,
                        secrets,
                        ..common
                    }
                }
                Outcome::Handshake { status } => Request {
                    status: Some(*status),
                    handshake: true,
                    ..common
                },
                Outcome::Refused { status, check, why } => Request {
                    status: Some(*status),
                    refused_by: Some("agent"),
                    check: Some(*check),
                    why: Some(why),
                    ..common
                },
                Outcome::Failed { status, code, why } => Request {
                    status: Some(*status),
                    code: Some(*code),
                    why: Some(why),
                    ..common
                },
                Outcome::Aborted => Request {
                    aborted: true,
                    ..common
                },
            })
        }
        Report::Refused(refused) => {
            let fields = Request {
                id: refused.id.clone(),
                method: refused.method.clone(),
                path: &refused.path,
                status: (!refused.observed).then_some(refused.status),
                ms: Millis::Told(refused.ms),
                client: refused.client.clone(),
                host: Some(&refused.host),
                refused_by: Some("relay"),
                check: Some(refused.check),
                why: Some(&refused.why),
                ..Request::default()
            };

            if refused.note {
                return Event::Hint(Request {
                    refused_by: None,
                    check: None,
                    status: None,
                    ..fields
                });
            }

            match (refused.observed, refused.answered) {
                (true, _) => Event::Observed(fields),
                (false, true) => Event::Answered(Request {
                    refused_by: None,
                    check: None,
                    ..fields
                }),
                (false, false) => Event::Refused(fields),
            }
        }
        Report::Counted(counted) => Event::RefusedMore {
            counts: counted
                .iter()
                .map(|(check, count)| (check.to_string(), *count))
                .collect(),
        },
        Report::Stopping { under_way } => Event::Stopping {
            under_way: *under_way,
        },
        Report::Note(message) => Event::Note { message },
        Report::Warning(message) => Event::Warning { message },
    }
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
