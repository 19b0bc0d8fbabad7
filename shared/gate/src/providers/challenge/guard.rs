//! Guard of the text that a response to a challenge reflects.

use serde::Deserialize;

/// Allowed form of reflected text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeGuard {
    /// Characters allowed beside letters and digits.
    #[serde(default)]
    pub and: String,
    /// `true` to allow only hexadecimal digits (and [`ChallengeGuard::and`]) instead of all letters
    /// and digits.
    #[serde(default)]
    pub hex: bool,
    /// Minimum number of characters.
    #[serde(default = "one")]
    pub least: usize,
    /// Maximum number of characters.
    #[serde(default = "guard_most")]
    pub most: usize,
}

pub(super) const fn ok() -> u16 {
    200
}

pub(super) const fn one() -> usize {
    1
}

pub(super) const fn guard_most() -> usize {
    256
}

impl Default for ChallengeGuard {
    fn default() -> Self {
        // Visible ASCII without the characters that begin markup or end a JSON string.
        Self {
            and: "-._~+/=:,@!*()$%?# ".to_owned(),
            hex: false,
            least: one(),
            most: guard_most(),
        }
    }
}

impl ChallengeGuard {
    /// Returns `true` for a text that may be reflected.
    #[must_use]
    pub(crate) fn admits(&self, text: &[u8]) -> bool {
        let plain = |byte: &u8| {
            let letter = if self.hex {
                byte.is_ascii_digit() || (b'a'..=b'f').contains(byte)
            } else {
                byte.is_ascii_alphanumeric()
            };
            letter || self.and.as_bytes().contains(byte)
        };

        // Padding of base64 is at the end; anywhere else a `=` creates a form pair.
        let unpadded = text
            .strip_suffix(b"==")
            .or_else(|| text.strip_suffix(b"="))
            .unwrap_or(text);

        (self.least..=self.most).contains(&text.len()) && unpadded.iter().all(plain)
    }
}
