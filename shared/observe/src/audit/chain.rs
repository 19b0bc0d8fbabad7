//! Hash chain of the records. The hash of a record is the SHA-256 of its line without the line feed.
//! The next record names it, so `sha256sum` is enough to follow the chain.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Number and hash of the last record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainHead {
    /// Number of the record, from 1; 0 before the first.
    pub seq: u64,
    /// SHA-256 of its line; zeros before the first.
    pub hash: [u8; 32],
}

/// Head that another system kept: the number of a record, and the first digits of its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptHead {
    pub(super) seq: u64,
    digits: String,
}

/// A text is not a kept head.
#[derive(Debug, thiserror::Error)]
#[error("write SEQ:HASH, as the log line audit_head and the status show it")]
pub struct KeptHeadError;

impl FromStr for KeptHead {
    type Err = KeptHeadError;

    /// Parses `SEQ:HASH`, with at least [`KEPT_HASH_DIGITS`] digits of the hash.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (seq, digits) = text.trim().split_once(':').ok_or(KeptHeadError)?;
        let is_hash = (KEPT_HASH_DIGITS..=64).contains(&digits.len())
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let seq = seq.parse().ok().filter(|_| is_hash);
        Ok(Self {
            seq: seq.ok_or(KeptHeadError)?,
            digits: digits.to_owned(),
        })
    }
}

impl KeptHead {
    /// Returns `true` if this is another record of the same number.
    pub(super) fn differs(&self, head: &ChainHead) -> bool {
        self.seq == head.seq && !head.hash_text().starts_with(&self.digits)
    }
}

impl From<ChainHead> for KeptHead {
    fn from(head: ChainHead) -> Self {
        Self {
            seq: head.seq,
            digits: head.hash_text(),
        }
    }
}

/// Number of hexadecimal digits of a hash in the metrics: 48 bits, which a metric holds exactly.
pub const KEPT_HASH_DIGITS: usize = 12;

impl fmt::Display for ChainHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.seq, self.hash_text())
    }
}

impl ChainHead {
    /// Returns the hash in hexadecimal digits.
    #[must_use]
    pub fn hash_text(&self) -> String {
        HEXLOWER.encode(&self.hash)
    }

    /// Parses `SEQ:HASH`, as the metric and the log line show it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (seq, hash) = text.trim().split_once(':')?;
        Some(Self {
            seq: seq.parse().ok()?,
            hash: parse_hash(hash)?,
        })
    }

    /// Appends the line of the next record. `fields` is a JSON object with at least one field.
    pub(super) fn seal(&mut self, fields: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let number = self.seq.saturating_add(1);
        out.extend_from_slice(format!("{{\"seq\":{number},\"prev\":\"").as_bytes());
        out.extend_from_slice(self.hash_text().as_bytes());
        out.extend_from_slice(b"\",");
        out.extend_from_slice(fields.get(1..).unwrap_or_default());

        *self = Self {
            seq: number,
            hash: hash(out.get(start..).unwrap_or_default()),
        };
        out.push(b'\n');
    }
}

/// Event of the record about a rotation.
pub(super) const ROTATED: &str = "audit_rotated";

/// Fields of a line that the chain needs.
#[derive(Deserialize, Serialize)]
pub(super) struct ChainFields {
    pub seq: u64,
    pub prev: String,
    pub time: String,
    pub event: String,
    /// In records of rotations: the number of the oldest record that stays.
    #[serde(default)]
    pub oldest: Option<u64>,
}

/// Returns the head after this line, which has no line feed.
pub(super) fn head_of(line: &[u8]) -> Option<ChainHead> {
    let fields: ChainFields = serde_json::from_slice(line).ok()?;
    Some(ChainHead {
        seq: fields.seq,
        hash: hash(line),
    })
}

pub(super) fn hash(line: &[u8]) -> [u8; 32] {
    Sha256::digest(line).into()
}

pub(super) fn parse_hash(text: &str) -> Option<[u8; 32]> {
    HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_the_hash_of_the_line_before() {
        let (mut head, mut out) = (ChainHead::default(), Vec::new());
        head.seal(br#"{"time":"t","event":"a"}"#, &mut out);
        let first = head;
        head.seal(br#"{"time":"t","event":"b"}"#, &mut out);

        let lines: Vec<_> = out.split(|byte| *byte == b'\n').collect();
        assert_eq!(head_of(lines[0]), Some(first));
        assert_eq!(head_of(lines[1]), Some(head));
        let second: ChainFields = serde_json::from_slice(lines[1]).unwrap();
        assert_eq!((second.seq, second.prev), (2, first.hash_text()));
        assert_eq!(ChainHead::parse(&head.to_string()), Some(head));
    }
}
