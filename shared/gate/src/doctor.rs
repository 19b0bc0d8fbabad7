//! The signature doctor: on a mismatch it tries what would have been right, and says so to the
//! tunnel's owner. Never to the sender. Its work is counted in bytes, and ends with its bound.

use std::borrow::Cow;
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use http::header;
use subtle::ConstantTimeEq as _;

use crate::inspection::{Inspection, Kind, Work};
use crate::policy::{ActiveSecret, SignatureCheck};
use crate::providers::SignatureError;
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::providers::scheme::{KeyForm, Scheme};
use crate::providers::verifier::SignatureVerifier;
use crate::providers::{Provider, SecretShape};
use crate::request::{Request, RequestHead};
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::limits::DOCTOR_BYTES;
use hookward_core::secret::Secret;
use hookward_core::secret::oddities::{from_utf16, oddities, unquoted};
use hookward_core::text::Escaped;

/// Larger bodies are not tried at all: each try hashes all of it.
const BODY_BYTES: usize = 256 * 1024;
/// Minimum cost of a try in bytes: it makes a key.
const ATTEMPT_BYTES: usize = 1024;
/// Other providers that are tried.
const MAX_PROVIDERS: usize = 8;

/// Finds causes of a wrong signature. Returns none if the signature is right, or no cause was
/// found.
#[must_use]
pub(crate) fn diagnose(
    check: &SignatureCheck,
    request: &Request<'_>,
    fetched: &FetchedKeys,
    others: &[ActiveSecret],
    now: UnixMillis,
) -> Vec<String> {
    if request.body.len() > BODY_BYTES {
        return Vec::new();
    }

    let (Ok(schemes), shape) = (check.schemes(), check.shape()) else {
        return Vec::new();
    };
    let secrets: Vec<Secret> = check
        .secrets
        .iter()
        .map(|live| live.secret.clone())
        .collect();
    let Ok(keyed) = check.verifier(&schemes, &secrets) else {
        return Vec::new();
    };
    let Err(fault) = keyed.verify(request, fetched, now) else {
        return Vec::new();
    };

    let work = request.inspection.map_or_else(
        || Work::up_to(DOCTOR_BYTES),
        |inspection| Arc::clone(inspection.work()),
    );
    let mut doctor = Doctor {
        check,
        schemes: &schemes,
        shape: &shape,
        secrets: &secrets,
        fetched,
        now,
        work,
        found: Vec::new(),
    };

    match fault {
        SignatureError::Missing(_) | SignatureError::Required(_) => {
            doctor.weaker_header(request);
            doctor.other_provider(request);
        }
        SignatureError::Malformed(..) => doctor.other_provider(request),
        SignatureError::OtherToken => {
            doctor.secrets(request, others);
            if doctor.found.is_empty() {
                doctor.token(request);
                doctor.other_provider(request);
            }
        }
        SignatureError::Stale(..) | SignatureError::Future(..) => doctor.clock(&keyed, request),
        SignatureError::Mismatch => {
            doctor.secrets(request, others);
            doctor.body(request);
            doctor.url(request);
            doctor.clock(&keyed, request);
            doctor.compressed(request);

            if doctor.found.is_empty() {
                doctor.other_provider(request);
                doctor.odd_secrets();
            }
        }
        _ => {}
    }

    doctor.found
}

struct Doctor<'d> {
    check: &'d SignatureCheck,
    schemes: &'d [Scheme],
    shape: &'d SecretShape,
    secrets: &'d [Secret],
    fetched: &'d FetchedKeys,
    now: UnixMillis,
    work: Arc<Work>,
    found: Vec<String>,
}

impl Doctor<'_> {
    /// Returns `true` if the request is right with these schemes and secrets.
    fn fits(
        &self,
        schemes: &[Scheme],
        shape: &SecretShape,
        secrets: &[Secret],
        request: &Request<'_>,
    ) -> bool {
        self.fits_at(schemes, shape, secrets, self.check.origin.clone(), request)
    }

    /// Like [`Self::fits`], with another URL.
    fn fits_at(
        &self,
        schemes: &[Scheme],
        shape: &SecretShape,
        secrets: &[Secret],
        origin: Option<String>,
        request: &Request<'_>,
    ) -> bool {
        let keyed = SignatureVerifier::new(schemes, shape, secrets, origin);
        keyed.is_ok_and(|keyed| self.verifies(&keyed, request, self.now))
    }

    /// Returns `true` if it is right at that time, and work is left.
    fn verifies(&self, keyed: &SignatureVerifier, request: &Request<'_>, at: UnixMillis) -> bool {
        // A body counts as read also where nothing of it is hashed, so that every try counts.
        if self
            .work
            .spend(Kind::Parsed, request.body.len() + ATTEMPT_BYTES)
            .is_err()
        {
            return false;
        }

        let inspection = Inspection::new(Arc::default(), Arc::clone(&self.work));
        keyed
            .verify(&request.inspected(&inspection), self.fetched, at)
            .is_ok()
    }

    fn say(&mut self, what: impl Into<String>) {
        self.found.push(what.into());
    }

    /// The secret as somebody else may have copied or read it, and the secrets of other checks.
    fn secrets(&mut self, request: &Request<'_>, others: &[ActiveSecret]) {
        let (schemes, shape) = (self.schemes, self.shape);
        for secret in self.secrets {
            for (text, what) in respelled(secret.expose()) {
                let Some(secret) = Secret::new(text) else {
                    continue;
                };
                if self.fits(schemes, shape, &[secret], request) {
                    self.say(format!("it would be right with the secret {what}"));
                    return;
                }
            }

            for (form, what) in [
                (KeyForm::Utf8, "used as it is"),
                (KeyForm::Base64, "decoded as base64"),
                (KeyForm::Hex, "decoded as hex"),
                (KeyForm::Whsec, "without whsec_, decoded as base64"),
            ] {
                let others: Vec<Scheme> = schemes
                    .iter()
                    .filter(|scheme| scheme.key != form)
                    .map(|scheme| Scheme {
                        key: form,
                        ..scheme.clone()
                    })
                    .collect();
                if !others.is_empty()
                    && self.fits(&others, shape, std::slice::from_ref(secret), request)
                {
                    self.say(format!("it would be right with the secret {what}"));
                    return;
                }
            }
        }

        for other in others {
            let own = self
                .check
                .secrets
                .iter()
                .any(|live| live.name == other.name);
            if !own && self.fits(schemes, shape, std::slice::from_ref(&other.secret), request) {
                self.say(format!(
                    "it is signed with another secret of this policy, {}",
                    other.name
                ));
                return;
            }
        }
    }

    /// The body as something on the way may have written it anew.
    fn body(&mut self, request: &Request<'_>) {
        let (schemes, shape, secrets) = (self.schemes, self.shape, self.secrets);
        for (body, what) in rewritten(request.body) {
            if self.fits(schemes, shape, secrets, &Request::new(request.head, &body)) {
                self.say(format!(
                    "it would be right for the body {what}: something between the provider and here changed it"
                ));
                return;
            }
        }
    }

    /// The URL as the provider may know it, behind a proxy or under another name.
    fn url(&mut self, request: &Request<'_>) {
        if !self.schemes.iter().any(Scheme::signs_url) {
            return;
        }

        let origin = self.check.origin.as_deref().unwrap_or(request.head.origin);
        let named = |name: &header::HeaderName| {
            request
                .head
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let host = named(&header::HOST).map(|host| format!("https://{host}"));

        let (_, authority) = origin.split_once("://").unwrap_or(("", origin));
        let bare = authority.split(':').next().unwrap_or_default();
        let mut origins = vec![
            (format!("http://{authority}"), "http instead of https"),
            (format!("https://{bare}"), "without the port"),
            (format!("https://{bare}:443"), "with the port 443"),
            (format!("http://{bare}"), "http, without the port"),
        ];
        origins.extend(host.map(|host| (host, "the host of the request")));

        let target = request.head.target;
        let (path, query) = target.split_at(request.head.path().len());
        let slashed = match path.strip_suffix(b"/") {
            Some(path) => [path, query].concat(),
            None => [path, b"/", query].concat(),
        };
        let (schemes, shape, secrets) = (self.schemes, self.shape, self.secrets);

        for (other, what) in &origins {
            if self.fits_at(schemes, shape, secrets, Some(other.clone()), request) {
                let then = if other.starts_with("http:") {
                    "register the URL with https at the provider".to_owned()
                } else {
                    format!("the policy says origin = \"{other}\" where the provider knows it so")
                };
                self.say(format!("it would be right for another URL: {what}; {then}"));
                return;
            }
        }

        let head = RequestHead {
            target: &slashed,
            ..request.head
        };
        if self.fits(schemes, shape, secrets, &Request::new(head, request.body)) {
            self.say("it would be right for the URL with one slash more or less at its end: register exactly the URL that is sent to");
        }
    }

    /// Tests if only the time is wrong.
    fn clock(&mut self, keyed: &SignatureVerifier, request: &Request<'_>) {
        for scheme in self.schemes {
            let Some(ts) = scheme.ts.as_ref().filter(|ts| ts.tolerance.is_some()) else {
                continue;
            };
            let text = match &ts.at {
                ValueLocator::Member(key) => member_of(scheme, request, key),
                place => place
                    .read(request, &SignatureParams::default())
                    .ok()
                    .flatten()
                    .map(Cow::into_owned),
            };
            let at = text
                .and_then(|text| String::from_utf8(text).ok())
                .and_then(|text| ts.unit.seconds(&text));

            let Some(at) = at else { continue };
            if self.verifies(keyed, request, UnixMillis(at.saturating_mul(1000))) {
                let now = self.now.seconds();
                self.say(if at > now {
                    let ahead = at - now;
                    format!(
                        "only the time is wrong: it lies in the future, this clock is {ahead} s behind the provider's; check \
                         the clocks of both sides"
                    )
                } else {
                    format!(
                        "only the time is wrong: by it, this clock is {} s ahead of the provider's, or the request is that old",
                        now - at
                    )
                });

                return;
            }
        }
    }

    /// A legacy header with a weaker signature, which is not accepted beside the strong one.
    fn weaker_header(&mut self, request: &Request<'_>) {
        let has = |name: &str| request.head.headers.contains_key(name);
        let wants = |name: &str| {
            self.schemes
                .iter()
                .any(|scheme| matches!(&scheme.sig.at, ValueLocator::Header(field) if field.name().as_str() == name))
        };
        if wants("x-hub-signature-256") && has("x-hub-signature") {
            self.say("only the old header X-Hub-Signature (SHA-1) was sent; set the secret at the provider again, so that it sends X-Hub-Signature-256");
        }
    }

    /// A token as it was meant, with what stands in front of it.
    fn token(&mut self, request: &Request<'_>) {
        let secrets: Vec<_> = self
            .secrets
            .iter()
            .map(|secret| secret.expose().to_vec())
            .collect();

        for scheme in self.schemes {
            let sent = scheme
                .sig
                .at
                .read(request, &SignatureParams::default())
                .ok()
                .flatten();
            let Some(sent) = sent.and_then(|sent| String::from_utf8(sent.into_owned()).ok()) else {
                continue;
            };
            let Some((word, rest)) = sent.split_once(' ') else {
                continue;
            };
            let plain = word.len() <= 16 && word.bytes().all(|byte| byte.is_ascii_alphabetic());

            if plain
                && secrets
                    .iter()
                    .any(|secret| bool::from(secret.ct_eq(rest.as_bytes())))
            {
                self.say(format!(
                    "the sender writes {word:?} in front of the token; configure the token with it"
                ));
                return;
            }
        }
    }

    /// A body that the provider packed after it had signed it, or before.
    fn compressed(&mut self, request: &Request<'_>) {
        let coding = request
            .head
            .headers
            .get(header::CONTENT_ENCODING)
            .and_then(|value| value.to_str().ok());
        let name = self.check.title();

        if let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
            let coding = Escaped(coding.as_bytes());
            self.say(format!(
                "the body is packed ({coding}) and is checked as it was sent; {name} may sign the unpacked body, which is \
                 not made here: turn compression off at the provider"
            ));
        }
    }

    /// Oddities of a secret, when nothing else was found.
    fn odd_secrets(&mut self) {
        let live = &self.check.secrets;
        let found: Vec<_> = live
            .iter()
            .flat_map(|live| {
                oddities(live.secret.expose())
                    .into_iter()
                    .map(|what| format!("{} {what}", live.name))
            })
            .collect();
        self.found.extend(found);
    }

    fn other_provider(&mut self, request: &Request<'_>) {
        let present = |scheme: &Scheme| match &scheme.sig.at {
            ValueLocator::Header(field) => {
                field.name() != header::AUTHORIZATION
                    && request.head.headers.contains_key(field.name())
            }
            _ => false,
        };

        let own = self.check.row().map(|row| row.id.as_str());
        let rows: Vec<&Provider> = crate::providers::all()
            .iter()
            .filter(|row| Some(row.id.as_str()) != own && present(row.scheme()))
            .collect();
        let secrets = self.secrets;

        for row in rows.iter().take(MAX_PROVIDERS) {
            if self.fits(&row.schemes(), &row.shape(), secrets, request) {
                self.say(format!(
                    "it would be right as {}: write provider = \"{}\"",
                    row.name, row.id
                ));
                return;
            }
        }

        if let [row] = rows.as_slice()
            && self.found.is_empty()
        {
            self.say(format!(
                "it carries the header of {}: is {} the provider?",
                row.name, row.id
            ));
        }
    }
}

/// A member of a signature's list.
fn member_of(scheme: &Scheme, request: &Request<'_>, key: &str) -> Option<Vec<u8>> {
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

/// A secret in other spellings, with words for each.
fn respelled(secret: &[u8]) -> Vec<(Vec<u8>, &'static str)> {
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

/// A body in other spellings, with words for each.
fn rewritten(body: &[u8]) -> Vec<(Vec<u8>, &'static str)> {
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

/// JSON with other spaces between its tokens.
fn respaced(json: &[u8], comma: &str, colon: &str) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, Method};

    use crate::sign::{DraftRequest, sign};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn draft(origin: &str, body: &[u8]) -> DraftRequest {
        let (target, headers) = ("/x".to_owned(), HeaderMap::new());
        DraftRequest {
            origin: origin.to_owned(),
            target,
            method: Method::POST,
            headers,
            body: body.to_vec(),
        }
    }

    /// What the doctor says when a provider signs this body with this secret, and that one arrives.
    fn say(
        provider: &str,
        signed_with: &[u8],
        here: &[u8],
        signed: &[u8],
        arrived: &[u8],
    ) -> String {
        let row = crate::providers::find(provider).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("inner:8080"));

        let secret = Secret::new(signed_with.to_vec()).unwrap();
        let draft = DraftRequest {
            headers,
            ..draft("https://h.example", signed)
        };
        let made = sign(row.scheme(), &row.shape(), &secret, draft, NOW, "id").unwrap();
        let Request { head, .. } = made.request();
        let live = ActiveSecret {
            name: "env:A".into(),
            secret: Secret::new(here.to_vec()).unwrap(),
        };

        let check = SignatureCheck {
            secrets: vec![live],
            ..SignatureCheck::by(provider)
        };

        diagnose(
            &check,
            &Request::new(head, arrived),
            &FetchedKeys::default(),
            &[],
            NOW,
        )
        .join("; ")
    }

    #[test]
    fn what_is_wrong_with_the_secret() {
        for (signed_with, here, expected) in [
            (&b"key\n"[..], &b"key"[..], "a newline behind it"),
            (b"key", b"a2V5", "decoded as base64"),
            (b"key", b"6b6579", "decoded as hex"),
            (b"key", b" key", "without the space"),
            (b"key", b"\"key\"", "without the quotes"),
            (b"key", b"\xef\xbb\xbfkey", "byte order mark"),
            (b"key", b"\xff\xfek\0e\0y\0\r\0\n\0", "UTF-16"),
            (
                b"key",
                b"ghp_0123456789abcdefghijklmnopqrstuvwxyz",
                "an API key",
            ),
        ] {
            let said = say("github", signed_with, here, b"{}", b"{}");
            assert!(said.contains(expected), "{said}");
        }

        assert_eq!(
            say("github", b"key", b"key", b"{}", b"{}"),
            "",
            "a right one needs no doctor"
        );
    }

    #[test]
    fn what_was_done_to_the_body() {
        for (signed, arrived, expected) in [
            (
                &b"{\"a\": 1, \"b\": \"x, y: \\\"z\"}"[..],
                &b"{\"a\":1,\"b\":\"x, y: \\\"z\"}"[..],
                "with a space",
            ),
            (b"{\"a\":1}", b"{\n  \"a\": 1\n}", "without spaces"),
            (b"{\"a\":1}\n", b"{\"a\":1}", "with a newline"),
            (b"{\"a\":1}", b"{\"a\":1}\r\n", "without the newline"),
            (
                b"{\"a\":\"\\u00e9\"}",
                "{\"a\":\"é\"}".as_bytes(),
                "escaped",
            ),
        ] {
            let said = say("github", b"key", b"key", signed, arrived);
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn which_provider_url_and_time_it_is() {
        let row = |provider: &str| crate::providers::find(provider).unwrap();
        let secret = Secret::new(b"key".to_vec()).unwrap();
        let judged = |check: &str, signer: &str, origin: &str, signed_at: UnixMillis| {
            let (scheme, shape) = (row(signer).scheme(), row(signer).shape());
            let made = sign(
                scheme,
                &shape,
                &secret,
                draft(origin, b"{}"),
                signed_at,
                "id",
            )
            .unwrap();

            let head = RequestHead {
                origin: "https://h.example",
                ..made.request().head
            };
            let live = ActiveSecret {
                name: "env:A".into(),
                secret: secret.clone(),
            };
            let check = SignatureCheck {
                secrets: vec![live],
                ..SignatureCheck::by(check)
            };

            diagnose(
                &check,
                &Request::new(head, b"{}"),
                &FetchedKeys::default(),
                &[],
                NOW,
            )
            .join("; ")
        };
        let said = judged("github", "slack", "https://h.example", NOW);

        assert!(said.contains("provider = \"slack\""), "{said}");
        let said = judged("square", "square", "http://h.example", NOW);
        assert!(said.contains("http instead of https"), "{said}");

        let said = judged(
            "slack",
            "slack",
            "https://h.example",
            UnixMillis(NOW.0 - 3_600_000),
        );
        assert!(said.contains("3600 s ahead"), "{said}");

        let mut headers = HeaderMap::new();
        headers.insert("x-hub-signature", HeaderValue::from_static("sha1=00"));
        let head = RequestHead {
            method: &Method::POST,
            target: b"/x",
            headers: &headers,
            origin: "https://h.example",
        };

        let live = ActiveSecret {
            name: "env:A".into(),
            secret,
        };
        let check = SignatureCheck {
            secrets: vec![live],
            ..SignatureCheck::by("github")
        };

        let said = diagnose(
            &check,
            &Request::new(head, b""),
            &FetchedKeys::default(),
            &[],
            NOW,
        )
        .join("; ");
        assert!(said.contains("SHA-1"), "{said}");
    }

    #[test]
    fn another_secret_of_the_policy() {
        let live = |name: &str, key: &[u8]| ActiveSecret {
            name: name.into(),
            secret: Secret::new(key.to_vec()).unwrap(),
        };
        let row = crate::providers::find("github").unwrap();
        let secret = live("", b"other").secret;

        let made = sign(
            row.scheme(),
            &row.shape(),
            &secret,
            draft("", b"{}"),
            NOW,
            "id",
        )
        .unwrap();

        let check = SignatureCheck {
            secrets: vec![live("env:A", b"key")],
            ..SignatureCheck::by("github")
        };
        let others = [live("env:A", b"key"), live("env:B", b"other")];

        let said = diagnose(
            &check,
            &made.request(),
            &FetchedKeys::default(),
            &others,
            NOW,
        )
        .join("; ");
        assert!(said.contains("env:B"), "{said}");
    }
}
