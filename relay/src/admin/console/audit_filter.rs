//! Filter of audit records: words and `key:value` terms, all of which must match.
//!
//! ```text
//! event:refused client:192.0.2.7 -check:path
//! ```

use std::net::IpAddr;

use serde_json::{Map, Value};

/// Maximum length of a filter, in bytes.
const MAX_BYTES: usize = 256;

/// Fields of the chain, in which a word would match by chance.
const CHAIN: [&str; 2] = ["seq", "prev"];

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AuditFilter(Vec<AuditTerm>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct AuditTerm {
    is_negated: bool,
    /// Field of the record; `None` for any.
    field: Option<String>,
    /// Text in the field, in lower case.
    text: String,
}

impl AuditFilter {
    /// Parses a filter; `None` if it is too long.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_BYTES {
            return None;
        }
        let terms = text.split_whitespace().map(|word| {
            let positive = word.strip_prefix('-').filter(|rest| !rest.is_empty());
            let word = positive.unwrap_or(word);
            // Times and IPv6 addresses have colons, too.
            let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
            let is_address = word.parse::<IpAddr>().is_ok();
            let pair = word.split_once(':').filter(|_| !is_address);
            let pair = pair.filter(|(name, _)| !name.is_empty() && name.bytes().all(is_letter));
            AuditTerm {
                is_negated: positive.is_some(),
                field: pair.map(|(name, _)| name.to_lowercase()),
                text: pair.map_or(word, |(_, text)| text).to_lowercase(),
            }
        });
        Some(Self(terms.collect()))
    }

    /// Returns `true` if a record matches all terms.
    pub(super) fn matches(&self, record: &Map<String, Value>) -> bool {
        let mut terms = self.0.iter();
        terms.all(|term| term.matches(record) != term.is_negated)
    }
}

impl AuditTerm {
    fn matches(&self, record: &Map<String, Value>) -> bool {
        match &self.field {
            Some(field) if field == "is" => self.text == "act" && record.contains_key("actor"),
            Some(field) => record.get(field).is_some_and(|value| self.is_in(value)),
            None => {
                let mut fields = record.iter();
                fields.any(|(name, value)| !CHAIN.contains(&name.as_str()) && self.is_in(value))
            }
        }
    }

    fn is_in(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => text.to_lowercase().contains(&self.text),
            other => other.to_string().to_lowercase().contains(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_select_records() {
        let record = serde_json::json!({
            "seq": 7, "prev": "abad403", "event": "refused", "client": "2001:db8::7",
            "path": "/Git/push", "check": "signature", "status": 403,
        });
        let act = serde_json::json!({ "event": "agent_revoked", "actor": "uid 0" });
        let matches = |filter: &str, record: &Value| {
            let filter = AuditFilter::parse(filter).unwrap();
            filter.matches(record.as_object().unwrap())
        };
        for (filter, expected) in [
            ("", true),
            ("git", true),
            ("path", false),
            ("abad", false),
            ("event:refused status:403", true),
            ("check:path", false),
            ("-check:path refused", true),
            ("-refused", false),
            ("2001:db8::7", true),
            ("client:2001:db8", true),
            ("Event:REFUSED", true),
            ("fdab:cd::1", false),
            ("is:act", false),
        ] {
            assert_eq!(matches(filter, &record), expected, "{filter}");
        }
        assert!(matches("is:act revoked", &act));
        assert_eq!(AuditFilter::parse(&"x".repeat(257)), None);
    }
}
