//! Text from strangers, made fit for a terminal or a log line.

use std::fmt::{self, Write as _};

/// Whether two names are the same to a reader that takes no notice of case. Two letters beyond ASCII fold to
/// ASCII ones in Unicode (`ſ` to `s`, the Kelvin sign to `k`), and some readers follow that (Go's
/// `encoding/json`).
#[must_use]
pub fn same_name(one: &[u8], other: &[u8]) -> bool {
    if one.is_ascii() && other.is_ascii() {
        return one.eq_ignore_ascii_case(other);
    }
    let folded = |name: &[u8]| {
        String::from_utf8_lossy(name).replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase()
    };
    folded(one) == folded(other)
}

/// Longest text from a stranger that is shown; the rest is cut.
const SHOWN: usize = 200;

/// Shows bytes from a stranger: printable ASCII as it is, everything else escaped, long texts cut.
/// A log line or a terminal can't be steered by it.
#[derive(Clone, Copy)]
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.0.len() <= SHOWN && self.0.iter().all(|byte| matches!(byte, 0x20..=0x7e) && *byte != b'\\');
        if let (true, Ok(text)) = (plain, std::str::from_utf8(self.0)) {
            return f.write_str(text);
        }
        for byte in self.0.iter().take(SHOWN) {
            match byte {
                b'\\' => f.write_str("\\\\")?,
                0x20..=0x7e => f.write_char(char::from(*byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        if self.0.len() > SHOWN {
            f.write_str("…")?;
        }
        Ok(())
    }
}

/// A text without what could steer a terminal: control characters become U+FFFD, the rest stays.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The path of a request target as logs and screens show it: without the query, escaped.
#[must_use]
pub fn shown_path(target: &[u8]) -> String {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    Escaped(path).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_and_queries_do_not_reach_a_screen() {
        assert_eq!(shown_path(b"/a\x1b[2J?token=secret"), "/a\\x1b[2J");
        assert_eq!(Escaped("é\n".as_bytes()).to_string(), "\\xc3\\xa9\\x0a");
    }
}
