//! Redaction of captured requests, before anything is written.
//!
//! Redacted are the fields that carry credentials (RFC 9110 §11, RFC 6265), values whose name says
//! that they are secret, the locations that the policy's checks read a secret from, and the policy's
//! own signing secrets wherever they occur.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use hookward_core::form;
use hookward_core::secret::Secret;
use hookward_gate::policy::Policy;
use hookward_gate::providers::ValueLocator;
use http::HeaderName;
use memchr::memmem;

/// Text in place of a secret.
pub(crate) const REDACTED: &str = "[redacted]";

/// [`REDACTED`] in a query or a form.
pub(crate) const REDACTED_ESCAPED: &str = "%5Bredacted%5D";

/// Parts of the names of header fields that carry secrets.
const SECRET_WORDS: [&str; 9] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "passwd",
    "apikey",
    "credential",
    "privatekey",
];

/// Names of secrets in queries, forms and JSON, in lower case and without `-` and `_`.
const SECRET_NAMES: [&str; 20] = [
    "accesskey",
    "accesstoken",
    "apikey",
    "apitoken",
    "authorization",
    "authtoken",
    "bearertoken",
    "clientsecret",
    "credential",
    "credentials",
    "idtoken",
    "passwd",
    "password",
    "privatekey",
    "refreshtoken",
    "secret",
    "secretkey",
    "sessiontoken",
    "token",
    "webhooksecret",
];

/// Minimum length of a signing secret that is searched for, in bytes: shorter ones occur by chance.
const SEARCHED_SECRET_BYTES: usize = 6;

/// Rules of redaction for one tunnel.
pub(crate) struct Redaction {
    headers: BTreeSet<String>,
    /// Names in queries and forms beside [`SECRET_NAMES`], in the same form.
    fields: BTreeSet<String>,
    /// Names in JSON, likewise.
    members: BTreeSet<String>,
    secrets: Vec<Secret>,
}

impl Redaction {
    /// Returns the rules for a policy.
    pub(super) fn of(policy: &Policy) -> Self {
        let mut rules = Self {
            headers: BTreeSet::new(),
            fields: BTreeSet::new(),
            members: BTreeSet::new(),
            secrets: policy
                .signing_secrets()
                .filter(|secret| secret.expose().len() >= SEARCHED_SECRET_BYTES)
                .cloned()
                .collect(),
        };
        for place in policy.secret_locations() {
            rules.add(&place);
        }
        rules
    }

    fn add(&mut self, place: &ValueLocator) {
        match place {
            ValueLocator::Header(field) | ValueLocator::Numbered(field) => {
                self.headers.insert(field.name().as_str().to_owned());
            }
            ValueLocator::Query(name) | ValueLocator::Form(name) => {
                self.fields.insert(plain_name(name.as_bytes()));
            }
            ValueLocator::Json(path) | ValueLocator::FormJson(_, path) => {
                let path = path.to_string();
                let last = path.rsplit('.').next().unwrap_or_default();
                let name = last.split('[').next().unwrap_or_default();
                self.members.insert(plain_name(name.as_bytes()));
            }
            ValueLocator::Body | ValueLocator::Member(_) | ValueLocator::Position(_) => {}
        }
    }

    /// Returns the value of a header field, or [`REDACTED`].
    pub(super) fn header<'v>(&self, name: &HeaderName, value: &'v [u8]) -> Cow<'v, [u8]> {
        let bare = name.as_str().replace(['-', '_'], "");
        let numbered = name.as_str().rsplit_once('-').map_or("", |(stem, _)| stem);
        let is_secret = SECRET_WORDS.iter().any(|word| bare.contains(word))
            || self.headers.contains(name.as_str())
            || self.headers.contains(numbered);
        match is_secret {
            true => Cow::Borrowed(REDACTED.as_bytes()),
            false => self.without_secrets(value, REDACTED),
        }
    }

    /// Returns a target whose query has no secrets.
    pub(super) fn target<'t>(&self, target: &'t [u8]) -> Cow<'t, [u8]> {
        let query = target.iter().position(|byte| *byte == b'?');
        let secret = query.map_or_else(Vec::new, |at| self.pairs(target, at + 1));
        match replaced(target, &secret, REDACTED_ESCAPED) {
            Cow::Borrowed(target) => self.without_secrets(target, REDACTED_ESCAPED),
            Cow::Owned(target) => {
                Cow::Owned(self.without_secrets(&target, REDACTED_ESCAPED).into_owned())
            }
        }
    }

    /// Returns a body without secrets. `kind` is its media type, in lower case.
    pub(super) fn body<'b>(&self, kind: &str, body: &'b [u8]) -> Cow<'b, [u8]> {
        let redacted = if kind.starts_with("application/x-www-form-urlencoded") {
            replaced(body, &self.pairs(body, 0), REDACTED_ESCAPED)
        } else if kind.starts_with("multipart/") {
            replaced(body, &self.parts(body), REDACTED)
        } else {
            replaced(body, &self.members(body), &format!("\"{REDACTED}\""))
        };
        match redacted {
            Cow::Borrowed(body) => self.without_secrets(body, REDACTED),
            Cow::Owned(body) => Cow::Owned(self.without_secrets(&body, REDACTED).into_owned()),
        }
    }

    /// Returns the ranges of the secret values in a query or form that begins at `start`.
    fn pairs(&self, text: &[u8], start: usize) -> Vec<Range<usize>> {
        let mut at = start;
        let mut found = Vec::new();
        for pair in text
            .get(start..)
            .unwrap_or_default()
            .split(|byte| *byte == b'&')
        {
            let end = at + pair.len();
            if let Some(equals) = pair.iter().position(|byte| *byte == b'=') {
                let name = pair.get(..equals).unwrap_or_default();
                let name = form::decode(name, true).unwrap_or(Cow::Borrowed(name));
                if is_secret_name(&name, &self.fields) {
                    found.push(at + equals + 1..end);
                }
            }
            at = end + 1;
        }
        found
    }

    /// Returns the ranges of the secret values in a JSON document, which may be cut off.
    fn members(&self, json: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(open) = find(json, at, |byte| byte == b'"') {
            let end = string_end(json, open);
            let name = json
                .get(open + 1..end.saturating_sub(1))
                .unwrap_or_default();
            at = end;

            let colon = skip_space(json, end);
            if json.get(colon) != Some(&b':') || !is_secret_name(&unescaped(name), &self.members) {
                continue;
            }
            let value = skip_space(json, colon + 1);
            at = value_end(json, value);
            if at > value {
                found.push(value..at);
            }
        }
        found
    }

    /// Returns the ranges of the secret values in a multipart body (RFC 7578).
    fn parts(&self, body: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let boundary_end = memmem::find(body, b"\r\n");
        let Some(boundary) = boundary_end.and_then(|end| body.get(..end)) else {
            return found;
        };
        let delimiter = [b"\r\n", boundary].concat();

        let mut at = boundary.len() + 2;
        while let Some(rest) = body.get(at..) {
            let Some(head) = memmem::find(rest, b"\r\n\r\n") else {
                break;
            };
            let content = head + 4;
            let length = rest
                .get(content..)
                .and_then(|content| memmem::find(content, &delimiter));
            let end = length.map_or(rest.len(), |length| content + length);
            if let Some(name) = part_name(rest.get(..head).unwrap_or_default())
                && is_secret_name(name, &self.fields)
            {
                found.push(at + content..at + end);
            }
            at += end + delimiter.len() + 2;
        }
        found
    }

    /// Replaces the policy's signing secrets.
    fn without_secrets<'t>(&self, text: &'t [u8], by: &str) -> Cow<'t, [u8]> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.secrets {
            let secret = secret.expose();
            let found = memmem::find_iter(&text, secret);
            let found: Vec<_> = found.map(|at| at..at + secret.len()).collect();
            if !found.is_empty() {
                text = Cow::Owned(replaced(&text, &found, by).into_owned());
            }
        }
        text
    }
}

fn is_secret_name(name: &[u8], more: &BTreeSet<String>) -> bool {
    let name = plain_name(name);
    SECRET_NAMES.binary_search(&name.as_str()).is_ok() || more.contains(&name)
}

/// Returns a name in lower case, without `-` and `_`.
fn plain_name(name: &[u8]) -> String {
    let plain = name.iter().filter(|byte| !matches!(byte, b'-' | b'_'));
    plain
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect()
}

/// Returns the text with these ranges, which are in order, replaced.
fn replaced<'t>(text: &'t [u8], ranges: &[Range<usize>], by: &str) -> Cow<'t, [u8]> {
    if ranges.is_empty() {
        return Cow::Borrowed(text);
    }

    let mut left = Vec::with_capacity(text.len());
    let mut at = 0;
    for range in ranges {
        left.extend_from_slice(text.get(at..range.start).unwrap_or_default());
        left.extend_from_slice(by.as_bytes());
        at = range.end;
    }
    left.extend_from_slice(text.get(at..).unwrap_or_default());
    Cow::Owned(left)
}

fn find(text: &[u8], from: usize, is_wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.iter()
        .position(|byte| is_wanted(*byte))
        .map(|at| from + at)
}

/// Returns the position after the string that begins at `open`.
fn string_end(json: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(next) = find(json, at, |byte| matches!(byte, b'"' | b'\\')) {
        if json.get(next) == Some(&b'"') {
            return next + 1;
        }
        at = next + 2;
    }
    json.len()
}

fn skip_space(json: &[u8], from: usize) -> usize {
    find(json, from, |byte| !byte.is_ascii_whitespace()).unwrap_or(json.len())
}

/// Returns the position after the value that begins at `start`.
fn value_end(json: &[u8], start: usize) -> usize {
    match json.get(start) {
        Some(b'"') => string_end(json, start),
        Some(b'{' | b'[') => {
            let (mut at, mut depth) = (start, 0_usize);
            while let Some(next) = find(json, at, |byte| {
                matches!(byte, b'"' | b'{' | b'[' | b'}' | b']')
            }) {
                at = match json.get(next) {
                    Some(b'"') => string_end(json, next),
                    Some(b'{' | b'[') => {
                        depth += 1;
                        next + 1
                    }
                    _ => {
                        depth = depth.saturating_sub(1);
                        next + 1
                    }
                };
                if depth == 0 {
                    return at;
                }
            }
            json.len()
        }
        _ => find(json, start, |byte| {
            matches!(byte, b',' | b'}' | b']') || byte.is_ascii_whitespace()
        })
        .unwrap_or(json.len()),
    }
}

/// Decodes the escapes of a JSON string, if it is valid.
fn unescaped(name: &[u8]) -> Cow<'_, [u8]> {
    if !name.contains(&b'\\') {
        return Cow::Borrowed(name);
    }
    let quoted = [b"\"", name, b"\""].concat();
    let decoded = serde_json::from_slice::<String>(&quoted);
    decoded.map_or(Cow::Borrowed(name), |name| Cow::Owned(name.into_bytes()))
}

/// Returns the name of a part, by its header fields.
fn part_name(fields: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b" name=\"";

    let at = memmem::find(fields, NAME)? + NAME.len();
    let rest = fields.get(at..)?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    rest.get(..end)
}

#[cfg(test)]
mod tests {
    use hookward_core::secret::SecretDigest;
    use hookward_gate::policy::{Accept, ActiveSecret, Route, SignatureCheck, TokenCheck};

    use super::*;

    fn rules() -> Redaction {
        let mut gitlab = SignatureCheck::by("gitlab");
        gitlab.secrets.push(ActiveSecret {
            name: "env:S".to_owned(),
            secret: Secret::new(b"s3cr3t-value".to_vec()).unwrap(),
        });
        let mut route = Route::new("r", vec!["/**".to_owned()]);
        route.accept.push(Accept {
            token: Some(TokenCheck::created(&SecretDigest::of(b"x"))),
            verify: vec![gitlab],
            ..Accept::default()
        });
        Redaction::of(&Policy::new(vec![route]))
    }

    fn text(bytes: Cow<'_, [u8]>) -> String {
        String::from_utf8(bytes.into_owned()).unwrap()
    }

    #[test]
    fn fields_with_credentials_are_redacted() {
        let rules = rules();
        let header = |name: &'static str, value: &'static str| {
            text(rules.header(&HeaderName::from_static(name), value.as_bytes()))
        };
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-gitlab-token",
            "x-api-key",
            "x-webhook-secret",
            "x-auth-token",
        ] {
            assert_eq!(header(name, "abc"), REDACTED, "{name}");
        }
        assert_eq!(header("x-hub-signature-256", "sha256=00"), "sha256=00");
        assert_eq!(header("x-other", "a s3cr3t-value b"), "a [redacted] b");
    }

    #[test]
    fn queries_are_redacted() {
        let rules = rules();
        for (target, expected) in [
            ("/a?token=abc&b=1", "/a?token=%5Bredacted%5D&b=1"),
            ("/a?b=1&%74oken=abc", "/a?b=1&%74oken=%5Bredacted%5D"),
            (
                "/a?Access_Token=x&token=y",
                "/a?Access_Token=%5Bredacted%5D&token=%5Bredacted%5D",
            ),
            ("/token=abc", "/token=abc"),
            ("/a?b=s3cr3t-value", "/a?b=%5Bredacted%5D"),
        ] {
            assert_eq!(text(rules.target(target.as_bytes())), expected, "{target}");
        }
    }

    #[test]
    fn bodies_are_redacted() {
        let rules = rules();
        for (kind, body, expected) in [
            (
                "application/json",
                r#"{"a": "token", "token" : "a\"b", "n": {"api-key": 12, "p": [{"Password":{"x":["}"]}}]}}"#,
                r#"{"a": "token", "token" : "[redacted]", "n": {"api-key": "[redacted]", "p": [{"Password":"[redacted]"}]}}"#,
            ),
            (
                "",
                r#"{"tok\u0065n":"abc","x":1}"#,
                r#"{"tok\u0065n":"[redacted]","x":1}"#,
            ),
            (
                "application/json",
                r#"{"token":"cut o"#,
                r#"{"token":"[redacted]""#,
            ),
            (
                "application/json",
                r#"{"token":["#,
                r#"{"token":"[redacted]""#,
            ),
            (
                "application/x-www-form-urlencoded",
                "token=a&b=c",
                "token=%5Bredacted%5D&b=c",
            ),
            ("text/plain", "it is s3cr3t-value.", "it is [redacted]."),
            (
                "multipart/form-data; boundary=x",
                "--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nabc\r\n--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--x--\r\n",
                "--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n[redacted]\r\n--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--x--\r\n",
            ),
        ] {
            assert_eq!(text(rules.body(kind, body.as_bytes())), expected, "{body}");
        }
    }
}
