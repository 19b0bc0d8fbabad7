//! The token in a webhook's URL, or in a header.

use std::ops::Range;

use http::HeaderMap;

use crate::gate::shape::hex;
use crate::limits::TOKEN_BYTES;
use crate::policy::{TokenCheck, TokenPlace};

/// Where a token was found, so that the agent can take it out as the last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSpot {
    /// These bytes of the target: the parameter, and one adjoining `&` or the `?`.
    Target(Range<usize>),
    /// This header.
    Header(http::HeaderName),
}

/// Whether the request carries exactly one token, and the right one.
///
/// # Errors
/// Why not, for the tunnel's owner.
pub fn check(check: &TokenCheck, target: &[u8], headers: &HeaderMap) -> Result<TokenSpot, &'static str> {
    let (value, spot) = match &check.place {
        TokenPlace::Query(name) => find_parameter(target, name)?,
        TokenPlace::Header(name) => {
            let mut values = headers.get_all(name).iter();
            let value = values.next().ok_or("the token's header is missing")?;
            if values.next().is_some() {
                return Err("the token's header stands more than once");
            }
            (value.as_bytes().to_vec(), TokenSpot::Header(name.clone()))
        }
    };
    if value.is_empty() || value.len() > TOKEN_BYTES {
        return Err("the token is empty or too long");
    }
    // All are compared, so that the time taken does not tell which one came close.
    let mut right = false;
    for digest in &check.digests {
        right |= digest.matches(&value);
    }
    if right { Ok(spot) } else { Err("the token is wrong") }
}

/// The decoded value of the one parameter of that name. A second one, one whose name is spelled
/// otherwise (escaped, or in another case), and a `;`, which some servers read as `&`, are refused.
fn find_parameter(target: &[u8], name: &str) -> Result<(Vec<u8>, TokenSpot), &'static str> {
    let question = target.iter().position(|byte| *byte == b'?').ok_or("the token is missing")?;
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
        let equals = parameter.iter().position(|byte| *byte == b'=').unwrap_or(parameter.len());
        let (raw_name, raw_value) = parameter.split_at(equals);
        if raw_name == name.as_bytes() {
            if found.is_some() {
                return Err("the token stands more than once");
            }
            found = Some((range, raw_value.get(1..).unwrap_or_default()));
        } else if decode(raw_name).is_none_or(|decoded| decoded.eq_ignore_ascii_case(name.as_bytes())) {
            return Err("another spelling of the token's name stands in the query");
        }
    }
    let (range, raw_value) = found.ok_or("the token is missing")?;
    let value = decode(raw_value).ok_or("the token has a broken escape")?;
    Ok((value, TokenSpot::Target(with_separator(range, query_start, target.len()))))
}

/// The parameter's range, grown by one adjoining separator: the `&` before it, else the `&` behind
/// it; and the `?` when nothing else is left.
fn with_separator(parameter: Range<usize>, query_start: usize, target_len: usize) -> Range<usize> {
    let Range { start, end } = parameter;
    match (start > query_start, end < target_len) {
        // "?a&token": takes "&token". "?&token" would leave a lone "?", which goes too.
        (true, _) if start == query_start + 1 && end == target_len => query_start - 1..end,
        (true, _) => start - 1..end,
        (false, true) if end + 1 == target_len => query_start - 1..target_len,
        (false, true) => start..end + 1,
        (false, false) => query_start - 1..end,
    }
}

/// Decodes percent escapes once. `None` for a broken escape.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => bytes.next().and_then(hex)? << 4 | bytes.next().and_then(hex)?,
            byte => *byte,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretDigest;

    fn run(target: &str) -> Result<String, &'static str> {
        let rule = TokenCheck {
            place: TokenPlace::Query("token".into()),
            digests: vec![SecretDigest::of(b"old"), SecretDigest::of(b"t+/")],
        };
        let spot = check(&rule, target.as_bytes(), &HeaderMap::new())?;
        let TokenSpot::Target(range) = spot else { unreachable!() };
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
}
