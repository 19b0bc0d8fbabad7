//! Search for secret values by their names, in bodies that may be cut off or malformed.

use std::borrow::Cow;
use std::ops::Range;

use hookward_core::form;
use memchr::memmem;

use super::{REDACTED, REDACTED_ESCAPED, Redaction, escaped, replaced};

/// A range of a text, and its replacement.
type Found = (Range<usize>, Vec<u8>);

/// Maximum depth of JSON within strings of JSON.
const MAX_DEPTH: usize = 4;

/// Returns the secret values of a body. `kind` is its media type, in lower case.
pub(super) fn body(rules: &Redaction, kind: &str, body: &[u8]) -> Vec<Found> {
    let first = body.trim_ascii_start().first();
    if kind.starts_with("multipart/") {
        parts(rules, body)
    } else if kind.starts_with("application/x-www-form-urlencoded") {
        pairs(rules, body, 0)
    } else if matches!(first, Some(b'{' | b'[' | b'"')) {
        members(rules, body, 0)
    } else {
        // A form or JSON without its media type.
        match pairs(rules, body, 0) {
            found if found.is_empty() => members(rules, body, 0),
            found => found,
        }
    }
}

/// Returns the secret values of a query or form that begins at `start`.
pub(super) fn pairs(rules: &Redaction, text: &[u8], start: usize) -> Vec<Found> {
    let mut at = start;
    let mut found = Vec::new();
    let rest = text.get(start..).unwrap_or_default();
    for pair in rest.split(|byte| matches!(byte, b'&' | b';')) {
        let end = at + pair.len();
        if let Some(equals) = pair.iter().position(|byte| *byte == b'=') {
            let (name, value) = pair.split_at_checked(equals).unwrap_or_default();
            let name = form::decode(name, true).unwrap_or(Cow::Borrowed(name));
            let range = at + equals + 1..end;
            if rules.is_field(name.trim_ascii()) {
                found.push((range, REDACTED_ESCAPED.as_bytes().to_vec()));
            } else if let Some(json) = json_value(rules, value.get(1..).unwrap_or_default()) {
                found.push((range, json));
            }
        }
        at = end + 1;
    }
    found
}

/// Returns a form's value that is JSON, such as Slack's `payload`, without secrets; `None` if it has
/// none.
fn json_value(rules: &Redaction, value: &[u8]) -> Option<Vec<u8>> {
    let decoded = form::decode(value, true)?;
    let is_json = matches!(decoded.trim_ascii_start().first(), Some(b'{' | b'['));
    let found = is_json.then(|| members(rules, &decoded, 0))?;
    (!found.is_empty()).then(|| escaped(&replaced(&decoded, &found)).into_bytes())
}

/// Returns the secret values of a JSON document, which may be cut off.
fn members(rules: &Redaction, json: &[u8], depth: usize) -> Vec<Found> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = find(json, at, |byte| byte == b'"') {
        let end = string_end(json, open);
        let content = json
            .get(open + 1..end.saturating_sub(1))
            .unwrap_or_default();
        at = end;

        let colon = skip_space(json, end);
        if json.get(colon) != Some(&b':') {
            // A value. It may be a JSON document itself.
            if let Some(inner) = inner_json(rules, content, depth) {
                found.push((open..end, inner));
            }
            continue;
        }
        if !rules.is_member(&unescaped(content)) {
            continue;
        }
        let value = skip_space(json, colon + 1);
        at = value_end(json, value);
        if at > value {
            found.push((value..at, format!("\"{REDACTED}\"").into_bytes()));
        }
    }
    found
}

/// Returns a string of JSON whose content is JSON, without secrets; `None` if it has none.
fn inner_json(rules: &Redaction, content: &[u8], depth: usize) -> Option<Vec<u8>> {
    let may_be_json = depth < MAX_DEPTH && memmem::find(content, b"\\\"").is_some();
    let decoded = may_be_json.then(|| unescaped(content))?;
    let is_json = matches!(decoded.trim_ascii_start().first(), Some(b'{' | b'['));
    let found = is_json.then(|| members(rules, &decoded, depth + 1))?;
    if found.is_empty() {
        return None;
    }
    let redacted = replaced(&decoded, &found);
    serde_json::to_vec(&String::from_utf8_lossy(&redacted)).ok()
}

/// Returns the secret values of a multipart body, at its own boundary.
fn parts(rules: &Redaction, body: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let line_end = body.iter().position(|byte| *byte == b'\n');
    let Some(boundary) = line_end.and_then(|end| body.get(..end)) else {
        return found;
    };
    let boundary = boundary.trim_ascii_end();
    let has_crlf = body.get(boundary.len()) == Some(&b'\r');
    let (gap, line): (&[u8], &[u8]) = match has_crlf {
        true => (b"\r\n\r\n", b"\r\n"),
        false => (b"\n\n", b"\n"),
    };
    let delimiter = [line, boundary].concat();

    let mut at = boundary.len();
    while let Some(rest) = body.get(at..) {
        let Some(head) = memmem::find(rest, gap) else {
            break;
        };
        let content = head + gap.len();
        let after = rest.get(content..).unwrap_or_default();
        let length = memmem::find(after, &delimiter).unwrap_or(after.len());
        let name = part_name(rest.get(..head).unwrap_or_default());
        let range = at + content..at + content + length;
        if name.is_some_and(|name| rules.is_field(name)) {
            found.push((range, REDACTED.as_bytes().to_vec()));
        } else {
            let inner = members(rules, after.get(..length).unwrap_or_default(), 0);
            let moved = inner
                .into_iter()
                .map(|(inner, by)| (range.start + inner.start..range.start + inner.end, by));
            found.extend(moved);
        }
        at += content + length + delimiter.len();
    }
    found
}

/// Returns the name of a part, by its header fields.
fn part_name(fields: &[u8]) -> Option<&[u8]> {
    let lower = fields.to_ascii_lowercase();
    let mut starts = memmem::find_iter(&lower, b"name=").filter(|at| {
        // Not the end of `filename=`.
        let before = at.checked_sub(1).and_then(|before| lower.get(before));
        before.is_none_or(|byte| !byte.is_ascii_alphanumeric())
    });
    let rest = fields.get(starts.next()? + b"name=".len()..)?;
    let quoted = rest.strip_prefix(b"\"");
    let value = quoted.unwrap_or(rest);
    let is_end = |byte: &u8| match quoted {
        Some(_) => *byte == b'"',
        None => matches!(byte, b';' | b'\r' | b'\n' | b' '),
    };
    let end = value.iter().position(is_end).unwrap_or(value.len());
    value.get(..end)
}

/// Returns the runs of letters of a token, in order.
pub(super) fn runs(text: &[u8], lengths: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(at..)?;
            let start = at + rest.iter().position(is_token)?;
            let run = text.get(start..)?;
            let length = run
                .iter()
                .position(|byte| !is_token(byte))
                .unwrap_or(run.len());
            at = start + length;
            if lengths.contains(&length) {
                return Some(start..at);
            }
        }
    })
}

fn find(text: &[u8], from: usize, is_wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.iter()
        .position(|byte| is_wanted(*byte))
        .map(|at| from + at)
}

/// Returns the position after the string that begins at `open`.
fn string_end(json: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(next) = find(json, at, |byte| matches!(byte, b'"' | b'\\')) {
        if json.get(next) == Some(&b'"') {
            return next + 1;
        }
        at = next + 2;
    }
    json.len()
}

fn skip_space(json: &[u8], from: usize) -> usize {
    find(json, from, |byte| !byte.is_ascii_whitespace()).unwrap_or(json.len())
}

/// Returns the position after the value that begins at `start`.
fn value_end(json: &[u8], start: usize) -> usize {
    match json.get(start) {
        Some(b'"') => string_end(json, start),
        Some(b'{' | b'[') => {
            let (mut at, mut depth) = (start, 0_usize);
            while let Some(next) = find(json, at, |byte| {
                matches!(byte, b'"' | b'{' | b'[' | b'}' | b']')
            }) {
                at = match json.get(next) {
                    Some(b'"') => string_end(json, next),
                    Some(b'{' | b'[') => {
                        depth += 1;
                        next + 1
                    }
                    _ => {
                        depth = depth.saturating_sub(1);
                        next + 1
                    }
                };
                if depth == 0 {
                    return at;
                }
            }
            json.len()
        }
        _ => find(json, start, |byte| {
            matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace()
        })
        .unwrap_or(json.len()),
    }
}

/// Decodes the escapes of a JSON string, if it is valid.
fn unescaped(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'\\') {
        return Cow::Borrowed(name);
    }
    let quoted = [b"\"", name, b"\""].concat();
    let decoded = serde_json::from_slice::<String>(&quoted);
    decoded.map_or(Cow::Borrowed(name), |name| Cow::Owned(name.into_bytes()))
}
