//! Untrusted text, escaped for a terminal or a log line.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Returns `true` if two names are equal for a reader that ignores case.
///
/// Four letters beyond ASCII fold to ASCII ones in Unicode: `ſ` to `s`, the Kelvin sign to `k`, and
/// `ı` and `İ` to `i`. Go's `encoding/json` follows the first two, Java's `equalsIgnoreCase` and
/// `CASE_INSENSITIVE_ORDER` all four. Invalid UTF-8 equals other invalid UTF-8. Allocates nothing.
#[must_use]
pub(crate) fn same_name(one: &[u8], other: &[u8]) -> bool {
    if one.is_ascii() && other.is_ascii() {
        return one.eq_ignore_ascii_case(other);
    }
    folded(one).eq(folded(other))
}

/// Hash of a name that [`same_name`] names share (FNV-1a over the folded characters).
#[must_use]
pub(crate) fn name_hash(name: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    let step = |hash: u64, value: u32| (hash ^ u64::from(value)).wrapping_mul(PRIME);
    if name.is_ascii() {
        return name.iter().fold(OFFSET, |hash, byte| {
            step(hash, u32::from(byte.to_ascii_lowercase()))
        });
    }

    folded(name).fold(OFFSET, |hash, c| step(hash, u32::from(c)))
}

/// Returns the characters of a name in lower case.
fn folded(name: &[u8]) -> impl Iterator<Item = char> {
    name.utf8_chunks().flat_map(|chunk| {
        let invalid = if chunk.invalid().is_empty() {
            None
        } else {
            Some(char::REPLACEMENT_CHARACTER)
        };
        chunk.valid().chars().map(fold).chain(invalid)
    })
}

fn fold(c: char) -> char {
    match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        '\u{130}' | '\u{131}' => 'i',
        c if c.is_ascii() => c.to_ascii_lowercase(),
        // A letter whose lower case has several characters stays itself: no other letter maps to
        // them.
        c => {
            let mut lower = c.to_lowercase();
            match (lower.next(), lower.next()) {
                (Some(only), None) => only,
                _ => c,
            }
        }
    }
}

/// Displays untrusted bytes: printable ASCII unchanged, everything else escaped, long text
/// truncated. It cannot control a terminal or forge a log line.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl<'a> Escaped<'a> {
    /// Returns the text as it is displayed. Most text needs no copy.
    #[must_use]
    pub fn text(self) -> Cow<'a, str> {
        self.plain()
            .map_or_else(|| Cow::Owned(self.to_string()), Cow::Borrowed)
    }

    /// Returns the text if it is displayed unchanged.
    fn plain(self) -> Option<&'a str> {
        let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && *byte != b'\\';
        let is_short = self.0.len() <= SHOWN_CHARS;
        (is_short && self.0.iter().all(is_plain))
            .then(|| std::str::from_utf8(self.0).ok())
            .flatten()
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.plain() {
            return f.write_str(text);
        }

        for byte in self.0.iter().take(SHOWN_CHARS) {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => f.write_char(char::from(*byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }

        if self.0.len() > SHOWN_CHARS {
            f.write_str("…")?;
        }

        Ok(())
    }
}

/// Maximum number of characters of untrusted text to show.
const SHOWN_CHARS: usize = 200;

/// Replaces control, format, separator and invisible characters by U+FFFD, because they could
/// control a terminal or hide text.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if is_invisible(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Returns `true` for invisible characters, and those that change how others are shown: controls, the
/// categories Cf, Zl and Zp, and Unicode's default-ignorable ones (DerivedCoreProperties.txt,
/// `Default_Ignorable_Code_Point`).
#[must_use]
pub fn is_invisible(c: char) -> bool {
    use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

    if c.is_ascii() {
        return c.is_control();
    }

    let hidden = matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    );

    hidden
        || matches!(c,
            '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2065}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}')
}

/// Returns the path of a request target for logs and screens: without the query, escaped.
#[must_use]
pub fn shown_path(target: &[u8]) -> Cow<'_, str> {
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    Escaped(path).text()
}

/// Returns the candidate that a mistyped name probably means.
#[must_use]
pub fn closest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let similar = candidates.into_iter().map(|known| {
        let similarity = strsim::jaro_winkler(known, name);
        (similarity, known)
    });
    let best = similar.max_by(|(one, _), (other, _)| one.total_cmp(other));
    best.filter(|(similarity, _)| *similarity >= SIMILAR)
        .map(|(_, known)| known)
}

/// Minimum similarity of a name to one that is suggested: one or two letters differ.
const SIMILAR: f64 = 0.85;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_fold_to_one() {
        for (one, other) in [
            ("id", "ID"),
            ("id", "\u{131}d"),
            ("id", "\u{130}d"),
            ("status", "\u{17f}tatus"),
            ("key", "\u{212a}ey"),
            ("\u{c9}", "\u{e9}"),
        ] {
            assert!(same_name(one.as_bytes(), other.as_bytes()), "{one} {other}");
            assert_eq!(
                name_hash(one.as_bytes()),
                name_hash(other.as_bytes()),
                "{one} {other}"
            );
        }

        for (one, other) in [("id", "ids"), ("id", "\u{e9}d"), ("a", "\u{e4}")] {
            assert!(
                !same_name(one.as_bytes(), other.as_bytes()),
                "{one} {other}"
            );
        }

        assert!(same_name(b"a\xff", b"A\xfe") && !same_name(b"a\xff", b"a"));
    }

    #[test]
    fn what_hides_in_a_terminal_is_replaced() {
        for c in [
            '\u{1b}', '\u{202e}', '\u{200b}', '\u{2028}', '\u{34f}', '\u{3164}', '\u{fe0f}',
            '\u{85}',
        ] {
            assert_eq!(
                printable(&format!("a{c}b")),
                "a\u{fffd}b",
                "{:x}",
                u32::from(c)
            );
        }

        assert_eq!(printable("caf\u{e9} \u{4e2d}"), "caf\u{e9} \u{4e2d}");
    }

    #[test]
    fn control_bytes_and_queries_do_not_reach_a_screen() {
        assert_eq!(shown_path(b"/a\x1b[2J?token=secret"), "/a\\x1b[2J");
        assert_eq!(Escaped("é\n".as_bytes()).to_string(), "\\xc3\\xa9\\x0a");
    }
}
