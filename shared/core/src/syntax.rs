//! Syntax rules of request targets and methods. The relay refuses what two parsers could read
//! differently; it never normalises it, regardless of the policy.

use http::Method;
use unicode_normalization::UnicodeNormalization;

use crate::text::is_invisible;

/// Treatment of escaped slashes in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Refuses escaped slashes, because most servers decode them before they find the resource.
    Refused,
    /// Allows escaped slashes in a segment. Each part must then follow the rules of segments.
    Allowed,
}

/// Returns `true` for methods that a policy may allow. CONNECT and TRACE never pass.
#[must_use]
pub fn is_known_method(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET
            | Method::HEAD
            | Method::POST
            | Method::PUT
            | Method::PATCH
            | Method::DELETE
            | Method::OPTIONS
    )
}

/// Checks a request target. It consists of bytes 0x21 to 0x7E without `#`. The path contains only
/// RFC 3986's `pchar` without `;`, and valid escapes that decode to harmless text. It has no empty
/// segment except one trailing slash, and no segment of only dots, or with a space at an end.
pub fn check_target(target: &[u8], slashes: EscapedSlashes) -> Result<(), &'static str> {
    if target.first() != Some(&b'/') {
        return Err("the target does not begin with a slash");
    }

    if !target
        .iter()
        .all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#')
    {
        return Err("the target has a byte outside visible ASCII, or a #");
    }

    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err("the path has an empty segment");
        }
        check_segment(segment, slashes)?;
    }

    Ok(())
}

fn check_segment(segment: &[u8], slashes: EscapedSlashes) -> Result<(), &'static str> {
    // Nearly all segments consist of letters and digits, and need no further checks.
    if segment
        .iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~'))
    {
        return Ok(());
    }

    let decoded = decode(segment, slashes)?;
    let text =
        std::str::from_utf8(&decoded).map_err(|_| "the path has an escape that is not UTF-8")?;
    // With escaped slashes, a decoder sees further segments.
    let split = text.contains('/');

    for part in text.split('/') {
        if split && part.is_empty() {
            return Err("the path has an empty segment at an escaped slash");
        }

        if !part.is_empty() && part.bytes().all(|byte| byte == b'.') {
            return Err("the path has a segment of dots");
        }

        if part.starts_with(' ') || part.ends_with(' ') {
            return Err("a segment of the path begins or ends with a space");
        }
    }

    if text.is_ascii() {
        return Ok(());
    }

    // Some file systems treat characters that fold to a space or a dot like it, at a segment's
    // ends.
    let at_ends = |c: char| c == ' ' || c.is_whitespace();

    if text
        .split('/')
        .any(|part| part.starts_with(at_ends) || part.ends_with(at_ends))
    {
        return Err("a segment of the path begins or ends with a space");
    }

    if text.chars().any(is_invisible) {
        return Err("the path has an invisible character");
    }

    // Some file systems and frameworks treat characters that fold to a delimiter like it.
    let is_delimiter = |c: char| "./\\%;?#".contains(c) || LOOKALIKES.contains(&c);
    let mut foreign = text.chars().filter(|c| !c.is_ascii());
    if foreign.any(|c| is_delimiter(c) || std::iter::once(c).nfkc().any(is_delimiter)) {
        return Err("the path has a character that some systems read as a delimiter");
    }

    Ok(())
}

/// Returns `true` for a path or a segment with an escaped slash.
pub fn has_escaped_slash(path: &[u8]) -> bool {
    path.windows(ESCAPED_SLASH.len())
        .any(|three| three.eq_ignore_ascii_case(ESCAPED_SLASH))
}

/// Returns the path as a server reads it that decodes slashes first.
pub fn with_plain_slashes(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, behind)) = rest.split_first() {
        match rest.split_at_checked(ESCAPED_SLASH.len()) {
            Some((three, behind)) if three.eq_ignore_ascii_case(ESCAPED_SLASH) => {
                decoded.push(b'/');
                rest = behind;
            }
            _ => {
                decoded.push(*byte);
                rest = behind;
            }
        }
    }

    decoded
}

/// An escaped slash (RFC 3986 §2.1).
const ESCAPED_SLASH: &[u8; 3] = b"%2f";

/// Decodes a segment's escapes once, and rejects those that would change how the path is read.
fn decode(segment: &[u8], slashes: EscapedSlashes) -> Result<Vec<u8>, &'static str> {
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
                let slash = value == b'/' && slashes == EscapedSlashes::Allowed;
                if value == b'/' && !slash {
                    return Err(
                        "the path has an escaped slash (%2F), which --encoded-slashes lets stand below a final /**",
                    );
                }

                if !slash && (value < 0x20 || value == 0x7f || b"/\\%;?#.".contains(&value)) {
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

/// Returns `true` for `pchar` (RFC 3986 §3.3) without `%`, and without `;`, which begins a parameter
/// in Java servers.
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

/// Returns the value of a hexadecimal digit.
pub(crate) fn hex(digit: &u8) -> Option<u8> {
    char::from(*digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Characters that some readers treat as delimiters, in addition to those that Unicode's
/// compatibility form (NFKC) maps to one. Windows code pages map them to `/ \\ . % ?` if a
/// character is missing ("best fit", Microsoft's `bestfit*.txt`; the yen and won signs are the
/// backslash of code pages 932 and 949). IDNA splits host names at the two full stops.
const LOOKALIKES: [char; 15] = [
    '\u{a5}', '\u{37e}', '\u{66a}', '\u{20a9}', '\u{2044}', '\u{2215}', '\u{2216}', '\u{2571}',
    '\u{2572}', '\u{29f5}', '\u{29f8}', '\u{29f9}', '\u{3002}', '\u{ff61}', '\u{203d}',
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check_target(target: &[u8]) -> Result<(), &'static str> {
        super::check_target(target, EscapedSlashes::Refused)
    }

    #[test]
    fn characters_that_some_reader_takes_for_a_delimiter() {
        for c in [
            '\u{2044}',
            '\u{2215}',
            '\u{2216}',
            '\u{29f5}',
            '\u{29f8}',
            '\u{29f9}',
            '\u{3002}',
            '\u{ff61}',
            '\u{2028}',
            '\u{2029}',
            '\u{34f}',
            '\u{115f}',
            '\u{1160}',
            '\u{3164}',
            '\u{ffa0}',
            '\u{fe0f}',
            '\u{ff0f}',
            '\u{ff3c}',
            '\u{fe68}',
            '\u{a5}',
            '\u{20a9}',
            '\u{66a}',
            '\u{bd}',
            '\u{2105}',
            '\u{2100}',
            '\u{180e}',
            '\u{e0001}',
        ] {
            let mut utf8 = [0; 4];
            let escaped: String = c
                .encode_utf8(&mut utf8)
                .bytes()
                .map(|byte| format!("%{byte:02x}"))
                .collect();
            assert!(
                check_target(format!("/a/..{escaped}admin").as_bytes()).is_err(),
                "{:x}",
                u32::from(c)
            );
        }

        for letters in [
            "caf%C3%A9",
            "%C4%8D",
            "%e4%b8%ad%e6%96%87",
            "%D0%BF%D1%83%D1%82%D1%8C",
            "%E0%B9%84%E0%B8%97",
        ] {
            assert_eq!(
                check_target(format!("/a/{letters}").as_bytes()),
                Ok(()),
                "{letters}"
            );
        }
    }

    #[test]
    fn parts_at_escaped_slashes_are_segments() {
        let check = |target: &str| super::check_target(target.as_bytes(), EscapedSlashes::Allowed);
        for good in ["/job/release%2F1/build", "/job/a%2fb%2Fc", "/a/b"] {
            assert_eq!(check(good), Ok(()), "{good}");
            assert_eq!(
                check_target(good.as_bytes()).is_ok(),
                !good.contains('%'),
                "{good}"
            );
        }

        for bad in [
            "/a%2F..%2Fb",
            "/..%2Fa",
            "/a%2F",
            "/%2Fa",
            "/a%2F%2Fb",
            "/a%2F%20b",
            "/a%252Fb",
            "/a%5Cb",
            "/a%2F%2e%2e",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

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
