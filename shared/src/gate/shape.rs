//! Whether a request can be read in one way only. Refused, never normalised: what two parsers could
//! read differently does not reach the application, whatever the policy says.

use http::header::{self, HeaderName};
use http::{HeaderMap, Method};
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

use crate::limits::TARGET_BYTES;
use crate::providers;
use crate::refusal::{Check, Code, Refusal};

/// Fields that stand once (RFC 9110): two different values are two different requests.
const SINGULAR: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::DATE,
    header::FROM,
    header::IF_UNMODIFIED_SINCE,
    header::MAX_FORWARDS,
    header::REFERER,
    header::USER_AGENT,
];

/// The delivery id of Standard Webhooks: singular like those of the catalogue's rows.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");

/// Whether hosts may send this method at all. CONNECT and TRACE never pass.
#[must_use]
pub fn is_known_method(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS
    )
}

/// Checks target and headers. The target is what is forwarded: path and query.
///
/// # Errors
/// The first ambiguity.
pub fn check(target: &[u8], headers: &HeaderMap) -> Result<(), Refusal> {
    if target.len() > TARGET_BYTES {
        return Err(Refusal::new(
            Check::Shape,
            Code::TargetTooLong,
            format!("the target has {} bytes, more than {TARGET_BYTES}", target.len()),
        ));
    }
    check_target(target).map_err(Refusal::malformed)?;
    for (name, _) in headers {
        if is_singular(name) && differ(headers, name) {
            return Err(Refusal::malformed(format!("the header {name} stands twice with different values")));
        }
    }
    Ok(())
}

fn is_singular(name: &HeaderName) -> bool {
    SINGULAR.contains(name) || *name == WEBHOOK_ID || providers::identifies_delivery(name)
}

fn differ(headers: &HeaderMap, name: &HeaderName) -> bool {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    values.any(|value| Some(value) != first)
}

/// The path rule. Bytes 0x21 to 0x7E without `#`; then, of the path: only what RFC 3986 calls
/// `pchar`, and no `;`; escapes that are well formed and decode to text without surprises; no empty
/// segment but one trailing slash; no segment of dots only, none that begins or ends with a space.
fn check_target(target: &[u8]) -> Result<(), &'static str> {
    if target.first() != Some(&b'/') {
        return Err("the target does not begin with a slash");
    }
    if !target.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#') {
        return Err("the target has a byte outside visible ASCII, or a #");
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err("the path has an empty segment");
        }
        check_segment(segment)?;
    }
    Ok(())
}

fn check_segment(segment: &[u8]) -> Result<(), &'static str> {
    // Nearly all segments are letters and digits; they need no second look.
    if segment.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~')) {
        return Ok(());
    }
    let decoded = decode(segment)?;
    let text = std::str::from_utf8(&decoded).map_err(|_| "the path has an escape that is not UTF-8")?;
    if !text.is_empty() && text.bytes().all(|byte| byte == b'.') {
        return Err("the path has a segment of dots");
    }
    if text.starts_with(' ') || text.ends_with(' ') {
        return Err("a segment of the path begins or ends with a space");
    }
    if text.is_ascii() {
        return Ok(());
    }
    if text.chars().any(|c| c.is_control() || c.general_category() == GeneralCategory::Format) {
        return Err("the path has an invisible character");
    }
    // A character that folds to a delimiter is one for some file systems and frameworks.
    let folds = text
        .chars()
        .filter(|c| !c.is_ascii())
        .any(|c| std::iter::once(c).nfkc().any(|folded| "./\\%;?#".contains(folded)));
    if folds {
        return Err("the path has a character that some systems read as a delimiter");
    }
    Ok(())
}

/// Decodes a segment's escapes once, refusing those that would change how the path is read.
fn decode(segment: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = (bytes.next().and_then(hex), bytes.next().and_then(hex));
                let (Some(high), Some(low)) = digits else {
                    return Err("the path has a broken escape");
                };
                let value = high << 4 | low;
                if value < 0x20 || value == 0x7f || b"/\\%;?#.".contains(&value) {
                    return Err("the path has an escaped delimiter, dot or control byte");
                }
                decoded.push(value);
            }
            byte if is_pchar(*byte) => decoded.push(*byte),
            _ => return Err("the path has a byte that must be escaped, or a ;"),
        }
    }
    Ok(decoded)
}

/// `pchar` of RFC 3986 §3.3 without `%`, and without `;`, with which servers in Java begin a
/// parameter.
const fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

/// The value of a hexadecimal digit.
pub(super) fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        for good in [
            "/",
            "/a",
            "/a/",
            "/a/..foo",
            "/a?x=/../b",
            "/a?",
            "/caf%c3%a9",
            "/a%2Cb",
            "/%20a".trim_end_matches("%20a"),
            "/%F0%9F%9A%80",
        ] {
            assert_eq!(check_target(good.as_bytes()), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a",
            "*",
            "//",
            "/a//",
            "/..",
            "/a/./b",
            "/...",
            "/%2e",
            "/%2fa",
            "/a%5cb",
            "/a;b",
            "/a%",
            "/%zz",
            "/%00",
            "/%7f",
            "/%c2%85",
            "/%ff",
            "/%c0%ae",
            "/%e2%80%8b",
            "/%ef%bc%8e",
            "/a%20",
            "/%20a",
            "/a%25",
            "/a\\b",
            "/a#b",
            "/a b",
            "/a\u{e9}",
            "/a[b",
            "/a|b",
            "/a\"b",
            "/%e2%80%a5",
        ] {
            assert!(check_target(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
