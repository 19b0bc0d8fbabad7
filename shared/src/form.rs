//! Names and values as HTML forms write them (`application/x-www-form-urlencoded`), in bodies and in
//! queries. A broken escape is refused: the standard leaves it as it is, and some parsers do not.

use std::borrow::Cow;

use crate::text;

/// The byte of a hexadecimal digit pair.
fn escape(bytes: &mut std::slice::Iter<'_, u8>) -> Option<u8> {
    let mut digit = || bytes.next().and_then(|byte| char::from(*byte).to_digit(16));
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high << 4 | low).ok()
}

/// Decodes percent escapes once, and `+` to a space if `plus` says so. `None` for a broken escape.
#[must_use]
pub fn decode(text: &[u8], plus: bool) -> Option<Cow<'_, [u8]>> {
    if !text.iter().any(|byte| *byte == b'%' || plus && *byte == b'+') {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => escape(&mut bytes)?,
            b'+' if plus => b' ',
            byte => *byte,
        });
    }
    Some(Cow::Owned(decoded))
}

/// One name with its value, decoded.
pub type Pair<'t> = (Cow<'t, [u8]>, Cow<'t, [u8]>);

/// Most pairs of one form: what a stranger sends is read before its signature is known to be right, and a
/// pair of two bytes takes fifty in memory. Frameworks take about as many (PHP's `max_input_vars`).
const MOST_PAIRS: usize = 1000;

/// All names and values in order. `None` for a broken escape, and for more than 1000 pairs.
#[must_use]
pub fn pairs(text: &[u8]) -> Option<Vec<Pair<'_>>> {
    each_pair(text).collect()
}

/// The pairs, one by one; `None` where they can't be read.
fn each_pair(text: &[u8]) -> impl Iterator<Item = Option<Pair<'_>>> {
    // Empty parts count, too: to skip millions of them is work as well.
    text.split(|byte| *byte == b'&').enumerate().filter(|(at, part)| *at >= MOST_PAIRS || !part.is_empty()).map(
        |(at, part)| {
            if at >= MOST_PAIRS {
                return None;
            }
            let equals = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
            let (name, value) = part.split_at(equals);
            Some((decode(name, true)?, decode(value.get(1..).unwrap_or_default(), true)?))
        },
    )
}

/// Why there is not one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormFault {
    /// A broken escape, or too many pairs.
    Broken,
    /// The name stands more than once, or in another case too.
    Repeated,
}

/// The value of the one pair with this name; `Ok(None)` without one.
///
/// # Errors
/// [`FormFault`]: a second one, also in another case, could be the one that the application reads.
pub fn single<'t>(text: &'t [u8], name: &str) -> Result<Option<Cow<'t, [u8]>>, FormFault> {
    let mut found = None;
    for pair in each_pair(text) {
        let (key, value) = pair.ok_or(FormFault::Broken)?;
        if key.as_ref() == name.as_bytes() && found.is_none() {
            found = Some(value);
        } else if text::same_name(&key, name.as_bytes()) {
            return Err(FormFault::Repeated);
        }
    }
    Ok(found)
}

/// The value of a part of `multipart/form-data` (RFC 7578) with this name, as it stands; `Ok(None)`
/// without one. `content_type` holds the boundary.
///
/// # Errors
/// [`FormFault`] when the body is no such form, or the name stands twice.
pub fn multipart_single<'t>(content_type: &str, body: &'t [u8], name: &str) -> Result<Option<&'t [u8]>, FormFault> {
    let boundary = content_type
        .split(';')
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find(|(key, _)| key.eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|boundary| !boundary.is_empty() && boundary.len() <= 70)
        .ok_or(FormFault::Broken)?;
    let delimiter = format!("--{boundary}");
    let mut found = None;
    let mut rest = body.strip_prefix(delimiter.as_bytes()).ok_or(FormFault::Broken)?;
    let between = format!("\r\n{delimiter}");
    while !rest.starts_with(b"--") {
        let part = rest.strip_prefix(b"\r\n").ok_or(FormFault::Broken)?;
        let end = memchr::memmem::find(part, between.as_bytes()).ok_or(FormFault::Broken)?;
        let (content, after) = part.split_at(end);
        let head_end = memchr::memmem::find(content, b"\r\n\r\n").ok_or(FormFault::Broken)?;
        let (head, value) = content.split_at(head_end);
        let head = std::str::from_utf8(head).map_err(|_| FormFault::Broken)?;
        match part_name(head).ok_or(FormFault::Broken)? {
            part if part == name && found.is_none() => found = value.get(4..),
            part if text::same_name(part.as_bytes(), name.as_bytes()) => return Err(FormFault::Repeated),
            _ => {}
        }
        rest = after.get(between.len()..).unwrap_or_default();
    }
    Ok(found)
}

/// The name of a part, in the one spelling that every reader takes for the same: one Content-Disposition,
/// `form-data`, the name in quotes and without an escape, and perhaps a file's name.
fn part_name(head: &str) -> Option<&str> {
    let field = |line: &'_ str| {
        line.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
    };
    let mut lines = head.split("\r\n").filter(|line| field(line));
    let (line, None) = (lines.next()?, lines.next()) else { return None };
    let (_, value) = line.split_once(':')?;
    let rest = value.trim_start().strip_prefix("form-data; name=\"")?;
    let (name, rest) = rest.split_once('"')?;
    let file = |rest: &str| {
        rest.strip_prefix("; filename=\"").and_then(|rest| rest.split_once('"')).is_some_and(|(_, end)| end.is_empty())
    };
    (!name.contains('\\') && (rest.is_empty() || file(rest))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_or_none() {
        assert_eq!(single(b"a=1&b=%41+c", "b").unwrap().unwrap().as_ref(), b"A c");
        assert_eq!(single(b"a=1", "b"), Ok(None));
        assert_eq!(single(b"b=1&b=2", "b"), Err(FormFault::Repeated));
        assert_eq!(single(b"b=1&%42=2", "b"), Err(FormFault::Repeated));
        assert_eq!(single(b"b=%4", "b"), Err(FormFault::Broken));
        assert_eq!(single("status=ok&\u{17f}tatus=evil".as_bytes(), "status"), Err(FormFault::Repeated));
    }

    #[test]
    fn a_form_of_many_pairs_is_not_read() {
        assert_eq!(pairs("a&".repeat(MOST_PAIRS - 1).as_bytes()).unwrap().len(), MOST_PAIRS - 1);
        for text in ["a&", "&"] {
            let many = text.repeat(1_000_000) + "b=1";
            assert_eq!(pairs(many.as_bytes()), None);
            assert_eq!(single(many.as_bytes(), "b"), Err(FormFault::Broken));
        }
    }

    #[test]
    fn parts_of_a_multipart_form() {
        let body = b"--X\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n{\"a\":1}\r\n--X\r\ncontent-disposition: form-data; name=\"b\"\r\n\r\n\r\n--X--\r\n";
        let kind = "multipart/form-data; boundary=X";
        assert_eq!(multipart_single(kind, body, "json"), Ok(Some(&b"{\"a\":1}"[..])));
        assert_eq!(multipart_single(kind, body, "b"), Ok(Some(&b""[..])));
        assert_eq!(multipart_single(kind, body, "c"), Ok(None));
        for other in ["name=json", "Name=\"json\"", "name=\"json\"; name=\"json\"", "name=\"JSON\""] {
            let second = format!("\r\n--X\r\nContent-Disposition: form-data; {other}\r\n\r\nforged\r\n--X--\r\n");
            let twice = String::from_utf8_lossy(body).replace("\r\n--X--\r\n", &second);
            assert!(multipart_single(kind, twice.as_bytes(), "json").is_err(), "{other}");
        }
        assert_eq!(multipart_single("multipart/form-data", body, "b"), Err(FormFault::Broken));
        assert_eq!(multipart_single(kind, b"--X\r\n", "b"), Err(FormFault::Broken));
    }
}
