//! HTML form encoding (`application/x-www-form-urlencoded`) in bodies and queries. Rejects
//! malformed escapes: the standard keeps them, and some parsers do not.

use std::borrow::Cow;
use std::ops::Range;

use crate::text;

/// Decodes percent escapes once, and `+` to a space if `plus` is set. Returns `None` for a
/// malformed escape.
#[must_use]
pub fn decode(text: &[u8], plus: bool) -> Option<Cow<'_, [u8]>> {
    if !text
        .iter()
        .any(|byte| *byte == b'%' || plus && *byte == b'+')
    {
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

/// Returns the byte of a pair of hexadecimal digits.
fn escape(bytes: &mut std::slice::Iter<'_, u8>) -> Option<u8> {
    let mut digit = || bytes.next().and_then(|byte| char::from(*byte).to_digit(16));
    let (high, low) = (digit()?, digit()?);
    u8::try_from(high << 4 | low).ok()
}

/// A decoded name with its decoded value.
pub type Pair<'t> = (Cow<'t, [u8]>, Cow<'t, [u8]>);

/// Returns all pairs in order, or `None` for a malformed escape or more than 1000 pairs.
#[must_use]
pub fn pairs(text: &[u8]) -> Option<Vec<Pair<'_>>> {
    each_pair(text).collect()
}

/// Returns the pairs one by one; `None` where one is malformed.
fn each_pair(text: &[u8]) -> impl Iterator<Item = Option<Pair<'_>>> {
    // Empty parts count, too: skipping millions of them also costs time.
    text.split(|byte| *byte == b'&')
        .enumerate()
        .filter(|(at, part)| *at >= MAX_PAIRS || !part.is_empty())
        .map(|(at, part)| {
            if at >= MAX_PAIRS {
                return None;
            }

            let equals = part
                .iter()
                .position(|byte| *byte == b'=')
                .unwrap_or(part.len());
            let (name, value) = part.split_at(equals);

            Some((
                decode(name, true)?,
                decode(value.get(1..).unwrap_or_default(), true)?,
            ))
        })
}

/// Maximum number of pairs of one form. A form is parsed before its signature is verified, and a
/// pair of two bytes needs fifty in memory. Frameworks accept about as many (PHP's
/// `max_input_vars`).
const MAX_PAIRS: usize = 1000;

/// Failure to find exactly one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormError {
    /// A malformed escape, too many pairs, or another kind of body.
    Broken,
    /// The name occurs more than once, or some parsers read another name as this one.
    Repeated,
    /// A name is longer than 256 bytes, begins with a space, or contains a control character, `[` or
    /// `.`. PHP reads such names differently.
    Name,
}

/// Returns `true` if some parser reads the name `given` as `wanted`: ignoring case, or as PHP, which
/// drops leading spaces, ends a name at NUL and `[`, and replaces a space, a `.` and an unclosed
/// `[` by `_`.
#[must_use]
pub(crate) fn is_twin(given: &[u8], wanted: &[u8]) -> bool {
    let plain = |name: &[u8]| {
        name.iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };

    if text::same_name(given, wanted) {
        return true;
    }

    if plain(given) && plain(wanted) {
        return false;
    }

    let folded = |name: &[u8], ends: &[u8]| {
        let name = name.trim_ascii_start();
        let end = name
            .iter()
            .position(|byte| ends.contains(byte))
            .unwrap_or(name.len());

        let under = |byte: &u8| {
            if matches!(byte, b'.' | b' ' | b'[' | b'+') {
                b'_'
            } else {
                *byte
            }
        };

        let name: Vec<u8> = name
            .get(..end)
            .unwrap_or_default()
            .iter()
            .map(under)
            .collect();
        let kept = name
            .iter()
            .rposition(|byte| *byte != b'_')
            .map_or(0, |last| last + 1);

        name.get(..kept).unwrap_or_default().to_vec()
    };

    [&b"\0["[..], b"\0"].iter().any(|ends| {
        let (given, wanted) = (folded(given, ends), folded(wanted, ends));
        !given.is_empty() && text::same_name(&given, &wanted)
    })
}

/// Returns the value of the only pair with this name, or `None` without one.
///
/// # Errors
/// [`FormError`]: the application could read a second pair, even one that only some parsers read as
/// this name.
pub fn single<'t>(text: &'t [u8], name: &str) -> Result<Option<Cow<'t, [u8]>>, FormError> {
    let mut found = None;
    for pair in each_pair(text) {
        let (key, value) = pair.ok_or(FormError::Broken)?;
        if key.as_ref() == name.as_bytes() && found.is_none() {
            found = Some(value);
        } else if is_twin(&key, name.as_bytes()) {
            return Err(FormError::Repeated);
        }
    }

    Ok(found)
}

/// Fields of a form body, with the range of each value. Names are decoded once, values on demand.
#[derive(Debug, Clone)]
pub struct FormFields {
    fields: Vec<(FieldName, Range<usize>)>,
    escaped: bool,
}

#[derive(Debug, Clone)]
enum FieldName {
    /// Range of an unescaped name in the body.
    Plain(Range<usize>),
    Decoded(Box<[u8]>),
}

impl FormFields {
    /// Parses a urlencoded body.
    ///
    /// # Errors
    /// [`FormError::Broken`].
    pub fn urlencoded(body: &[u8]) -> Result<Self, FormError> {
        let mut fields = Vec::new();
        let mut start = 0;

        for (count, pair) in body.split(|byte| *byte == b'&').enumerate() {
            if count >= MAX_PAIRS {
                return Err(FormError::Broken);
            }

            let end = start + pair.len();
            let equals = start
                + pair
                    .iter()
                    .position(|byte| *byte == b'=')
                    .unwrap_or(pair.len());
            let name = start..equals;
            let value = (equals + 1).min(end)..end;

            start = end + 1;
            if pair.is_empty() {
                continue;
            }

            let name = match decode(body.get(name.clone()).unwrap_or_default(), true)
                .ok_or(FormError::Broken)?
            {
                Cow::Borrowed(_) => FieldName::Plain(name),
                Cow::Owned(name) => FieldName::Decoded(name.into()),
            };
            let length = match &name {
                FieldName::Plain(range) => range.len(),
                FieldName::Decoded(name) => name.len(),
            };
            if length > MAX_NAME_BYTES {
                return Err(FormError::Name);
            }

            fields.push((name, value));
        }

        Ok(Self {
            fields,
            escaped: true,
        })
    }

    /// Parses a `multipart/form-data` body (RFC 7578). `content_type` contains the boundary.
    ///
    /// # Errors
    /// [`FormError::Broken`].
    pub fn multipart(content_type: &str, body: &[u8]) -> Result<Self, FormError> {
        let boundary = content_type
            .split(';')
            .filter_map(|parameter| parameter.trim().split_once('='))
            .find(|(key, _)| key.eq_ignore_ascii_case("boundary"))
            .map(|(_, value)| value.trim_matches('"'))
            .filter(|boundary| !boundary.is_empty() && boundary.len() <= 70)
            .ok_or(FormError::Broken)?;
        let delimiter = format!("\r\n--{boundary}");
        let finder = memchr::memmem::Finder::new(delimiter.as_bytes());

        // The first delimiter has no line before it.
        let mut at = delimiter.len() - 2;

        if !body.starts_with(delimiter.get(2..).unwrap_or_default().as_bytes()) {
            return Err(FormError::Broken);
        }

        let mut fields = Vec::new();
        loop {
            let rest = body.get(at..).unwrap_or_default();
            if rest.starts_with(b"--") {
                return Ok(Self {
                    fields,
                    escaped: false,
                });
            }

            let part = rest.strip_prefix(b"\r\n").ok_or(FormError::Broken)?;
            let end = finder.find(part).ok_or(FormError::Broken)?;
            let content = part.get(..end).unwrap_or_default();
            let head_end = memchr::memmem::find(content, b"\r\n\r\n").ok_or(FormError::Broken)?;
            let head = std::str::from_utf8(content.get(..head_end).unwrap_or_default());
            let name = head.ok().and_then(part_name).ok_or(FormError::Broken)?;

            if fields.len() >= MAX_PAIRS {
                return Err(FormError::Broken);
            }

            if name.len() > MAX_NAME_BYTES {
                return Err(FormError::Name);
            }

            let start = at + 2;
            let value = start + head_end + 4..start + end;
            fields.push((FieldName::Decoded(name.as_bytes().into()), value));
            at = start + end + delimiter.len();
        }
    }

    /// Returns the value of the only field with this name, or `None` without one. `body` is the parsed
    /// body.
    ///
    /// # Errors
    /// [`FormError`], also if another name could be read as this one.
    pub fn single<'b>(
        &self,
        body: &'b [u8],
        wanted: &str,
    ) -> Result<Option<Cow<'b, [u8]>>, FormError> {
        // A provider's own name with such a character is unambiguous.
        let strange = |name: &[u8]| !is_strange(wanted.as_bytes()) && is_strange(name);
        let mut found = None;

        for (name, value) in &self.fields {
            let name = match name {
                FieldName::Plain(range) => body.get(range.clone()).unwrap_or_default(),
                FieldName::Decoded(name) => name,
            };
            if name == wanted.as_bytes() && found.is_none() {
                found = Some(value.clone());
            } else if is_twin(name, wanted.as_bytes()) {
                return Err(FormError::Repeated);
            } else if strange(name) {
                return Err(FormError::Name);
            }
        }

        let Some(range) = found else { return Ok(None) };
        let value = body.get(range).unwrap_or_default();

        if self.escaped {
            decode(value, true).map(Some).ok_or(FormError::Broken)
        } else {
            Ok(Some(Cow::Borrowed(value)))
        }
    }
}

/// Maximum length of a field's name, in bytes: each is compared with the wanted names one by one.
const MAX_NAME_BYTES: usize = 256;

/// Returns `true` for names that PHP reads differently.
fn is_strange(name: &[u8]) -> bool {
    name.first().is_some_and(u8::is_ascii_whitespace)
        || name
            .iter()
            .any(|byte| byte.is_ascii_control() || matches!(byte, b'[' | b'.'))
}

/// Returns the name of a part in the only form that all parsers read alike: one
/// Content-Disposition, `form-data`, the quoted name without escapes, and an optional file name.
fn part_name(head: &str) -> Option<&str> {
    let field = |line: &'_ str| {
        line.split_once(':')
            .is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
    };
    let mut lines = head.split("\r\n").filter(|line| field(line));
    let (line, None) = (lines.next()?, lines.next()) else {
        return None;
    };
    let (_, value) = line.split_once(':')?;
    let rest = value.trim_start().strip_prefix("form-data; name=\"")?;
    let (name, rest) = rest.split_once('"')?;
    let file = |rest: &str| {
        rest.strip_prefix("; filename=\"")
            .and_then(|rest| rest.split_once('"'))
            .is_some_and(|(_, end)| end.is_empty())
    };
    (!name.contains('\\') && (rest.is_empty() || file(rest))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_length() {
        let name = "\u{e9}".repeat(MAX_NAME_BYTES);
        let form = format!("payload=1&{name}=2");
        assert_eq!(
            FormFields::urlencoded(form.as_bytes()).err(),
            Some(FormError::Name)
        );

        let part =
            format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n1\r\n--b--\r\n");
        let read = FormFields::multipart("multipart/form-data; boundary=b", part.as_bytes());
        assert_eq!(read.err(), Some(FormError::Name));
    }

    #[test]
    fn one_value_or_none() {
        assert_eq!(
            single(b"a=1&b=%41+c", "b").unwrap().unwrap().as_ref(),
            b"A c"
        );
        assert_eq!(single(b"a=1", "b"), Ok(None));
        assert_eq!(single(b"b=1&b=2", "b"), Err(FormError::Repeated));
        assert_eq!(single(b"b=1&%42=2", "b"), Err(FormError::Repeated));
        assert_eq!(single(b"b=%4", "b"), Err(FormError::Broken));
        assert_eq!(
            single("status=ok&\u{17f}tatus=evil".as_bytes(), "status"),
            Err(FormError::Repeated)
        );
    }

    #[test]
    fn a_form_of_many_pairs_is_not_read() {
        assert_eq!(
            pairs("a&".repeat(MAX_PAIRS - 1).as_bytes()).unwrap().len(),
            MAX_PAIRS - 1
        );

        for text in ["a&", "&"] {
            let many = text.repeat(1_000_000) + "b=1";
            assert_eq!(pairs(many.as_bytes()), None);
            assert_eq!(single(many.as_bytes(), "b"), Err(FormError::Broken));
        }
    }

    #[test]
    fn names_that_php_takes_for_another() {
        let field = |text: &str| {
            FormFields::urlencoded(text.as_bytes()).and_then(|fields| {
                fields
                    .single(text.as_bytes(), "payload")
                    .map(|value| value.map(Cow::into_owned))
            })
        };
        assert_eq!(field("payload=a&other=b").unwrap().unwrap(), b"a");

        for twin in [
            "+payload",
            "%20payload",
            "%09payload",
            "payload%5B%5D",
            "payload[]",
            "payload%00x",
            "payload.",
            "PAYLOAD",
            "payload%5Ba%5D%5Bb%5D",
            "payload+",
            "pa%C4%B1load%00",
            "%00payload",
            "x.y",
            "x[]",
        ] {
            for text in [
                format!("payload=a&{twin}=evil"),
                format!("{twin}=evil&payload=a"),
            ] {
                assert!(field(&text).is_err(), "{text}");
            }
        }

        for (given, wanted) in [
            ("bt.payload", "bt_payload"),
            ("bt payload", "bt_payload"),
            ("bt[payload", "bt_payload"),
        ] {
            assert!(is_twin(given.as_bytes(), wanted.as_bytes()), "{given}");
        }

        for (given, wanted) in [
            ("data.id", "id"),
            ("data", "data_id"),
            ("payload2", "payload"),
            ("[", "payload"),
        ] {
            assert!(!is_twin(given.as_bytes(), wanted.as_bytes()), "{given}");
        }
    }

    #[test]
    fn parts_of_a_multipart_form() {
        let body = b"--X\r\nContent-Disposition: form-data; name=\"json\"\r\n\r\n{\"a\":1}\r\n--X\r\ncontent-disposition: form-data; name=\"b\"\r\n\r\n\r\n--X--\r\n";
        let kind = "multipart/form-data; boundary=X";

        fn multipart_single<'b>(
            kind: &str,
            body: &'b [u8],
            name: &str,
        ) -> Result<Option<Cow<'b, [u8]>>, FormError> {
            FormFields::multipart(kind, body)?.single(body, name)
        }

        let value = |text: &'static [u8]| Ok(Some(Cow::Borrowed(text)));
        assert_eq!(multipart_single(kind, body, "json"), value(b"{\"a\":1}"));
        assert_eq!(multipart_single(kind, body, "b"), value(b""));
        assert_eq!(multipart_single(kind, body, "c"), Ok(None));

        for other in [
            "name=json",
            "Name=\"json\"",
            "name=\"json\"; name=\"json\"",
            "name=\"JSON\"",
        ] {
            let second = format!(
                "\r\n--X\r\nContent-Disposition: form-data; {other}\r\n\r\nforged\r\n--X--\r\n"
            );
            let twice = String::from_utf8_lossy(body).replace("\r\n--X--\r\n", &second);
            assert!(
                multipart_single(kind, twice.as_bytes(), "json").is_err(),
                "{other}"
            );
        }

        assert_eq!(
            multipart_single("multipart/form-data", body, "b"),
            Err(FormError::Broken)
        );
        assert_eq!(
            multipart_single(kind, b"--X\r\n", "b"),
            Err(FormError::Broken)
        );
    }
}
