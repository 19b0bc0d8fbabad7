//! Redaction of requests that people see, or that are written.
//!
//! Redacted are values whose name says that they are secret ([`is_secret_name`]), the locations that
//! the policy's checks read a secret from, and, wherever they occur: the policy's signing secrets,
//! its tokens (by their digests), and values that were redacted in the same request.
//!
//! Names are found in header fields, queries, forms, multipart bodies (RFC 7578) and JSON, also JSON
//! within a form or a string. Other formats are searched for known secrets only.

mod scan;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

use data_encoding::BASE64;
use hookward_core::secret::names::is_secret_name;
use hookward_core::secret::{Secret, SecretDigest};
use http::HeaderName;
use memchr::memmem;

use crate::engine::explain::{CheckStep, Explanation};
use crate::policy::Policy;
use crate::providers::ValueLocator;

/// Text in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// [`REDACTED`] in a query or a form.
pub const REDACTED_ESCAPED: &str = "%5Bredacted%5D";

/// Minimum length of a secret that is searched for, in bytes: shorter ones occur by chance.
const SEARCHED_BYTES: usize = 6;

/// Lengths of a token that is searched for by its digest, in bytes.
const TOKEN_BYTES: Range<usize> = 16..257;

/// Maximum number of redacted values of one request that are searched for in other texts.
const REMEMBERED: usize = 32;

/// Rules of redaction for one tunnel.
pub struct Redaction {
    /// Names of header fields.
    headers: BTreeSet<String>,
    /// Names in queries and forms, in lower case.
    fields: BTreeSet<String>,
    /// Names in JSON, in lower case.
    members: BTreeSet<String>,
    /// Secrets of the policy, in all their forms.
    secrets: Vec<Secret>,
    tokens: Vec<SecretDigest>,
}

impl Redaction {
    /// Returns the rules for a policy, and for further names in lower case.
    pub fn of(policy: &Policy, names: &[String]) -> Self {
        let signing = policy.signing_secrets().flat_map(parts);
        let allowed = policy
            .secret_values()
            .into_iter()
            .filter_map(|value| Secret::new(value.into_bytes()));
        let long = |secret: &Secret| secret.expose().len() >= SEARCHED_BYTES;
        let mut rules = Self {
            headers: names.iter().cloned().collect(),
            fields: names.iter().cloned().collect(),
            members: names.iter().cloned().collect(),
            secrets: signing
                .chain(allowed)
                .filter(long)
                .flat_map(|secret| forms(&secret))
                .collect(),
            tokens: policy.token_digests(),
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
                self.fields.insert(name.to_ascii_lowercase());
            }
            ValueLocator::Json(path) | ValueLocator::FormJson(_, path) => {
                let path = path.to_string();
                let last = path.rsplit('.').next().unwrap_or_default();
                let name = last.split('[').next().unwrap_or_default();
                self.members.insert(name.to_ascii_lowercase());
            }
            ValueLocator::Body | ValueLocator::Member(_) | ValueLocator::Position(_) => {}
        }
    }

    /// Returns a collector for one request.
    pub fn redacted(&self) -> Redacted<'_> {
        Redacted::with_secrets(self, Vec::new())
    }

    fn is_field(&self, name: &[u8]) -> bool {
        is_secret_name(name) || self.fields.contains(&lower(name))
    }

    fn is_member(&self, name: &[u8]) -> bool {
        is_secret_name(name) || self.members.contains(&lower(name))
    }

    /// Removes the policy's secrets and tokens.
    fn without_known<'t>(&self, text: Cow<'t, [u8]>, by: &str) -> Cow<'t, [u8]> {
        let secrets = self.secrets.iter();
        let text = secrets.fold(text, |text, secret| without(text, secret.expose(), by));
        if self.tokens.is_empty() {
            return text;
        }
        let found = scan::runs(&text, TOKEN_BYTES).filter(|run| {
            let digest = SecretDigest::of(text.get(run.clone()).unwrap_or_default());
            self.tokens.contains(&digest)
        });
        let found: Vec<_> = found.map(|run| (run, by.as_bytes().to_vec())).collect();
        match found.is_empty() {
            true => text,
            false => Cow::Owned(replaced(&text, &found)),
        }
    }
}

fn lower(name: &[u8]) -> String {
    String::from_utf8_lossy(name).to_ascii_lowercase()
}

/// Redaction of one request: remembers what it has redacted, because other texts may repeat it.
pub struct Redacted<'r> {
    rules: &'r Redaction,
    /// Values that were redacted.
    secrets: Vec<Vec<u8>>,
}

impl<'r> Redacted<'r> {
    /// Continues with the values that were redacted before.
    pub fn with_secrets(rules: &'r Redaction, secrets: Vec<Vec<u8>>) -> Self {
        Self { rules, secrets }
    }

    /// Returns the values that were redacted.
    pub fn into_secrets(self) -> Vec<Vec<u8>> {
        self.secrets
    }

    fn remember(&mut self, value: &[u8]) {
        if value.len() >= SEARCHED_BYTES && self.secrets.len() < REMEMBERED {
            self.secrets.push(value.to_vec());
        }
    }

    /// Replaces these ranges of a text, and remembers what was there.
    fn replace<'t>(
        &mut self,
        text: &'t [u8],
        found: Vec<(Range<usize>, Vec<u8>)>,
    ) -> Cow<'t, [u8]> {
        let found = merged(found);
        for (range, _) in &found {
            let value = text.get(range.clone()).unwrap_or_default();
            let value = value.strip_prefix(b"\"").unwrap_or(value);
            self.remember(value.strip_suffix(b"\"").unwrap_or(value));
        }
        match found.is_empty() {
            true => Cow::Borrowed(text),
            false => Cow::Owned(replaced(text, &found)),
        }
    }

    /// Returns the value of a header field, or [`REDACTED`].
    pub fn header<'v>(&mut self, name: &HeaderName, value: &'v [u8]) -> Cow<'v, [u8]> {
        let numbered = name.as_str().rsplit_once('-').map_or("", |(stem, _)| stem);
        let is_secret = is_secret_name(name.as_str().as_bytes())
            || self.rules.headers.contains(name.as_str())
            || self.rules.headers.contains(numbered)
            || is_credential(value);
        if is_secret {
            self.remember(value);
            return Cow::Borrowed(REDACTED.as_bytes());
        }

        // A URL, as in Referer and Location.
        if memmem::find(value, b"://").is_some() || value.contains(&b'?') {
            return self.target(value);
        }
        self.without_known(Cow::Borrowed(value), REDACTED)
    }

    /// Returns a target whose query has no secrets.
    pub fn target<'t>(&mut self, target: &'t [u8]) -> Cow<'t, [u8]> {
        let query = target.iter().position(|byte| matches!(byte, b'?' | b'#'));
        let before = target.get(..query.unwrap_or(target.len()));
        let mut found = Vec::from_iter(scan::user_info(before.unwrap_or_default()));
        if let Some(at) = query {
            found.extend(scan::pairs(self.rules, target, at + 1, &scan::URL));
        }
        let redacted = self.replace(target, found);
        self.without_known(redacted, REDACTED_ESCAPED)
    }

    /// Returns a body without secrets. `kind` is its media type. A body that `is_cut`
    /// may end within a secret.
    pub fn body<'b>(&mut self, kind: &str, body: &'b [u8], is_cut: bool) -> Cow<'b, [u8]> {
        let found = scan::body(self.rules, kind, body);
        let redacted = self.replace(body, found);
        let redacted = self.without_known(redacted, REDACTED);
        match is_cut {
            true => self.without_cut_secret(redacted),
            false => redacted,
        }
    }

    /// Returns a text that may repeat what was redacted.
    pub fn text(&self, text: &str) -> String {
        let text = self.without_known(Cow::Borrowed(text.as_bytes()), REDACTED);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Returns an explanation whose texts do not repeat what was redacted.
    pub fn explanation(&self, explained: Explanation) -> Explanation {
        let texts = |texts: Vec<String>| texts.iter().map(|text| self.text(text)).collect();
        let step = |step: CheckStep| CheckStep {
            reason: self.text(&step.reason),
            ..step
        };
        Explanation {
            reason: self.text(&explained.reason),
            hints: texts(explained.hints),
            notes: texts(explained.notes),
            checks: explained.checks.into_iter().map(step).collect(),
            ..explained
        }
    }

    fn without_known<'t>(&self, text: Cow<'t, [u8]>, by: &str) -> Cow<'t, [u8]> {
        let text = self.rules.without_known(text, by);
        let secrets = self.secrets.iter();
        secrets.fold(text, |text, secret| without(text, secret, by))
    }

    /// Removes the beginning of a policy's secret at the end of a body that was cut off.
    fn without_cut_secret<'t>(&self, body: Cow<'t, [u8]>) -> Cow<'t, [u8]> {
        let cut = self.rules.secrets.iter().filter_map(|secret| {
            let secret = secret.expose();
            let mut lengths = (SEARCHED_BYTES..secret.len()).rev();
            lengths.find(|length| body.ends_with(secret.get(..*length).unwrap_or_default()))
        });
        match cut.max() {
            Some(length) => {
                let mut body = body.into_owned();
                body.truncate(body.len() - length);
                Cow::Owned(body)
            }
            None => body,
        }
    }
}

/// Returns these ranges in order. Those that overlap become one, which hides both.
fn merged(mut ranges: Vec<(Range<usize>, Vec<u8>)>) -> Vec<(Range<usize>, Vec<u8>)> {
    ranges.sort_by_key(|(range, _)| range.start);
    let mut merged: Vec<(Range<usize>, Vec<u8>)> = Vec::with_capacity(ranges.len());
    for (range, by) in ranges {
        match merged.last_mut() {
            Some((last, last_by)) if range.start < last.end => {
                if range.end > last.end {
                    // The replacement of one would leave a part of the other.
                    last.end = range.end;
                    *last_by = REDACTED.as_bytes().to_vec();
                }
            }
            _ => merged.push((range, by)),
        }
    }
    merged
}

/// Returns the text with these ranges, which are in order, replaced.
fn replaced(text: &[u8], ranges: &[(Range<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut left = Vec::with_capacity(text.len());
    let mut at = 0;
    for (range, by) in ranges {
        left.extend_from_slice(text.get(at..range.start).unwrap_or_default());
        left.extend_from_slice(by);
        at = range.end;
    }
    left.extend_from_slice(text.get(at..).unwrap_or_default());
    left
}

/// Returns the text without a secret.
fn without<'t>(text: Cow<'t, [u8]>, secret: &[u8], by: &str) -> Cow<'t, [u8]> {
    // Most header fields are shorter; a search has a cost before its first byte.
    if text.len() < secret.len() {
        return text;
    }

    let found = memmem::find_iter(&text, secret);
    let found: Vec<_> = found
        .map(|at| (at..at + secret.len(), by.as_bytes().to_vec()))
        .collect();
    match found.is_empty() {
        true => text,
        false => Cow::Owned(replaced(&text, &found)),
    }
}

/// Returns a secret and, if it is a JSON object of parts, each part.
fn parts(secret: &Secret) -> Vec<Secret> {
    let object =
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(secret.expose());
    let parts = object
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(_, part)| {
            let text = part.as_str()?.as_bytes().to_vec();
            Secret::new(text)
        });
    parts.chain([secret.clone()]).collect()
}

/// Returns every form in which a text may carry a secret: as it is, escaped for a URL and for JSON, and
/// in Base64.
fn forms(secret: &Secret) -> Vec<Secret> {
    let bytes = secret.expose();
    let json = std::str::from_utf8(bytes).ok();
    let json = json.and_then(|text| serde_json::to_string(text).ok());
    let json = json.map(|quoted| quoted.trim_matches('"').to_owned());
    // Some encoders escape slashes (RFC 8259 §7 allows it).
    let slashed = json.as_ref().map(|json| json.replace('/', "\\/"));
    let forms = [
        Some(bytes.to_vec()),
        Some(escaped(bytes).into_bytes()),
        json.map(String::into_bytes),
        slashed.map(String::into_bytes),
        Some(BASE64.encode(bytes).into_bytes()),
    ];
    let mut forms: Vec<_> = forms.into_iter().flatten().collect();
    forms.sort();
    forms.dedup();
    forms.into_iter().filter_map(Secret::new).collect()
}

/// Returns `true` for the value of a field that has credentials under any name (RFC 9110 §11.4).
fn is_credential(value: &[u8]) -> bool {
    let starts = |scheme: &[u8]| {
        let start = value.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    starts(b"bearer ") || starts(b"basic ")
}

/// Escapes a value of a form.
fn escaped(value: &[u8]) -> String {
    let letters = value.iter().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
            char::from(*byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use crate::policy::{Accept, ActiveSecret, HeaderRule, Route, SignatureCheck, TokenCheck};

    use super::*;

    const TOKEN: &str = "a-minted-token-of-the-tunnel";

    fn rules() -> Redaction {
        let check = |provider: &str, secret: &str| {
            let mut check = SignatureCheck::by(provider);
            check.secrets.push(ActiveSecret {
                name: "env:S".to_owned(),
                secret: Secret::new(secret.as_bytes().to_vec()).unwrap(),
            });
            check
        };
        let mut route = Route::new("r", vec!["/**".to_owned()]);
        route.accept.push(Accept {
            token: Some(TokenCheck::created(&SecretDigest::of(TOKEN.as_bytes()))),
            verify: vec![
                check("gitlab", "s3cr3t-value"),
                check("facebook_messenger", r#"{"app_secret":"part-of-a-secret"}"#),
            ],
            headers: vec![HeaderRule {
                name: HeaderName::from_static("x-api-key"),
                allowed: vec!["allowed-by-the-policy".to_owned()],
            }],
            ..Accept::default()
        });
        Redaction::of(&Policy::new(vec![route]), &["customer".to_owned()])
    }

    fn text(bytes: Cow<'_, [u8]>) -> String {
        String::from_utf8(bytes.into_owned()).unwrap()
    }

    #[test]
    fn fields_with_credentials_are_redacted() {
        let rules = rules();
        let header = |name: &'static str, value: &'static str| {
            let name = HeaderName::from_static(name);
            text(rules.redacted().header(&name, value.as_bytes()))
        };
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-gitlab-token",
            "x-api-key",
            "x-webhook-secret",
            "x-auth",
            "x-session-id",
            "customer",
        ] {
            assert_eq!(header(name, "abc"), REDACTED, "{name}");
        }
        assert_eq!(header("x-custom", "Bearer abc"), REDACTED);
        assert_eq!(header("x-hub-signature-256", "sha256=00"), "sha256=00");
        assert_eq!(header("x-other", "a s3cr3t-value b"), "a [redacted] b");
        assert_eq!(
            header("x-other", "czNjcjN0LXZhbHVl"),
            "[redacted]",
            "in Base64"
        );
        assert_eq!(header("x-other", "part-of-a-secret"), "[redacted]");
        assert_eq!(
            header("referer", "https://x/y?token=abc&z=1"),
            "https://x/y?token=%5Bredacted%5D&z=1"
        );
        assert_eq!(
            header("x-other", "in a-minted-token-of-the-tunnel."),
            "in [redacted]."
        );
    }

    #[test]
    fn queries_are_redacted() {
        let rules = rules();
        for (target, expected) in [
            ("/a?token=abc&b=1", "/a?token=%5Bredacted%5D&b=1"),
            ("/a?b=1&%74oken=abc", "/a?b=1&%74oken=%5Bredacted%5D"),
            (
                "/a?user[password]=x&X-Amz-Security-Token=y",
                "/a?user[password]=%5Bredacted%5D&X-Amz-Security-Token=%5Bredacted%5D",
            ),
            ("/token=abc", "/token=abc"),
            ("/a?b=s3cr3t-value", "/a?b=%5Bredacted%5D"),
            ("/a?token=abc?def&b=1", "/a?token=%5Bredacted%5D&b=1"),
            (
                "/cb?token=ab&url=http://x.example&email=joe@b.c",
                "/cb?token=%5Bredacted%5D&url=http://x.example&email=joe@b.c",
            ),
            (
                "https://u:pw@h/cb?a=1?token=x#access_token=y",
                "https://%5Bredacted%5D@h/cb?a=1?token=%5Bredacted%5D#access_token=%5Bredacted%5D",
            ),
            (
                "/s3cr3t-value/a-minted-token-of-the-tunnel",
                "/%5Bredacted%5D/%5Bredacted%5D",
            ),
        ] {
            assert_eq!(
                text(rules.redacted().target(target.as_bytes())),
                expected,
                "{target}"
            );
        }
    }

    #[test]
    fn bodies_are_redacted() {
        const FORM: &str = "application/x-www-form-urlencoded";
        const PARTS: &str = "multipart/form-data; boundary=x";

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
                "application/json",
                r#"{"text":"{\"token\":\"abc\",\"a\":1}"}"#,
                r#"{"text":"{\"token\":\"[redacted]\",\"a\":1}"}"#,
            ),
            (
                "application/json",
                r#"{"aws_secret_access_key":"a","next":"b"}"#,
                r#"{"aws_secret_access_key":"[redacted]","next":"b"}"#,
            ),
            (FORM, "token=a&b=c", "token=%5Bredacted%5D&b=c"),
            (
                FORM,
                "payload=%7B%22token%22%3A%22abc%22%7D&x=1",
                "payload=%7B%22token%22%3A%22%5Bredacted%5D%22%7D&x=1",
            ),
            (
                "text/plain",
                "password=abc&b=1",
                "password=%5Bredacted%5D&b=1",
            ),
            ("text/plain", "it is s3cr3t-value.", "it is [redacted]."),
            (
                PARTS,
                "--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\nabc\r\n--x\r\nContent-Disposition: form-data; name=a\r\n\r\n{\"token\":\"b\"}\r\n--x--\r\n",
                "--x\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\n[redacted]\r\n--x\r\nContent-Disposition: form-data; name=a\r\n\r\n{\"token\":\"[redacted]\"}\r\n--x--\r\n",
            ),
            (
                "multipart/form-data; boundary=\"X\"",
                "password=p\r\n--X\r\nContent-Disposition: form-data; x=\"name=z\"; name=\"password\"\r\n\r\nabc\r\n--X\r\nContent-Disposition: form-data; name=payload\r\n\r\na=1&token=b\r\n--X--\r\n",
                "password=%5Bredacted%5D--X\r\nContent-Disposition: form-data; x=\"name=z\"; name=\"password\"\r\n\r\n[redacted]\r\n--X\r\nContent-Disposition: form-data; name=payload\r\n\r\na=1&token=%5Bredacted%5D\r\n--X--\r\n",
            ),
            // The delimiter begins a line, and each name counts.
            (
                "multipart/form-data; boundary=x",
                "--x\r\nX: \"\r\nContent-Type: text/plain; name=f\r\nContent-Disposition: form-data; filename=\"a\\\"b\"; name=\"password\"\r\n\r\nabc--xdef\r\n--x--",
                "--x\r\nX: \"\r\nContent-Type: text/plain; name=f\r\nContent-Disposition: form-data; filename=\"a\\\"b\"; name=\"password\"\r\n\r\n[redacted]\r\n--x--",
            ),
            (
                PARTS,
                "--x\n\n{\"x\":\"token=abc\",\"password\":\"p&q\"}\n--x\n\nx={\"password\":\"ab&cd\"}\n--x--",
                "--x\n\n{\"x\":\"token=abc\",\"password\":\"[redacted]\"}\n--x\n\nx=[redacted]}\n--x--",
            ),
            // Without a delimiter.
            (PARTS, "\n", "\n"),
            (PARTS, "\r\n\r\ntoken=a", "\r\n\r\ntoken=%5Bredacted%5D"),
            (PARTS, "--", "--"),
            (
                "text/plain",
                "x&token=1&{\"password\":\"abc\"}",
                "x&token=%5Bredacted%5D&{\"password\":\"[redacted]\"}",
            ),
            (
                PARTS,
                "--x\nContent-Disposition: form-data;NAME=secret\n\nabc\n--x--\n",
                "--x\nContent-Disposition: form-data;NAME=secret\n\n[redacted]\n--x--\n",
            ),
        ] {
            let shown = text(rules.redacted().body(kind, body.as_bytes(), false));
            assert_eq!(shown, expected, "{body}");
        }
    }

    #[test]
    fn a_secret_at_the_cut_is_removed() {
        let rules = rules();
        let shown = text(rules.redacted().body("text/plain", b"it is s3cr3t-v", true));
        assert_eq!(shown, "it is ");
    }

    #[test]
    fn other_texts_do_not_repeat_what_was_redacted() {
        let rules = rules();
        let mut redacted = rules.redacted();
        redacted.header(
            &HeaderName::from_static("x-auth-token"),
            b"sent-by-the-sender",
        );
        let reason = "x-auth-token is sent-by-the-sender, and not allowed-by-the-policy";
        assert_eq!(
            redacted.text(reason),
            "x-auth-token is [redacted], and not [redacted]"
        );
    }

    /// Malformed bodies and URLs end, and keep no secret of the policy.
    #[test]
    fn every_input_is_read_to_its_end() {
        const PIECES: [&str; 22] = [
            "--x",
            "--",
            "x",
            "\r\n",
            "\n",
            "=",
            "&",
            ";",
            "?",
            "#",
            "\"",
            "\\",
            "{",
            "}",
            "[",
            ":",
            "://",
            "@",
            "name=",
            "token",
            "%",
            "s3cr3t-value",
        ];
        let kinds = [
            "",
            "multipart/a",
            "multipart/a; boundary=x",
            "application/json",
        ];
        let rules = rules();
        // A linear congruential generator (Numerical Recipes): the same inputs in each run.
        let mut state = 7_u32;
        let mut next = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as usize / 65_536 % below
        };
        for _ in 0..20_000 {
            let length = next(24);
            let input: String = (0..length).map(|_| PIECES[next(PIECES.len())]).collect();
            let kind = kinds[next(kinds.len())];
            let body = text(rules.redacted().body(kind, input.as_bytes(), false));
            let target = text(rules.redacted().target(input.as_bytes()));
            for shown in [body, target] {
                assert!(
                    !shown.contains("s3cr3t-value"),
                    "{kind}: {input:?}: {shown:?}"
                );
            }
        }
    }

    /// A stranger chooses the target: its cost grows with its length, and not with the square.
    #[test]
    fn a_long_target_is_read_once() {
        let rules = rules();
        for pair in ["a=?", "a={?", "a=1&", "payload={\"x\":1}?"] {
            let target = format!("/a?{}token=abc", pair.repeat(50_000));
            let shown = text(rules.redacted().target(target.as_bytes()));
            assert!(shown.ends_with("token=%5Bredacted%5D"), "{pair}");
        }
    }

    /// As for a target: the whole of a body that the inspector keeps.
    #[test]
    fn a_long_body_is_read_once() {
        const LENGTH: usize = 256 * 1024;
        let kinds = [
            "",
            "multipart/a; boundary=x",
            "application/x-www-form-urlencoded",
        ];
        let rules = rules();
        for piece in [
            "\"",
            "\\\"",
            "{\"a\":",
            "\"token\":[",
            "--x\n\n",
            "--x",
            "name=\"",
            "a={&",
            "[",
            "\"\\\"{",
        ] {
            let body = piece.repeat(LENGTH / piece.len());
            for kind in kinds {
                let shown = rules.redacted().body(kind, body.as_bytes(), true);
                assert!(!shown.is_empty(), "{kind}: {piece}");
            }
        }
    }
}
