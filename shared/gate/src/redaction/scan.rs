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

/// Returns the secret values of a body with this media type.
pub(super) fn body(rules: &Redaction, kind: &str, body: &[u8]) -> Vec<Found> {
    let lower = kind.to_ascii_lowercase();
    let first = body.trim_ascii_start().first();
    if lower.starts_with("multipart/") {
        parts(rules, boundary(kind, &lower), body)
    } else if lower.starts_with("application/x-www-form-urlencoded") {
        pairs(rules, body, 0, &FORM)
    } else if matches!(first, Some(b'{' | b'[' | b'"')) {
        members(rules, body, 0)
    } else {
        // A form or JSON without its media type, or a text that has both.
        text(rules, body)
    }
}

/// Returns the secret values of a text that may be a form, or have JSON.
fn text(rules: &Redaction, text: &[u8]) -> Vec<Found> {
    let mut all = pairs(rules, text, 0, &FORM);
    all.extend(members(rules, text, 0));
    all
}

/// Separators of pairs.
pub(super) struct PairSyntax {
    /// Bytes after which a name begins.
    starts: &'static [u8],
    /// Bytes at which the value of a secret ends.
    ends: &'static [u8],
}

/// Pairs of a form.
pub(super) const FORM: PairSyntax = PairSyntax {
    starts: b"&;",
    ends: b"&;",
};

/// Pairs of a URL: its fragment may have parameters, too, and a query may contain question marks (RFC
/// 3986 §3.4).
pub(super) const URL: PairSyntax = PairSyntax {
    starts: b"&;?#",
    ends: b"&;#",
};

/// Returns the secret values of a query or form that begins at `start`.
pub(super) fn pairs(
    rules: &Redaction,
    text: &[u8],
    start: usize,
    syntax: &PairSyntax,
) -> Vec<Found> {
    let end_of = |from: usize, separators: &[u8]| {
        find(text, from, |byte| separators.contains(&byte)).unwrap_or(text.len())
    };
    let mut at = start;
    // A value that may be JSON is read once: names after a question mark are within it.
    let mut is_parameter = true;
    let mut found = Vec::new();
    while at < text.len() {
        let end = end_of(at, syntax.starts);
        let pair = text.get(at..end).unwrap_or_default();
        let mut next = end + 1;
        if let Some(equals) = pair.iter().position(|byte| *byte == b'=') {
            let value = at + equals + 1;
            let name = pair.get(..equals).unwrap_or_default();
            let name = form::decode(name, true).unwrap_or(Cow::Borrowed(name));
            let is_secret = rules.is_field(name.trim_ascii());
            if is_secret || is_parameter {
                let whole = value..end_of(value, syntax.ends);
                let replacement = match is_secret {
                    true => Some(REDACTED_ESCAPED.as_bytes().to_vec()),
                    false => json_value(rules, text.get(whole.clone()).unwrap_or_default()),
                };
                if let Some(replacement) = replacement {
                    next = whole.end + 1;
                    found.push((whole, replacement));
                }
            }
        }
        let separator = text.get(next - 1);
        is_parameter = separator.is_some_and(|byte| syntax.ends.contains(byte));
        at = next;
    }
    found
}

/// Returns the user and password of a URL without a query.
pub(super) fn user_info(url: &[u8]) -> Option<Found> {
    let start = memmem::find(url, b"://")? + b"://".len();
    let rest = url.get(start..)?;
    let is_end = |byte: &u8| matches!(byte, b'/' | b'&' | b' ' | b'>' | b',');
    let end = rest.iter().position(is_end).unwrap_or(rest.len());
    let authority = rest.get(..end)?;
    let at = authority.iter().rposition(|byte| *byte == b'@')?;
    Some((start..start + at, REDACTED_ESCAPED.as_bytes().to_vec()))
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

/// Returns the parameter `boundary` of a media type (RFC 2046 §5.1.1), also given in lower case.
fn boundary<'k>(kind: &'k str, lower: &str) -> Option<&'k [u8]> {
    let value = kind.get(lower.find("boundary=")? + "boundary=".len()..)?;
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => value.split([';', ' ']).next(),
    };
    value.filter(|value| !value.is_empty()).map(str::as_bytes)
}

/// Returns the secret values of a multipart body, at this boundary or at that of its first line.
fn parts(rules: &Redaction, boundary: Option<&[u8]>, body: &[u8]) -> Vec<Found> {
    let named = boundary.map(|boundary| [b"--", boundary].concat());
    let named = named.filter(|named| delimiter_at(body, named, 0).is_some());
    let first_line = body.split(|byte| *byte == b'\n').next();
    let first_line = first_line.unwrap_or_default().trim_ascii_end();
    let is_delimiter = first_line.len() > 2 && first_line.starts_with(b"--");
    let own = is_delimiter.then(|| first_line.to_vec());
    let Some(delimiter) = named.or(own) else {
        return text(rules, body);
    };

    // A preamble may come before the first part.
    let start = delimiter_at(body, &delimiter, 0).unwrap_or(body.len());
    let mut found = text(rules, body.get(..start).unwrap_or_default());
    let mut at = start + delimiter.len();
    while at < body.len() {
        let end = delimiter_at(body, &delimiter, at).unwrap_or(body.len());
        let part = body.get(at..end).unwrap_or_default();
        found.extend(of_part(rules, part, at));
        at = end + delimiter.len();
    }
    found
}

/// Returns the next delimiter from a position on, which begins a line (RFC 2046 §5.1.1).
fn delimiter_at(body: &[u8], delimiter: &[u8], from: usize) -> Option<usize> {
    let rest = body.get(from..)?;
    let mut places = memmem::find_iter(rest, delimiter).map(|at| from + at);
    places.find(|at| {
        at.checked_sub(1)
            .is_none_or(|before| body.get(before) == Some(&b'\n'))
    })
}

/// Returns the secret values of a part that begins at a position of the body.
fn of_part(rules: &Redaction, part: &[u8], at: usize) -> Vec<Found> {
    let Some(start) = content_start(part) else {
        return Vec::new();
    };
    let head = part.get(..start).unwrap_or_default();
    let content = without_line_end(part.get(start..).unwrap_or_default());
    let begins = at + start;
    if part_names(head).any(|name| rules.is_field(&name)) {
        let range = begins..begins + content.len();
        return vec![(range, REDACTED.as_bytes().to_vec())];
    }
    let found = match content.trim_ascii_start().first() {
        Some(b'{' | b'[' | b'"') => members(rules, content, 0),
        _ => text(rules, content),
    };
    let moved = found
        .into_iter()
        .map(|(inner, by)| (begins + inner.start..begins + inner.end, by));
    moved.collect()
}

/// Returns the position after the empty line of a part.
fn content_start(part: &[u8]) -> Option<usize> {
    let with_crlf = memmem::find(part, b"\r\n\r\n").map(|at| at + 4);
    let with_lf = memmem::find(part, b"\n\n").map(|at| at + 2);
    match (with_crlf, with_lf) {
        (Some(crlf), Some(lf)) => Some(crlf.min(lf)),
        (crlf, lf) => crlf.or(lf),
    }
}

/// Removes the line end that belongs to the next delimiter.
fn without_line_end(content: &[u8]) -> &[u8] {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.strip_suffix(b"\r").unwrap_or(content)
}

/// Returns the values of all parameters `name` of a part's header fields.
fn part_names(head: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let lines = head.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.flat_map(parameters).filter_map(|parameter| {
        let equals = parameter.iter().position(|byte| *byte == b'=')?;
        let (name, value) = parameter.split_at_checked(equals)?;
        let is_name = name.trim_ascii().eq_ignore_ascii_case(b"name");
        is_name.then(|| unquoted(value.get(1..).unwrap_or_default().trim_ascii()))
    })
}

/// Splits a header field at semicolons outside of quoted strings (RFC 9110 §5.6.4).
fn parameters(line: &[u8]) -> Vec<&[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let split = line.split(|byte| {
        let was_escaped = std::mem::take(&mut is_escaped);
        match byte {
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            b'"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        !is_quoted && *byte == b';'
    });
    split.collect()
}

fn unquoted(value: &[u8]) -> Vec<u8> {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let value = value.strip_suffix(b"\"").unwrap_or(value);
    value
        .iter()
        .copied()
        .filter(|byte| *byte != b'\\')
        .collect()
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
