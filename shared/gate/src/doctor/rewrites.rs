//! Rewrites of a body by programs between a provider and the gate.

use crate::providers::locator::SignatureParams;
use crate::providers::scheme::Scheme;
use crate::request::Request;
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hookward_core::secret::oddities::{from_utf16, unquoted};

/// Returns a member of a signature's list.
pub(super) fn member_of(scheme: &Scheme, request: &Request<'_>, key: &str) -> Option<Vec<u8>> {
    let value = scheme
        .sig
        .at
        .read(request, &SignatureParams::default())
        .ok()??;
    let value = String::from_utf8(value.into_owned()).ok()?;
    let (split, kv) = (scheme.sig.split.as_deref()?, scheme.sig.kv.as_deref()?);
    let mut members = value
        .split(split)
        .filter_map(|member| member.split_once(kv));

    members
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.as_bytes().to_vec())
}

/// Returns variants of a secret, each with a description.
pub(super) fn respelled(secret: &[u8]) -> Vec<(Vec<u8>, &'static str)> {
    let mut spellings = vec![
        (
            [secret, b"\n"].concat(),
            "and a newline behind it: it was entered so at the provider",
        ),
        (
            [secret, b"\r\n"].concat(),
            "and CR LF behind it: it was entered so at the provider",
        ),
        (secret.trim_ascii().to_vec(), "without the space around it"),
        (unquoted(secret).to_vec(), "without the quotes around it"),
        (
            [b"\"", secret, b"\""].concat(),
            "in quotes: they were entered so at the provider",
        ),
    ];

    if let Some(text) = secret.strip_prefix(b"\xef\xbb\xbf") {
        spellings.push((text.to_vec(), "without the byte order mark"));
    }

    if let Some(text) = from_utf16(secret) {
        spellings.push((
            text.trim_end().as_bytes().to_vec(),
            "read as UTF-16, as PowerShell's > writes it",
        ));
    }

    if let Ok(decoded) = BASE64.decode(secret) {
        spellings.push((decoded, "decoded as base64"));
    }

    if let Ok(decoded) = HEXLOWER_PERMISSIVE.decode(secret) {
        spellings.push((decoded, "decoded as hex"));
    }

    spellings.push((BASE64.encode(secret).into_bytes(), "encoded as base64"));
    spellings.retain(|(text, _)| text != secret);
    spellings
}

/// Returns variants of a body, each with a description.
pub(super) fn rewritten(body: &[u8]) -> Vec<(Vec<u8>, &'static str)> {
    let mut spellings = vec![
        ([body, b"\n"].concat(), "with a newline at its end"),
        ([body, b"\r\n"].concat(), "with CR LF at its end"),
    ];

    if let Some(shorter) = body
        .strip_suffix(b"\r\n")
        .or_else(|| body.strip_suffix(b"\n"))
    {
        spellings.push((shorter.to_vec(), "without the newline at its end"));
    }

    if let Some(shorter) = body.strip_prefix(b"\xef\xbb\xbf") {
        spellings.push((shorter.to_vec(), "without the byte order mark"));
    }

    if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() {
        spellings.push((respaced(body, "", ""), "as JSON without spaces"));
        spellings.push((
            respaced(body, " ", " "),
            "as JSON with a space behind each comma and colon",
        ));

        if let Ok(text) = std::str::from_utf8(body) {
            let escaped = text
                .chars()
                .fold(String::with_capacity(text.len()), |mut out, c| {
                    if c.is_ascii() {
                        out.push(c);
                    } else {
                        let mut units = [0; 2];
                        c.encode_utf16(&mut units)
                            .iter()
                            .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                    }

                    out
                });

            spellings.push((
                escaped.into_bytes(),
                "as JSON with other letters than ASCII escaped",
            ));
        }

        let pretty = serde_json::from_slice::<serde_json::Value>(body)
            .ok()
            .and_then(|value| serde_json::to_vec_pretty(&value).ok());
        spellings.extend(pretty.map(|pretty| (pretty, "as indented JSON")));
    }

    spellings.retain(|(text, _)| text != body);
    spellings
}

/// Returns JSON with other spaces between its tokens.
pub(super) fn respaced(json: &[u8], comma: &str, colon: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut quoted, mut escaped) = (false, false);

    for byte in json {
        match byte {
            _ if quoted => {
                out.push(*byte);
                quoted = escaped || *byte != b'"';
                escaped = !escaped && *byte == b'\\';
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b',' => {
                out.push(b',');
                out.extend_from_slice(comma.as_bytes());
            }
            b':' => {
                out.push(b':');
                out.extend_from_slice(colon.as_bytes());
            }
            b'"' => {
                out.push(b'"');
                quoted = true;
            }
            other => out.push(*other),
        }
    }

    out
}
