//! Filter of requests that the terminal shows. It knows less of them than the history.

use hookward_core::clock::UnixMillis;

use super::{Condition, Filter};

/// Fields of a request that the terminal shows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShownRequest<'r> {
    pub at: UnixMillis,
    pub id: &'r str,
    pub method: &'r str,
    pub path: &'r str,
    pub status: &'r str,
    pub client: &'r str,
    /// Provider and event.
    pub sender: &'r str,
    pub verdict: &'r str,
    pub check: &'r str,
    pub reason: &'r str,
}

impl Filter {
    /// Returns `true` if a term needs the history.
    pub(crate) fn needs_history(&self) -> bool {
        let mut terms = self.terms.iter();
        terms.any(|term| term.condition.needs_history())
    }

    /// Returns `true` if a request matches all terms.
    pub(crate) fn matches(&self, request: &ShownRequest<'_>) -> bool {
        let mut terms = self.terms.iter();
        terms.all(|term| term.condition.matches(request) != term.is_negated)
    }
}

impl Condition {
    fn needs_history(&self) -> bool {
        match self {
            Self::Column(name, _) | Self::Exact(name, _) => {
                field(name, &ShownRequest::default()).is_none()
            }
            Self::Header(_) | Self::Body(_) | Self::Again | Self::Sample | Self::Stored => true,
            Self::Text(_) | Self::Status(..) | Self::Since(_) | Self::Until(_) => false,
        }
    }

    fn matches(&self, request: &ShownRequest<'_>) -> bool {
        let value = |name| field(name, request).unwrap_or_default();
        match self {
            Self::Text(text) => [
                request.method,
                request.path,
                request.status,
                request.client,
                request.sender,
                request.verdict,
                request.reason,
            ]
            .into_iter()
            .any(|field| contains(field, text)),
            Self::Column(name, text) => contains(value(name), text),
            Self::Exact(name, text) => value(name).eq_ignore_ascii_case(text),
            Self::Status(low, high) => {
                let status = request.status.parse::<u16>();
                status.is_ok_and(|status| (*low..=*high).contains(&status))
            }
            Self::Since(at) => request.at >= *at,
            Self::Until(at) => request.at <= *at,
            Self::Header(_) | Self::Body(_) | Self::Again | Self::Sample | Self::Stored => false,
        }
    }
}

/// Returns the field of a column; `None` if the terminal does not have it.
fn field<'r>(column: &str, request: &ShownRequest<'r>) -> Option<&'r str> {
    Some(match column {
        "id" => request.id,
        "method" => request.method,
        "path" => request.path,
        "client" => request.client,
        "provider" => request.sender.split(' ').next()?,
        "event" => request
            .sender
            .split_once(' ')
            .map_or("", |(_, event)| event),
        "verdict" => request.verdict,
        "check_name" => request.check,
        _ => return None,
    })
}

/// Returns `true` if a field has a text, in any case of ASCII letters, as in the history.
fn contains(field: &str, text: &str) -> bool {
    let (field, text) = (field.as_bytes(), text.as_bytes());
    let mut windows = field.windows(text.len().max(1));
    text.is_empty() || windows.any(|window| window.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_has_the_terms_of_its_columns() {
        let now = UnixMillis(1_769_860_800_000);
        let request = ShownRequest {
            at: now,
            id: "01",
            method: "POST",
            path: "/git/push",
            status: "403",
            client: "192.0.2.7",
            sender: "github push",
            verdict: "refused",
            check: "signature",
            reason: "another secret made it",
        };
        for (filter, expected) in [
            ("", true),
            ("PUSH", true),
            ("another", true),
            ("-another", false),
            ("status:4xx provider:github event:push", true),
            ("status:200", false),
            ("provider:push", false),
            ("event:github", false),
            ("verdict:refused check:signature", true),
            ("check:token", false),
            ("path:/git -client:192.0.2.7", false),
            ("since:10m", true),
            ("until:10m", false),
        ] {
            let filter = Filter::parse(filter, now).unwrap();
            assert!(!filter.needs_history());
            assert_eq!(filter.matches(&request), expected, "{filter:?}");
        }
        for filter in ["body:x", "header:x", "is:again", "route:x"] {
            assert!(Filter::parse(filter, now).unwrap().needs_history());
        }
    }
}
