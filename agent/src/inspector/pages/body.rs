//! A body in the forms that suit its media type: a JSON tree, form fields, parts, text, and bytes in
//! hexadecimal digits.

use std::fmt;

use askama::Template;
use hookward_core::form;
use hookward_pages::text::{bytes, visible};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess};
use serde_json::value::RawValue;

use crate::inspector::message::StoredMessage;

/// Maximum depth of a JSON tree; deeper values are shown as text.
const MAX_DEPTH: usize = 40;

/// Maximum number of nodes of a JSON tree.
const MAX_NODES: usize = 5000;

/// Number of bytes that are shown in hexadecimal digits.
const HEX_BYTES: usize = 4096;

/// Bytes of one line of them.
const HEX_LINE: usize = 16;

/// A body.
#[derive(Template)]
#[template(path = "body.html")]
pub(super) struct BodyView {
    /// Size, with the media type.
    description: String,
    /// `true` if only a part was kept.
    is_cut: bool,
    is_redacted: bool,
    form: BodyForm,
    /// Whole text, if the body is UTF-8.
    text: Option<String>,
    hex: String,
    has_more_hex: bool,
}

/// Structure of a body.
enum BodyForm {
    Empty,
    /// Tree in HTML.
    Json(String),
    Fields(Vec<(String, String)>),
    Parts(Vec<Part>),
    Text,
    Binary,
}

/// Part of a multipart body.
struct Part {
    head: String,
    content: String,
}

impl BodyView {
    pub(super) fn of(message: &StoredMessage) -> askama::Result<Self> {
        let content_type = message
            .parts()
            .field("content-type")
            .unwrap_or_default()
            .to_owned();
        let body = &message.body;
        let text = std::str::from_utf8(body).ok();
        let form = form_of(&content_type, body, text)?;
        let shown = body.get(..HEX_BYTES).unwrap_or(body);
        let kind = match content_type.is_empty() {
            true => String::new(),
            false => format!(", {}", visible(&content_type)),
        };
        Ok(Self {
            description: format!("{}{kind}", bytes(message.body_bytes)),
            is_cut: !message.is_whole,
            is_redacted: message.is_redacted,
            form,
            text: text.map(|text| visible(text).into_owned()),
            hex: hex(shown),
            has_more_hex: shown.len() < body.len(),
        })
    }
}

fn form_of(content_type: &str, body: &[u8], text: Option<&str>) -> askama::Result<BodyForm> {
    if body.is_empty() {
        return Ok(BodyForm::Empty);
    }
    let kind = content_type.to_ascii_lowercase();
    // Some senders, and curl's --data, name a form for JSON.
    let is_json = matches!(body.trim_ascii_start().first(), Some(b'{' | b'['));
    if kind.starts_with("application/x-www-form-urlencoded") && !is_json {
        return Ok(BodyForm::Fields(fields(body)));
    }
    if kind.starts_with("multipart/")
        && let Some(parts) = parts(body)
    {
        return Ok(BodyForm::Parts(parts));
    }
    // Also without its media type: providers are careless.
    if let Some(node) = text.and_then(JsonNode::parse) {
        return Ok(BodyForm::Json(node.render()?));
    }
    Ok(match text {
        Some(_) => BodyForm::Text,
        None => BodyForm::Binary,
    })
}

fn fields(body: &[u8]) -> Vec<(String, String)> {
    let shown = |text: &[u8]| {
        let decoded = form::decode(text, true).unwrap_or(text.into());
        visible(&String::from_utf8_lossy(&decoded)).into_owned()
    };
    let pairs = body.split(|byte| *byte == b'&').map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=');
        match equals.and_then(|at| pair.split_at_checked(at)) {
            Some((name, value)) => (shown(name), shown(value.get(1..).unwrap_or_default())),
            None => (shown(pair), String::new()),
        }
    });
    pairs.collect()
}

/// Splits a multipart body (RFC 2046 §5.1) at its own boundary.
fn parts(body: &[u8]) -> Option<Vec<Part>> {
    let text = String::from_utf8_lossy(body);
    let boundary = text.lines().next()?.trim_end();
    if !boundary.starts_with("--") || boundary.len() < 3 {
        return None;
    }
    let parts = text
        .split(boundary)
        .skip(1)
        .take_while(|part| !part.starts_with("--"));
    let parts = parts.map(|part| {
        let part = part.strip_prefix("\r\n").unwrap_or(part);
        let part = part.strip_suffix("\r\n").unwrap_or(part);
        let (head, content) = part.split_once("\r\n\r\n").unwrap_or((part, ""));
        Part {
            head: visible(head).into_owned(),
            content: visible(content).into_owned(),
        }
    });
    Some(parts.collect())
}

/// Returns bytes as offsets, hexadecimal digits, and printable ASCII.
fn hex(body: &[u8]) -> String {
    let mut text = String::new();
    for (number, line) in body.chunks(HEX_LINE).enumerate() {
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letters = line.iter().map(|byte| match byte {
            0x20..=0x7e => char::from(*byte),
            _ => '.',
        });
        text.push_str(&format!(
            "{:06x}  {:<47}  {}\n",
            number * HEX_LINE,
            digits.join(" "),
            letters.collect::<String>()
        ));
    }
    text
}

/// A value of a JSON tree. Numbers and the order of members are kept as written.
#[derive(Template)]
#[template(path = "json.html")]
struct JsonNode {
    /// Name in its object, or nothing in a list.
    name: Option<String>,
    value: JsonValue,
}

enum JsonValue {
    /// String, decoded.
    String(String),
    /// Number, literal, or a value that is too deep, as written.
    Other(String),
    /// Members or items, with the brackets.
    Children {
        open: char,
        close: char,
        count: String,
        nodes: Vec<JsonNode>,
    },
}

/// Members of an object in their order, with duplicates.
struct Members<'d>(Vec<(String, &'d RawValue)>);

impl<'de: 'd, 'd> Deserialize<'de> for Members<'d> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visitor).map(Members)
    }
}

impl JsonNode {
    /// Parses a document that is an object or a list. `None` for others, and for large ones.
    fn parse(text: &str) -> Option<Self> {
        let begins_well = text.trim_start().starts_with(['{', '[']);
        let raw: &RawValue = begins_well
            .then(|| serde_json::from_str(text).ok())
            .flatten()?;
        let mut left = MAX_NODES;
        Self::of(None, raw, 0, &mut left)
    }

    fn of(name: Option<String>, raw: &RawValue, depth: usize, left: &mut usize) -> Option<Self> {
        *left = left.checked_sub(1)?;
        let name = name.map(|name| visible(&name).into_owned());
        let text = raw.get();
        let other = || JsonValue::Other(visible(text).into_owned());
        let count = |number: usize, what: &str| match number {
            1 => format!("1 {what}"),
            _ => format!("{number} {what}s"),
        };
        let value = match text.as_bytes().first() {
            _ if depth >= MAX_DEPTH => other(),
            Some(b'{') => {
                let Members(members) = serde_json::from_str(text).ok()?;
                JsonValue::Children {
                    open: '{',
                    close: '}',
                    count: count(members.len(), "member"),
                    nodes: members
                        .into_iter()
                        .map(|(name, raw)| Self::of(Some(name), raw, depth + 1, left))
                        .collect::<Option<_>>()?,
                }
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                JsonValue::Children {
                    open: '[',
                    close: ']',
                    count: count(items.len(), "item"),
                    nodes: items
                        .into_iter()
                        .map(|raw| Self::of(None, raw, depth + 1, left))
                        .collect::<Option<_>>()?,
                }
            }
            Some(b'"') => match serde_json::from_str::<String>(text) {
                Ok(text) => JsonValue::String(visible(&text).into_owned()),
                Err(_) => other(),
            },
            _ => other(),
        };
        Some(Self { name, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(content_type: &str, body: &[u8]) -> String {
        let message = StoredMessage {
            head: format!("POST / HTTP/1.1\r\nContent-Type: {content_type}\r\n").into_bytes(),
            body: body.to_vec(),
            body_bytes: body.len() as u64,
            is_whole: true,
            is_redacted: false,
        };
        BodyView::of(&message).unwrap().render().unwrap()
    }

    #[test]
    fn json_is_a_tree_and_harmless() {
        let html = view(
            "application/json",
            br#"{"a":"<script>alert(1)</script>","n":12345678901234567890123,"e":"\u202ex","l":[{"b":null}]}"#,
        );
        assert!(html.contains("&#60;script&#62;"), "{html}");
        assert!(!html.contains("<script"), "{html}");
        assert!(html.contains("12345678901234567890123"), "{html}");
        assert!(html.contains("⟨U+202E⟩x"), "{html}");
        assert!(html.contains("1 item"), "{html}");
    }

    #[test]
    fn deep_and_large_documents_are_text() {
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(view("application/json", deep.as_bytes()).contains("[[[["));
        let large = format!("[{}1]", "1,".repeat(MAX_NODES));
        assert!(!view("application/json", large.as_bytes()).contains("class=\"json\""));
    }

    #[test]
    fn other_bodies_have_their_form() {
        let form = view("application/x-www-form-urlencoded", b"a=1%202&b=%3Cb%3E");
        assert!(
            form.contains("1 2") && form.contains("&#60;b&#62;"),
            "{form}"
        );

        let multipart =
            b"--x\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nhello\r\n--x--\r\n";
        let multipart = view("multipart/form-data; boundary=x", multipart);
        assert!(multipart.contains("hello"), "{multipart}");

        let binary = view("image/png", b"\x89PNG\0\xff");
        assert!(binary.contains("89 50 4e 47 00 ff"), "{binary}");
        assert!(view("text/plain", b"\x1b[31mred").contains("⟨U+001B⟩[31mred"));
        assert!(view("text/plain", b"").contains("no body"));
    }
}
