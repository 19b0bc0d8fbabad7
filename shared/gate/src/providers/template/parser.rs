//! Parser of templates.

use super::{Filter, TemplatePart, ValueSource};
use crate::providers::locator::{HeaderField, ValueLocator};
use hookward_core::json::JsonPath;
use hookward_core::reason::Reason;

pub(super) struct Parser<'t> {
    pub(super) rest: &'t str,
}

impl Parser<'_> {
    pub(super) fn parts(&mut self, inside: bool) -> Result<Vec<TemplatePart>, Reason> {
        let mut parts = Vec::new();
        let mut literal = String::new();

        loop {
            let Some(next) = self.rest.chars().next() else {
                if inside {
                    return Err("a `[` is not closed".to_owned().into());
                }
                break;
            };
            let after = self.rest.get(next.len_utf8()..).unwrap_or_default();
            let doubled = matches!(next, '{' | '}' | '[' | ']') && after.starts_with(next);

            match next {
                _ if doubled => {
                    literal.push(next);
                    self.rest = after.get(1..).unwrap_or_default();
                    continue;
                }
                '{' | '[' | ']' => {
                    if !literal.is_empty() {
                        parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
                    }
                    self.rest = after;
                }
                '}' => {
                    return Err(unopened('}'));
                }
                _ => {
                    literal.push(next);
                    self.rest = after;
                    continue;
                }
            }

            match next {
                '{' => {
                    let (inside, tail) = self.rest.split_once('}').ok_or("a `{` is not closed")?;
                    parts.push(placeholder(inside)?);
                    self.rest = tail;
                }
                '[' if inside => return Err("a `[` stands inside of another".to_owned().into()),
                '[' => parts.push(TemplatePart::Optional(self.parts(true)?)),
                _ if inside => return Ok(parts),
                _ => {
                    return Err(unopened(']'));
                }
            }
        }

        if !literal.is_empty() {
            parts.push(TemplatePart::Literal(literal));
        }

        Ok(parts)
    }
}

fn unopened(bracket: char) -> Reason {
    format!("a `{bracket}` was not opened; write `{bracket}{bracket}` for the character").into()
}

pub(super) fn placeholder(inside: &str) -> Result<TemplatePart, Reason> {
    let (name, filter) = match inside.split_once('|') {
        None => (inside, Filter::None),
        Some((name, "lower")) => (name, Filter::Lower),
        Some((name, "jsonstr")) => (name, Filter::JsonString),
        Some((name, "sha256")) => (name, Filter::Sha256),
        Some((name, "sha256-base64")) => (name, Filter::Sha256Base64),
        Some((name, "sha256-base64url")) => (name, Filter::Sha256Base64url),
        Some((name, "signed-hex")) => (name, Filter::SignedHex),
        Some((name, "signed-base64")) => (name, Filter::SignedBase64),
        Some((name, "hubspot")) => (name, Filter::Hubspot),
        Some((name, "contentful")) => (name, Filter::Contentful),
        Some((name, "free")) => (name, Filter::Free),
        Some((_, filter)) => return Err(format!("unknown filter |{filter}").into()),
    };

    let source = match name {
        "body" => ValueSource::Body,
        "crc32:body" => ValueSource::BodyCrc32,
        "ts" => ValueSource::Timestamp,
        "secret" => ValueSource::Secret(None),
        "url" => ValueSource::Url,
        "method" => ValueSource::Method,
        "path" => ValueSource::Target,
        "canonical" => ValueSource::Canonical,
        "form-sorted" => ValueSource::FormSorted,
        "sns" => ValueSource::Sns,
        "plivo" => ValueSource::Plivo,
        _ => match name.split_once(':') {
            Some(("secret", part)) => ValueSource::Secret(Some(part.to_owned())),
            Some(("item", path)) => ValueSource::Item(JsonPath::parse(path)?),
            Some(("signed-headers", header)) => {
                ValueSource::SignedHeaders(HeaderField::parse(header)?)
            }
            Some(_) => ValueSource::At(ValueLocator::parse(name)?),
            None => return Err(format!("unknown placeholder {{{name}}}").into()),
        },
    };
    Ok(TemplatePart::Value(source, filter))
}
