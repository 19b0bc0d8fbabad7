//! Summary of a policy: what it allows, and from whom. For `hookward check` and the relay's log.

use std::sync::LazyLock;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::policy::{Accept, Addresses, Lockout, Mode, Policy, Route, TokenCheck, TokenLocation};
use hookward_core::secret::{Secret, SecretDigest};
use hookward_core::text::printable;

/// Summary of the requests that a policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Digest of the policy, as [`digest`] returns it.
    pub digest: String,
    /// One line for each accept rule, and for each general rule.
    pub lines: Vec<String>,
}

impl Summary {
    /// Summarizes a policy.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let ways = policy.routes.iter().flat_map(lines_of_route);
        let mut lines: Vec<_> = ways
            .chain(general(policy))
            .map(|line| shortened(&line))
            .collect();
        if lines.len() > LINES {
            let more = lines.len() - LINES;
            lines.truncate(LINES);
            lines.push(format!("and {more} ways more"));
        }

        Self {
            digest: digest(policy),
            lines,
        }
    }
}

/// Returns the first digits of the policy's SHA-256. Both sides compute the same one, from the values
/// of the policy and not from its file. Secrets and tokens do not contribute, because a log must not
/// help to guess them; their names do, except those of secrets that only the agent has.
#[must_use]
pub fn digest(policy: &Policy) -> String {
    // A policy of an agent can always be serialized as JSON.
    let json = serde_json::to_vec(&without_secrets(&policy.for_relay())).unwrap_or_default();
    let mut digest = HEXLOWER.encode(&Sha256::digest(json));
    digest.truncate(DIGEST_DIGITS);
    digest
}

/// Number of hexadecimal digits of a policy's digest to show: enough to distinguish policies.
const DIGEST_DIGITS: usize = 16;

/// Maximum number of lines of a summary.
const LINES: usize = 40;

/// Returns the policy with the names of its secrets and tokens, without their values.
fn without_secrets(policy: &Policy) -> Policy {
    let mut policy = policy.clone();
    let nothing = SecretDigest::of(b"");

    for accept in policy.routes.iter_mut().flat_map(|route| &mut route.accept) {
        for live in accept
            .token
            .iter_mut()
            .chain(&mut accept.basic)
            .flat_map(|check| &mut check.active)
        {
            live.digest = nothing.clone();
        }

        for live in accept
            .verify
            .iter_mut()
            .flat_map(|check| &mut check.secrets)
        {
            live.secret.clone_from(&PLACEHOLDER);
        }
    }

    policy
}

/// Replacement of every secret.
static PLACEHOLDER: LazyLock<Secret> = LazyLock::new(Secret::placeholder);

fn lines_of_route(route: &Route) -> Vec<String> {
    let methods = if route.methods.is_empty() {
        "every method but CONNECT and TRACE".to_owned()
    } else {
        route.methods.join(", ")
    };
    let mut what = format!("{methods} on {}", list(&route.paths));

    if route.websocket {
        what.push_str(", WebSockets too");
    }

    if route.encoded_slashes {
        what.push_str(", encoded slashes too");
    }

    if let Mode::Observe { until } = route.mode {
        what.push_str(&format!(
            " (only observed until {}: failed checks do not refuse)",
            date(until)
        ));
    }

    let but = match route.deny_ips.is_empty() {
        true => String::new(),
        false => format!(", but not from {}", addresses(&route.deny_ips)),
    };

    route
        .accept
        .iter()
        .map(|accept| format!("{what}: {}{but}", who(accept)))
        .collect()
}

/// Describes who may send by this accept rule.
fn who(accept: &Accept) -> String {
    let mut conditions = Vec::new();
    if let Some(ips) = &accept.allow_ips {
        conditions.push(format!("from {}", addresses(ips)));
    }

    if let Some(token) = &accept.token {
        conditions.push(token_condition(token));
    }

    if let Some(basic) = &accept.basic {
        conditions.push(format!("with user and password ({})", names(basic)));
    }

    for check in &accept.verify {
        let live: Vec<_> = check.secrets.iter().map(|live| live.name.clone()).collect();
        let secrets = match live.is_empty() {
            true => String::new(),
            false => format!(" ({})", list(&live)),
        };
        conditions.push(format!(
            "with a valid signature of {}{secrets}",
            check.title()
        ));
    }

    for rule in &accept.headers {
        conditions.push(format!("with {}: {}", rule.name, list(&rule.allowed)));
    }

    if !accept.content_types.is_empty() {
        conditions.push(format!(
            "with the content type {}",
            list(&accept.content_types)
        ));
    }

    for rule in &accept.body {
        conditions.push(format!(
            "with {} = {} in the body",
            rule.path,
            list(&rule.allowed)
        ));
    }

    if accept.is_protected() {
        return conditions.join(", ");
    }

    let known = "anyone who knows the URL".to_owned();
    [known]
        .into_iter()
        .chain(conditions)
        .collect::<Vec<_>>()
        .join(", ")
}

fn token_condition(token: &TokenCheck) -> String {
    let place = match &token.location {
        TokenLocation::Query(name) => format!("in ?{name}="),
        TokenLocation::Header(name) => format!("in {name}"),
        TokenLocation::Basic => "as user and password".to_owned(),
    };
    format!("with a token {place} ({})", names(token))
}

fn names(token: &TokenCheck) -> String {
    list(
        &token
            .active
            .iter()
            .map(|live| live.name.clone())
            .collect::<Vec<_>>(),
    )
}

fn addresses(addresses: &Addresses) -> String {
    let ranges = addresses.ranges.iter().map(ToString::to_string);
    list(
        &addresses
            .named
            .iter()
            .cloned()
            .chain(ranges)
            .collect::<Vec<_>>(),
    )
}

/// Describes the rules for the whole tunnel.
fn general(policy: &Policy) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(rate) = policy.client_rate {
        lines.push(format!("at most {rate} from one client"));
    }

    if let Some(rate) = policy.rate {
        lines.push(format!("at most {rate} in all"));
    }

    if let Some(Lockout {
        failures,
        within_ms,
        for_ms,
    }) = policy.lockout
    {
        let (within, lasting) = (within_ms / 1000, for_ms / 1000);
        lines.push(format!(
            "a client with {failures} failures within {within} s is locked out for {lasting} s"
        ));
    }

    lines
}

fn list(values: &[String]) -> String {
    let shown = values
        .iter()
        .take(NAMED_PATHS)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");

    match values
        .len()
        .checked_sub(NAMED_PATHS)
        .filter(|more| *more > 0)
    {
        Some(more) => format!("{shown} and {more} more"),
        None => shown,
    }
}

/// Maximum number of values to list; the others are counted.
const NAMED_PATHS: usize = 5;

fn shortened(line: &str) -> String {
    let mut short = printable(&line.chars().take(LINE_CHARACTERS).collect::<String>());
    if line.chars().count() > LINE_CHARACTERS {
        short.push('…');
    }
    short
}

/// Maximum number of characters of a line, because agents send policies, and all lines go to one audit
/// record.
const LINE_CHARACTERS: usize = 300;

fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| time::OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.map_or_else(|| "ever".to_owned(), |time| time.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_in_is_a_line() {
        let mut route = Route::new("r", vec!["/hooks/**".to_owned()]);
        route.methods = vec!["POST".to_owned()];
        let token = TokenCheck::new(
            TokenLocation::Query("token".into()),
            &[("env:T", SecretDigest::of(b"t"))],
        );
        let ips = Addresses::from(vec!["192.0.2.0/24".parse().unwrap()]);
        route.accept = vec![
            Accept {
                token: Some(token),
                allow_ips: Some(ips),
                ..Accept::default()
            },
            Accept {
                open: true,
                ..Accept::default()
            },
        ];

        let policy = Policy::new(vec![route.clone()]);
        let summary = Summary::of(&policy);
        assert_eq!(
            summary.lines,
            [
                "POST on /hooks/**: from 192.0.2.0/24, with a token in ?token= (env:T)",
                "POST on /hooks/**: anyone who knows the URL",
            ]
        );

        route.websocket = true;
        assert_ne!(
            Summary::of(&Policy::new(vec![route])).digest,
            summary.digest
        );
    }
}
