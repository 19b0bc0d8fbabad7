//! Tokens in a webhook's URL or header, and Basic authentication.

use hookward_core::reason::Reason;
use serde::{Deserialize, Serialize};
use std::ops::Range;

use data_encoding::BASE64;
use http::{HeaderMap, HeaderName, header};

use crate::policy::{ActiveToken, TokenCheck, TokenLocation};
use hookward_core::form::decode;
use hookward_core::limits::TOKEN_BYTES;
use hookward_core::text::Escaped;

/// Span of a token, which the agent removes as the last change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenSpan {
    /// Bytes of the target: the parameter, and one adjacent `&` or the `?`.
    Target(Range<usize>),
    /// Header field.
    Header(#[serde(with = "header_name")] HeaderName),
}

/// Serialisation of a header name as text.
mod header_name {
    use http::HeaderName;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(
        name: &HeaderName,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        name.as_str().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<HeaderName, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Checks that the request has exactly one token, and a valid one. Returns its span and its name.
///
/// # Errors
/// Reason for the tunnel's owner.
pub fn check<'c>(
    check: &'c TokenCheck,
    target: &[u8],
    headers: &HeaderMap,
) -> Result<(TokenSpan, &'c str), Reason> {
    let (value, spot) = match &check.location {
        TokenLocation::Query(name) => find_parameter(target, name)?,
        TokenLocation::Header(name) => (
            single(headers, name)?.to_vec(),
            TokenSpan::Header(name.clone()),
        ),
        TokenLocation::Basic => {
            let text = single(headers, &header::AUTHORIZATION)?;
            let (scheme, credentials) = text
                .split_at_checked(6)
                .ok_or("it is not Basic authentication")?;
            if !scheme.eq_ignore_ascii_case(b"basic ") {
                return Err("it is not Basic authentication".to_owned().into());
            }

            let value = BASE64
                .decode(credentials)
                .map_err(|_| "the Basic authentication is not base64")?;

            (value, TokenSpan::Header(header::AUTHORIZATION))
        }
    };
    if value.is_empty() || value.len() > TOKEN_BYTES {
        return Err("the token is empty or too long".to_owned().into());
    }

    match right(check, &value) {
        Some(name) => Ok((spot, name)),
        None => Err(wrong(check, &value).into()),
    }
}

/// Returns the name of the matching token.
fn right<'c>(check: &'c TokenCheck, value: &[u8]) -> Option<&'c str> {
    // All are compared, so that the time does not reveal a near match.
    let matching = |found, live: &'c ActiveToken| {
        if live.digest.matches(value) {
            Some(live.name.as_str())
        } else {
            found
        }
    };
    check.active.iter().fold(None, matching)
}

/// Returns the reason why a token is wrong, for the tunnel's owner. Some senders add a prefix.
fn wrong(check: &TokenCheck, value: &[u8]) -> String {
    let (word, rest) = value.split_at(
        value
            .iter()
            .position(|byte| *byte == b' ')
            .map_or(0, |at| at + 1),
    );
    let word = word.trim_ascii();
    if !word.is_empty() && word.len() <= 16 && word.is_ascii() && right(check, rest).is_some() {
        let word = Escaped(word);
        return format!(
            "the token is right but for \"{word}\" in front of it: configure it with that word"
        );
    }

    "the token is wrong".to_owned()
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h [u8], &'static str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or("the token's header is missing")?;
    if values.next().is_some() {
        return Err("the token's header occurs more than once");
    }
    Ok(value.as_bytes())
}

/// Returns the decoded value of the only parameter of this name. Refuses a second one, one with an
/// escaped name or another case, and a `;`, which some servers read as `&`.
fn find_parameter(target: &[u8], name: &str) -> Result<(Vec<u8>, TokenSpan), &'static str> {
    let question = target
        .iter()
        .position(|byte| *byte == b'?')
        .ok_or("the token is missing")?;
    let query_start = question + 1;
    let query = target.get(query_start..).unwrap_or_default();
    if query.contains(&b';') {
        return Err("the query has a ;, which some servers read as &");
    }

    let mut found = None;
    let mut start = query_start;

    for parameter in query.split(|byte| *byte == b'&') {
        let range = start..start + parameter.len();
        start = range.end + 1;
        let equals = parameter
            .iter()
            .position(|byte| *byte == b'=')
            .unwrap_or(parameter.len());
        let (raw_name, raw_value) = parameter.split_at(equals);
        if raw_name == name.as_bytes() {
            if found.is_some() {
                return Err("the token occurs more than once");
            }
            found = Some((range, raw_value.get(1..).unwrap_or_default()));
        } else if decode(raw_name, false)
            .is_none_or(|decoded| decoded.eq_ignore_ascii_case(name.as_bytes()))
        {
            return Err("another spelling of the token's name stands in the query");
        }
    }

    let (range, raw_value) = found.ok_or("the token is missing")?;
    let value = decode(raw_value, false).ok_or("the token has a broken escape")?;
    Ok((
        value.into_owned(),
        TokenSpan::Target(with_separator(range, query_start, target.len())),
    ))
}

/// Extends the parameter's range by one adjacent separator: the `&` before it, else the `&` after
/// it; and the `?` if nothing else is left.
fn with_separator(parameter: Range<usize>, query_start: usize, target_len: usize) -> Range<usize> {
    let Range { start, end } = parameter;
    match (start > query_start, end < target_len) {
        // "?a&token": removes "&token". "?&token" would leave a lone "?", which is removed, too.
        (true, _) if start == query_start + 1 && end == target_len => query_start - 1..end,
        (true, _) => start - 1..end,
        (false, true) if end + 1 == target_len => query_start - 1..target_len,
        (false, true) => start..end + 1,
        (false, false) => query_start - 1..end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_core::secret::SecretDigest;

    fn run(target: &str) -> Result<String, Reason> {
        let live = [
            ("env:OLD", SecretDigest::of(b"old")),
            ("env:NEW", SecretDigest::of(b"t+/")),
        ];
        let rule = TokenCheck::new(TokenLocation::Query("token".into()), &live);
        let (spot, name) = check(&rule, target.as_bytes(), &HeaderMap::new())?;
        assert_eq!(
            name,
            if target.contains("old") {
                "env:OLD"
            } else {
                "env:NEW"
            }
        );

        let TokenSpan::Target(range) = spot else {
            unreachable!()
        };
        let mut left = target.to_owned();
        left.replace_range(range, "");

        Ok(left)
    }

    #[test]
    fn the_parameter_goes_and_nothing_else_moves() {
        for (target, left) in [
            ("/a?token=old", "/a"),
            ("/a?token=t%2B/", "/a"),
            ("/a?token=old&b", "/a?b"),
            ("/a?b&token=old", "/a?b"),
            ("/a?b&token=old&c=%2e&d", "/a?b&c=%2e&d"),
            ("/a?&token=old", "/a"),
            ("/a?token=old&", "/a"),
            ("/a?&token=old&b", "/a?&b"),
            ("/a?&&token=old", "/a?&"),
            ("/a?tokenx=1&token=old", "/a?tokenx=1"),
        ] {
            assert_eq!(run(target).as_deref(), Ok(left), "{target}");
        }
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for bad in [
            "/a",
            "/a?",
            "/a?token",
            "/a?token=",
            "/a?token=new",
            "/a?token=old&token=old",
            "/a?Token=old",
            "/a?token=old&Token=x",
            "/a?tok%65n=old",
            "/a?token=old&%74oken=old",
            "/a?token=old;b",
            "/a?token=%zz",
            "/a?token=old%00",
            "/a?token=old+",
            "/a?x?token=old",
            "/a/token=old",
        ] {
            assert!(run(bad).is_err(), "{bad}");
        }

        assert!(run(&format!("/a?token={}", "a".repeat(8000))).is_err());
    }

    #[test]
    fn basic_authentication() {
        let rule = TokenCheck::new(
            TokenLocation::Basic,
            &[("env:A", SecretDigest::of(b"user:pass"))],
        );
        let fits = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append("authorization", http::HeaderValue::from_static(value));
            });
            check(&rule, b"/", &headers).is_ok()
        };
        assert!(fits(&["Basic dXNlcjpwYXNz"]) && fits(&["basic dXNlcjpwYXNz"]));

        for bad in [
            "Basic dXNlcjpwYXN6",
            "Basic user:pass",
            "Bearer dXNlcjpwYXNz",
            "Basic",
            "Basic  dXNlcjpwYXNz",
            "",
        ] {
            assert!(!fits(&[bad]), "{bad}");
        }

        assert!(!fits(&["Basic dXNlcjpwYXNz", "Basic dXNlcjpwYXNz"]));
    }
}
