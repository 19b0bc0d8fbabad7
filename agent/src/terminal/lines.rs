//! Plain lines, for a log.

use std::time::Duration;

use time::OffsetDateTime;

use crate::events::{Event, Ready, RequestResult, TimedEvent};

/// Returns the line for an event; some have none. With `several` tunnels, requests have their host.
#[must_use]
pub(crate) fn line(stamped: &TimedEvent, several: bool) -> Option<String> {
    Some(format!(
        "{} {}",
        time_of(stamped.at),
        text(&stamped.event, several)
    ))
}

/// Returns the text of an event, without the time.
#[must_use]
pub fn text(report: &Event, several: bool) -> String {
    let host = |host: &str| {
        if several {
            host.to_owned()
        } else {
            String::new()
        }
    };

    match report {
        Event::Connecting { relay } => format!("connecting to {relay}"),
        Event::Ready(ready) => {
            let trust = ready
                .ca
                .as_ref()
                .map(|ca| format!(" (trust {ca})"))
                .unwrap_or_default();

            let Ready {
                url,
                application,
                relay,
                transport,
                ..
            } = ready;

            format!("ready: {url} -> {application}, through {relay} over {transport}{trust}")
        }
        Event::Disconnected { reason } => format!("not connected: {reason}; dialing again"),
        Event::RelayDisconnected {
            relay,
            reason,
            permanent: true,
        } => format!("warning: the relay {relay} is given up: {reason}"),
        Event::RelayDisconnected {
            relay,
            reason,
            permanent: false,
        } => format!(
            "warning: no connection to the relay {relay} ({reason}): no webhooks arrive through it; other relays are connected; \
             dialing again"
        ),
        Event::Request(request) => {
            let line = |status: u16, rest: String| {
                let took = short(request.took);
                let (host, path) = (host(&request.host), &request.path);
                format!(
                    "{} {host}{path} {status} {took} {}{rest}",
                    request.method(),
                    request.client
                )
            };

            match &request.outcome {
                RequestResult::Answered {
                    status,
                    observed: None,
                    secrets,
                    ..
                } if secrets.is_empty() => line(*status, String::new()),
                RequestResult::Answered {
                    status,
                    observed: None,
                    secrets,
                    ..
                } => line(*status, format!(" by {}", secrets.join(", "))),
                RequestResult::Challenge { status } => {
                    line(*status, " answered the provider's challenge".to_owned())
                }
                RequestResult::Answered {
                    status,
                    observed: Some((check, reason)),
                    ..
                } => line(
                    *status,
                    format!(" observed, would be refused by {check}: {reason}"),
                ),
                RequestResult::Refused {
                    status,
                    check,
                    reason,
                } => line(
                    *status,
                    format!(" refused by the agent's {check}: {reason}"),
                ),
                RequestResult::Failed {
                    status,
                    code,
                    reason,
                } => line(*status, format!(" {code}: {reason}")),
                RequestResult::Aborted => {
                    format!(
                        "{} {}{} - {} {} aborted by the sender or the relay",
                        request.method(),
                        host(&request.host),
                        request.path,
                        short(request.took),
                        request.client
                    )
                }
            }
        }
        Event::Refused(refused) => {
            let what = format!(
                "{} {}{} {} {}ms {}",
                refused.method,
                host(&refused.host),
                refused.path,
                refused.status,
                refused.ms,
                refused.client
            );

            if refused.note {
                return format!("{what} is forwarded to the application: {}", refused.reason);
            }

            if refused.answered {
                return format!("{what} answered by the relay: {}", refused.reason);
            }

            let verb = if refused.observed {
                "observed, would be refused by"
            } else {
                "refused by"
            };
            format!("{what} {verb} {}: {}", refused.check, refused.reason)
        }
        Event::RefusedSummary(counted) => {
            let counts = counted
                .iter()
                .map(|(check, count)| format!("{count} by {check}"))
                .collect::<Vec<_>>();
            format!("refused more: {}", counts.join(", "))
        }
        Event::Api { address } if address.ip().is_loopback() => {
            format!("inspector: http://{address}")
        }
        Event::Api { address } => format!(
            "inspector: http://{address}, any name, and as password the token of the file api-token in the \
             state directory"
        ),
        Event::Stopping { in_flight: 0 } => "stopping".to_owned(),
        Event::Stopping { in_flight: 1 } => "stopping: 1 request in flight".to_owned(),
        Event::Stopping { in_flight } => format!("stopping: {in_flight} requests in flight"),
        Event::Application {
            is_healthy: true,
            message,
            ..
        } => message.clone(),
        Event::Application { message, .. } => format!("warning: {message}"),
        Event::Note(text) => text.clone(),
        Event::Warning(text) => format!("warning: {text}"),
    }
}

/// Formats a time in UTC (RFC 3339) with constant length.
#[must_use]
pub(crate) fn time_of(at: OffsetDateTime) -> String {
    let ((year, month, day), (hour, minute, second, milli)) =
        (at.to_calendar_date(), at.to_hms_milli());
    let month = u8::from(month);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Formats a duration by its two largest units, such as "3m 20s".
#[must_use]
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);

    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Formats a duration briefly.
#[must_use]
pub(crate) fn short(span: Duration) -> String {
    match span.as_secs_f64() {
        seconds if seconds >= 1.0 => format!("{seconds:.1}s"),
        seconds => format!("{:.0}ms", seconds * 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::format_description::well_known::Rfc3339;

    #[test]
    fn the_time_is_one_that_programs_read() {
        let now = time_of(OffsetDateTime::now_utc());
        assert_eq!(
            (now.len(), OffsetDateTime::parse(&now, &Rfc3339).is_ok()),
            (24, true),
            "{now}"
        );
    }

    #[test]
    fn spans_have_two_units() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3_599, "59m 59s"),
            (7_260, "2h 1m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
