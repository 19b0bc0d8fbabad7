//! Template of a signed text: literal text and placeholders.
//!
//! | placeholder | value |
//! | --- | --- |
//! | `{body}` `{crc32:body}` | raw body; its CRC-32 in decimal |
//! | `{ts}` | timestamp, as received |
//! | `{secret}` `{secret:PART}` | secret, or one of its parts |
//! | `{url}` `{method}` `{path}` | of the request: public URL, method, path with query as received |
//! | `{canonical}` | method, path and sorted query as in Atlassian's `qsh` |
//! | `{header:N}` `{query:N}` `{form:N}` `{json:P}` `{formjson:F:P}` `{sig:K}` | value at the location |
//! | `{item:P}` | value of the item, if a batch is signed item by item; empty if absent |
//! | `{form-sorted}` | names and values of the form, decoded, sorted, joined without separators |
//! | `{signed-headers:N}` | headers that header N lists, each as `name:value`, joined by `;` |
//! | `{sns}` `{plivo}` | signed texts of Amazon SNS and Plivo |
//!
//! A filter may follow: `{query:id|lower}`, `|jsonstr` (as a JSON string), `|sha256`,
//! `|sha256-base64` and `|sha256-base64url` (the digest, in hex or base64), `|signed-hex` and
//! `|signed-base64` (signed by the provider's key; only in responses to challenges), `|hubspot` and
//! `|contentful` (their handling of escapes), `|free` (one value may contain the separator after
//! it). `[…]` is omitted if a placeholder inside has no value. `{{`, `}}`, `[[` and `]]` are the
//! characters themselves.

mod parser;

use hookward_core::reason::Reason;
use std::fmt;

use serde::{Deserialize, Serialize};

use self::parser::Parser;
use crate::providers::locator::{HeaderField, ValueLocator};
use hookward_core::json::JsonPath;

/// Template of a signed text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    text: String,
    parts: Vec<TemplatePart>,
}

/// Part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TemplatePart {
    /// Literal text.
    Literal(String),
    Value(ValueSource, Filter),
    /// Omitted if a value inside is absent.
    Optional(Vec<TemplatePart>),
}

/// Source of a placeholder's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ValueSource {
    Body,
    /// CRC-32 of the body, in decimal.
    BodyCrc32,
    Timestamp,
    /// The secret, or this part of it.
    Secret(Option<String>),
    Url,
    Method,
    /// The path and the query, as sent.
    Target,
    /// Method, path and query as in Atlassian's `qsh`.
    Canonical,
    /// A value of the request.
    At(ValueLocator),
    /// A value of one item of a batch.
    Item(JsonPath),
    FormSorted,
    /// Headers that this one lists.
    SignedHeaders(HeaderField),
    Sns,
    Plivo,
}

/// Transformation of a value before it is signed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Filter {
    #[default]
    None,
    /// ASCII letters in lower case.
    Lower,
    /// As a JSON string, in quotes.
    JsonString,
    Sha256,
    Sha256Base64,
    /// SHA-256, in base64url without padding.
    Sha256Base64url,
    /// Signature by the provider's key, in hex; only in responses to challenges.
    SignedHex,
    /// Signature by the provider's key, in base64; only in responses to challenges.
    SignedBase64,
    /// HubSpot: decodes some escapes of the URL.
    Hubspot,
    /// Contentful: escapes path and query again.
    Contentful,
    /// Unchanged. The value may contain the separator after it, which no other value of the
    /// template may. With one such value, the signed text can still be split in only one way.
    Free,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// The mistake.
    pub(crate) fn parse(text: &str) -> Result<Self, Reason> {
        let mut parser = Parser { rest: text };
        let parts = parser.parts(false)?;
        let free = |part: &&TemplatePart| matches!(part, TemplatePart::Value(_, Filter::Free));
        if parts.iter().filter(free).count() > 1 {
            return Err(
                "only one value may be |free: two could take bytes of each other"
                    .to_owned()
                    .into(),
            );
        }

        Ok(Self {
            text: text.to_owned(),
            parts,
        })
    }

    /// Returns the part of the secret that it contains.
    #[must_use]
    pub(crate) fn secret_part(&self) -> Option<&str> {
        self.sources().find_map(|source| match source {
            ValueSource::Secret(part) => part.as_deref(),
            _ => None,
        })
    }

    /// Returns the template of one placeholder.
    #[cfg(test)]
    pub(crate) fn of(source: ValueSource) -> Self {
        Self {
            text: String::new(),
            parts: vec![TemplatePart::Value(source, Filter::None)],
        }
    }

    /// Returns `true` if case does not matter: in fixed text and hex digests, but not in secrets.
    pub(crate) fn is_caseless(&self) -> bool {
        self.parts.iter().all(|part| {
            matches!(
                part,
                TemplatePart::Literal(_) | TemplatePart::Value(_, Filter::Sha256 | Filter::Lower)
            )
        })
    }

    #[must_use]
    pub(crate) fn parts(&self) -> &[TemplatePart] {
        &self.parts
    }

    /// Returns the sources of all placeholders, including optional ones.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &ValueSource> {
        let mut stack: Vec<&TemplatePart> = self.parts.iter().rev().collect();
        std::iter::from_fn(move || {
            loop {
                match stack.pop()? {
                    TemplatePart::Literal(_) => {}
                    TemplatePart::Value(source, _) => return Some(source),
                    TemplatePart::Optional(parts) => stack.extend(parts.iter().rev()),
                }
            }
        })
    }
}

impl Default for Template {
    fn default() -> Self {
        Self {
            text: "{body}".to_owned(),
            parts: vec![TemplatePart::Value(ValueSource::Body, Filter::None)],
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Template {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> Self {
        template.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_filters_and_what_is_optional() {
        let template =
            Template::parse("[id:{query:data.id|lower};]ts:{ts};{{\"a\":{body|jsonstr}}}").unwrap();
        let [
            TemplatePart::Optional(inside),
            TemplatePart::Literal(ts),
            TemplatePart::Value(ValueSource::Timestamp, Filter::None),
            TemplatePart::Literal(text),
            TemplatePart::Value(ValueSource::Body, Filter::JsonString),
            TemplatePart::Literal(end),
        ] = template.parts()
        else {
            panic!("{template:?}")
        };
        assert_eq!(
            (inside.len(), ts.as_str(), text.as_str(), end.as_str()),
            (3, "ts:", ";{\"a\":", "}")
        );

        assert_eq!(template.sources().count(), 3);
    }

    #[test]
    fn wrong_templates_are_refused() {
        for bad in [
            "{body",
            "{nobody}",
            "{x:y}",
            "[a",
            "a]",
            "a}",
            "[[a]",
            "[a[b]]",
            "{body|upper}",
            "{header:a b}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
