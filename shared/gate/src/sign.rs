//! Signing of a request as a provider does, for `hookward send`, to test a webhook before the
//! provider sends one. Not for fixtures, which other programs sign.

mod draft;
mod private_key;
mod token;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use http::{HeaderValue, header};
use serde_json::value::RawValue;

use crate::policy::SignatureCheck;
use crate::providers::SignatureError;
use crate::providers::canonical::plivo::PLIVO_NONCE;
use crate::providers::key::{SecretParts, SecretShape, VerifyingKey};
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::providers::scheme::{Algorithm, Encoding, KeyForm, Pick, Scheme, SchemeError, TimeUnit};
use crate::providers::signing_input::SigningContext;
use crate::providers::template::ValueSource;
use hookward_core::clock::UnixMillis;
use hookward_core::json::JsonError;
use hookward_core::reason::Reason;
use hookward_core::secret::Secret;

pub use draft::DraftRequest;
use private_key::Signer;

/// Failure to sign a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The secret or the scheme is unusable.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// The private key is unreadable.
    #[error("the private key is not a PKCS #8 key in PEM of this provider's algorithm")]
    PrivateKey,
    /// The algorithm is too old to sign with.
    #[error("this provider signs with RSA and SHA-1, which Hookward verifies and does not sign")]
    RsaSha1,
    /// The location does not accept a value.
    #[error("{0} can't be added to this request; is its body what this provider sends?")]
    Place(Reason),
    /// A signed value is missing from the request, or malformed.
    #[error("{0}; this provider signs it: add it to the URL, the header fields or the body")]
    Missing(String),
    /// The body is not the JSON that the provider signs.
    #[error("the body does not have this provider's form: {0}")]
    Body(#[from] JsonError),
}

/// Signs a request by a scheme, at `now`. Returns it with the signature and the other values that
/// the scheme reads. `id` is the delivery id or the nonce, if one is signed.
///
/// Replaces an existing time of signing by `now`. Adds a `Content-Type` if there is none.
///
/// # Errors
/// [`SignError`].
pub fn sign(
    scheme: &Scheme,
    shape: &SecretShape,
    secret: &Secret,
    mut draft: DraftRequest,
    now: UnixMillis,
    id: &str,
) -> Result<DraftRequest, SignError> {
    scheme.check()?;
    let parts = shape.split(secret)?;
    give_type(scheme, &mut draft);

    let Some(path) = &scheme.each else {
        return sign_one(scheme, &parts, draft, now, id);
    };
    // Each item of a batch is signed separately, and contains its signature.
    let whole = draft.clone();
    draft.body = path.edit(&whole.body, &mut |item| {
        let body = item.map_or(b"{}".to_vec(), |item| item.get().as_bytes().to_vec());
        let signed = sign_one(
            scheme,
            &parts,
            DraftRequest {
                body,
                ..whole.clone()
            },
            now,
            id,
        )?;
        let text = String::from_utf8(signed.body).map_err(|_| JsonError::NotJson)?;
        Ok::<_, SignError>(RawValue::from_string(text).map_err(|_| JsonError::NotJson)?)
    })?;

    Ok(draft)
}

/// Signs a request by the first scheme of a check that applies, with the check's first secret.
/// Returns `None` if the check has no secret, or its keys only verify.
///
/// # Errors
/// That of the first scheme, if none applies.
pub fn sign_by(
    check: &SignatureCheck,
    draft: &DraftRequest,
    now: UnixMillis,
    id: &str,
) -> Result<Option<DraftRequest>, SignError> {
    let Some(active) = check.secrets.first() else {
        return Ok(None);
    };
    let mut draft = draft.clone();
    if let Some(origin) = &check.origin {
        draft.origin.clone_from(origin);
    }

    let mut first = None;
    let schemes = check.schemes().unwrap_or_default();
    for scheme in schemes.iter().filter(|scheme| !scheme.only_verifies()) {
        match sign(
            scheme,
            &check.shape(),
            &active.secret,
            draft.clone(),
            now,
            id,
        ) {
            Ok(signed) => return Ok(Some(signed)),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    first.map_or(Ok(None), Err)
}

fn sign_one(
    scheme: &Scheme,
    parts: &SecretParts,
    mut draft: DraftRequest,
    now: UnixMillis,
    id: &str,
) -> Result<DraftRequest, SignError> {
    let unit = scheme.ts.as_ref().map_or(TimeUnit::Seconds, |ts| ts.unit);
    let ts = unit.write(now.seconds());
    let members = complete(scheme, parts, &mut draft, &ts, id)?;
    let value = {
        let request = draft.request();
        let scene = SigningContext {
            request,
            members: &members,
            ts: Some(ts.as_bytes()),
            origin: &draft.origin,
        };

        let signature = match &scheme.jwt {
            Some(rules) => token::token(scheme, rules, parts, &scene, now)?.into_bytes(),
            None => {
                let message = scene.render(&scheme.msg, parts).map_err(missing)?;
                signature(scheme, parts, &message.slices(request.body), &ts)?
            }
        };
        written(scheme, parts, &signature, members)
    };
    draft.put(&scheme.sig.at, &value)?;

    Ok(draft)
}

/// Adds the values that the scheme reads beside the signature: the time, ids, fixed texts. Returns
/// the members of the signature's list.
fn complete(
    scheme: &Scheme,
    parts: &SecretParts,
    draft: &mut DraftRequest,
    ts: &str,
    id: &str,
) -> Result<SignatureParams, SignError> {
    let mut members = SignatureParams::default();
    match scheme.ts.as_ref().map(|ts| &ts.at) {
        Some(ValueLocator::Member(key)) => {
            members.0.push((Some(key.clone().into_bytes()), ts.into()))
        }
        Some(ValueLocator::Position(_)) => members.0.push((None, ts.into())),
        Some(place) => draft.put(place, ts)?,
        None => {}
    }

    for required in scheme.require.iter().filter(|required| !required.absent) {
        if draft.at(&required.at)?.is_some() {
            continue;
        }

        let text = match &required.is {
            Some(template) => {
                let none = SignatureParams::default();
                let scene = SigningContext {
                    request: draft.request(),
                    members: &none,
                    ts: None,
                    origin: &draft.origin,
                };

                match scene.render(template, parts) {
                    Ok(text) => {
                        Some(String::from_utf8_lossy(&text.concat(&draft.body)).into_owned())
                    }
                    Err(SignatureError::NoPart(_)) => None,
                    Err(fault) => return Err(missing(fault)),
                }
            }
            None => [&required.begins, &required.contains, &required.lists]
                .into_iter()
                .flatten()
                .next()
                .cloned(),
        };
        if let Some(text) = text {
            draft.put(&required.at, &text)?;
        }
    }

    let claims = scheme.jwt.iter().flat_map(|rules| rules.claims.values());
    for source in std::iter::once(&scheme.msg)
        .chain(claims)
        .flat_map(|template| template.sources())
    {
        let place = match source {
            ValueSource::At(place) => place.clone(),
            ValueSource::Plivo => ValueLocator::parse(PLIVO_NONCE).map_err(SignError::Place)?,
            _ => continue,
        };

        match &place {
            ValueLocator::Member(key) => {
                let key = key.clone().into_bytes();
                if !members
                    .0
                    .iter()
                    .any(|(name, _)| name.as_ref() == Some(&key))
                {
                    members.0.push((Some(key), id.into()));
                }
            }
            // A header or a value of JSON may be anything; the caller provides a whole form or a
            // query.
            ValueLocator::Header(_) | ValueLocator::Json(_) if draft.at(&place)?.is_none() => {
                draft.put(&place, id)?
            }
            _ => {}
        }
    }

    // Another scheme of the provider applies to this request, or none.
    scheme
        .require
        .iter()
        .try_for_each(|required| required.holds(&draft.request(), parts, false))
        .map_err(missing)?;

    Ok(members)
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn missing(fault: SignatureError) -> SignError {
    SignError::Missing(fault.to_string())
}

/// Sets the media type of a body without one: a form if the provider sends forms, else JSON. Moves
/// JSON into a form field for a provider that sends it there.
fn give_type(scheme: &Scheme, draft: &mut DraftRequest) {
    if draft.headers.contains_key(header::CONTENT_TYPE) {
        return;
    }

    let is_json = draft.body.trim_ascii_start().starts_with(b"{")
        || draft.body.trim_ascii_start().starts_with(b"[");
    let read = scheme.msg.sources().filter_map(|source| match source {
        ValueSource::At(place) => Some(place),
        _ => None,
    });
    let field = read.chain([&scheme.sig.at]).find_map(|place| match place {
        ValueLocator::Form(name) | ValueLocator::FormJson(name, _) => Some(name),
        _ => None,
    });

    let whole = scheme
        .msg
        .sources()
        .any(|source| matches!(source, ValueSource::FormSorted | ValueSource::Plivo));
    let kind = match field {
        Some(name) => {
            if is_json {
                draft.wrap(name);
            }
            "application/x-www-form-urlencoded"
        }
        None if draft.body.is_empty() => return,
        None if whole && !is_json => "application/x-www-form-urlencoded",
        None => "application/json",
    };

    draft
        .headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
}

fn signature(
    scheme: &Scheme,
    parts: &SecretParts,
    message: &[impl AsRef<[u8]>],
    ts: &str,
) -> Result<Vec<u8>, SignError> {
    let secret = parts
        .get(scheme.part.as_deref())
        .ok_or(SignError::PrivateKey)?;

    if scheme.alg == Algorithm::Equals {
        return Ok(secret.expose().to_vec());
    }

    if scheme.alg.is_public() {
        let message = message
            .iter()
            .flat_map(AsRef::as_ref)
            .copied()
            .collect::<Vec<u8>>();

        return Signer::of(scheme.alg)?
            .sign(secret.expose(), &message)
            .ok_or(SignError::PrivateKey);
    }

    let key = match scheme.key {
        KeyForm::TsUtf8 => VerifyingKey::new(scheme, &[ts.as_bytes(), secret.expose()].concat())?,
        _ => VerifyingKey::new(scheme, secret.expose())?,
    };

    key.sign(message).ok_or(SignError::PrivateKey)
}

/// Returns the signature in the provider's format, in its list if there is one.
fn written(
    scheme: &Scheme,
    parts: &SecretParts,
    signature: &[u8],
    members: SignatureParams,
) -> String {
    let sig = &scheme.sig;
    let encoded = match sig.enc {
        Encoding::Hex => HEXLOWER.encode(signature),
        Encoding::Base64 => BASE64.encode(signature),
        Encoding::Base64url => BASE64URL_NOPAD.encode(signature),
        Encoding::Text => String::from_utf8_lossy(signature).into_owned(),
    };
    let value = format!("{}{encoded}", sig.prefix);
    let (split, kv) = (
        sig.split.as_deref().unwrap_or_default(),
        sig.kv.as_deref().unwrap_or_default(),
    );

    let key = match &sig.pick {
        Some(Pick::Key(key)) => Some(key.clone().into_bytes()),
        Some(Pick::Part(part)) => parts.get(Some(part)).map(|part| part.expose().to_vec()),
        _ => None,
    };

    let listed = members
        .0
        .into_iter()
        .chain([(key, value.into_bytes())])
        .map(|(key, value)| {
            let key = key
                .map(|key| String::from_utf8_lossy(&key).into_owned() + kv)
                .unwrap_or_default();
            key + &String::from_utf8_lossy(&value)
        });
    listed.collect::<Vec<_>>().join(split)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair,
    };
    use http::{HeaderMap, Method};
    use serde_json::json;

    use super::*;
    use crate::engine::{Evaluation, Gate, GateState, HeadVerdict, Side};
    use crate::inspection::Kind;
    use crate::policy::{Accept, ActiveSecret, Policy, Route, SignatureCheck};
    use crate::providers::scheme::{Coverage, JwtAlgorithm};
    use crate::providers::template::{Template, TemplatePart};
    use crate::providers::{self, Challenge, SignatureVerifier};
    use crate::request::RequestHead;
    use hookward_core::fetched_keys::FetchedKeys;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    /// A private key, with its public key in the forms of the catalog.
    struct Pair {
        private: String,
        spki: Vec<u8>,
        raw: Vec<u8>,
        jwk: serde_json::Value,
    }

    fn pem(label: &str, der: &[u8]) -> String {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            BASE64.encode(der)
        )
    }

    fn spki(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Vec<u8> {
        key.as_der().unwrap().as_ref().to_vec()
    }

    impl Pair {
        fn ed25519() -> Self {
            let pair = Ed25519KeyPair::generate().unwrap();
            let (private, raw) = (
                pair.to_pkcs8v1().unwrap(),
                pair.public_key().as_ref().to_vec(),
            );
            let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": BASE64URL_NOPAD.encode(&raw) });
            Self::new(private.as_ref(), spki(pair.public_key()), raw, jwk)
        }

        fn ecdsa() -> Self {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
            let (private, raw) = (
                pair.to_pkcs8v1().unwrap(),
                pair.public_key().as_ref().to_vec(),
            );

            // After the byte for an uncompressed point (SEC 1 §2.3.3).
            let (x, y) = raw[1..].split_at(32);
            let (x, y) = (BASE64URL_NOPAD.encode(x), BASE64URL_NOPAD.encode(y));
            let jwk = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
            Self::new(private.as_ref(), spki(pair.public_key()), raw, jwk)
        }

        fn rsa() -> Self {
            let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
            let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
            let public = pair.public_key();
            let n = BASE64URL_NOPAD.encode(public.modulus().big_endian_without_leading_zero());
            let e = BASE64URL_NOPAD.encode(public.exponent().big_endian_without_leading_zero());
            let jwk = json!({ "kty": "RSA", "n": n, "e": e });
            Self::new(private.as_ref(), spki(public), Vec::new(), jwk)
        }

        fn new(private: &[u8], spki: Vec<u8>, raw: Vec<u8>, jwk: serde_json::Value) -> Self {
            Self {
                private: pem("PRIVATE KEY", private),
                spki,
                raw,
                jwk,
            }
        }

        fn public(&self, form: KeyForm) -> String {
            match form {
                KeyForm::Pem => pem("PUBLIC KEY", &self.spki),
                KeyForm::SpkiBase64 => BASE64.encode(&self.spki),
                KeyForm::Whpk => format!("whpk_{}", BASE64.encode(&self.raw)),
                KeyForm::Base64 => BASE64.encode(&self.raw),
                KeyForm::Hex => HEXLOWER.encode(&self.raw),
                KeyForm::Jwks => json!({ "keys": [self.jwk] }).to_string(),
                other => panic!("{other:?} is not a form of public keys"),
            }
        }
    }

    struct Pairs {
        ed25519: Pair,
        ecdsa: Pair,
        rsa: Pair,
    }

    impl Pairs {
        /// Returns the keys that sign and verify by a scheme.
        fn of(&self, scheme: &Scheme) -> (String, String) {
            let jwt = scheme
                .jwt
                .iter()
                .flat_map(|rules| rules.algs.first())
                .next();
            let pair = match (scheme.alg, jwt) {
                (Algorithm::Ed25519, _) | (_, Some(JwtAlgorithm::EdDSA)) => &self.ed25519,
                (Algorithm::EcdsaP256Sha256, _) | (_, Some(JwtAlgorithm::ES256)) => &self.ecdsa,
                (Algorithm::RsaSha1 | Algorithm::RsaSha256 | Algorithm::RsaSha512, _) => &self.rsa,
                (_, Some(JwtAlgorithm::RS256 | JwtAlgorithm::RS512)) => &self.rsa,
                _ => {
                    let text = match scheme.key {
                        KeyForm::Base64 | KeyForm::Whsec => "c2VjcmV0IG9mIHRoZSB0ZXN0",
                        KeyForm::Hex => "736563726574",
                        _ => "secret of the test",
                    };
                    return (text.to_owned(), text.to_owned());
                }
            };
            (pair.private.clone(), pair.public(scheme.key))
        }
    }

    /// Returns the key as the secret of a row, with arbitrary other parts.
    fn secret(scheme: &Scheme, shape: &SecretShape, key: String) -> Secret {
        let text = if shape.parts.is_empty() {
            key
        } else {
            let name = scheme.part.clone().or_else(|| shape.plain.clone());
            let part = |part: &String| {
                let is_key = Some(part) == name.as_ref() || name.is_none();
                (
                    part.clone(),
                    if is_key {
                        key.clone()
                    } else {
                        "secret of the test".to_owned()
                    },
                )
            };
            serde_json::to_string(&shape.parts.keys().map(part).collect::<BTreeMap<_, _>>())
                .unwrap()
        };
        Secret::new(text.into_bytes()).unwrap()
    }

    /// Returns a body that the provider could send, if arbitrary JSON is not accepted.
    fn body(id: &str) -> &'static str {
        match id {
            "aws_sns" => {
                r#"{"Type":"Notification","Message":"m","MessageId":"i","Timestamp":"2026-01-02T03:04:05Z"}"#
            }
            "dropbox_sign" => r#"{"event":{"event_time":"1700000000","event_type":"signed"}}"#,
            "plivo" | "twilio" | "mandrill" => "b=2&a=1",
            _ => r#"{"a": 1}"#,
        }
    }

    #[test]
    fn what_is_signed_here_is_verified_here_by_every_way_of_every_provider() {
        let pairs = Pairs {
            ed25519: Pair::ed25519(),
            ecdsa: Pair::ecdsa(),
            rsa: Pair::rsa(),
        };

        let mut left = Vec::new();
        for row in providers::all() {
            let ways = row
                .schemes()
                .into_iter()
                .enumerate()
                .map(|(at, scheme)| (format!("{}#{at}", row.id), scheme));
            let variants = row
                .variants
                .iter()
                .map(|(name, scheme)| (format!("{}/{name}", row.id), scheme.clone()));
            for (name, scheme) in ways.chain(variants) {
                let (private, public) = pairs.of(&scheme);
                let draft = DraftRequest {
                    origin: "https://h.example".to_owned(),
                    target: "/x?data.id=1".to_owned(),
                    method: Method::POST,
                    headers: HeaderMap::new(),
                    body: body(&row.id).as_bytes().to_vec(),
                };

                let signed = match sign(
                    &scheme,
                    &row.shape(),
                    &secret(&scheme, &row.shape(), private),
                    draft,
                    NOW,
                    "msg_1",
                ) {
                    Ok(signed) => signed,
                    Err(SignError::RsaSha1) => {
                        left.push(name);
                        continue;
                    }
                    Err(error) => panic!("{name}: {error}"),
                };

                let secret = secret(&scheme, &row.shape(), public);
                let keyed = SignatureVerifier::new(
                    std::slice::from_ref(&scheme),
                    &row.shape(),
                    &[secret],
                    None,
                )
                .unwrap();
                let verdict = keyed.verify(&signed.request(), &FetchedKeys::default(), NOW);
                assert!(verdict.is_ok(), "{name}: {verdict:?} {signed:?}");
            }
        }

        assert_eq!(left, ["aws_sns#1", "travis#0"]);
    }

    /// Sets the location of a value of the signed text.
    fn put(
        scheme: &Scheme,
        draft: &mut DraftRequest,
        source: &ValueSource,
        before: &str,
        after: &str,
    ) -> Option<()> {
        match source {
            ValueSource::Body => draft.body = after.as_bytes().to_vec(),
            ValueSource::Url => draft.target = after.strip_prefix(&draft.origin)?.to_owned(),
            ValueSource::Target => after.clone_into(&mut draft.target),
            ValueSource::Timestamp => match &scheme.ts.as_ref()?.at {
                ValueLocator::Member(_) | ValueLocator::Position(_) => {
                    let ValueLocator::Header(field) = &scheme.sig.at else {
                        return None;
                    };
                    let list = draft
                        .headers
                        .get(field.name())?
                        .to_str()
                        .ok()?
                        .replacen(before, after, 1);
                    draft.put(&scheme.sig.at, &list).ok()?;
                }
                place => draft.put(place, after).ok()?,
            },
            ValueSource::At(place) => draft.put(place, after).ok()?,
            _ => return None,
        }

        Some(())
    }

    /// Returns requests with the same signed text, split at another place, whose bodies differ.
    fn other_cuts(
        scheme: &Scheme,
        parts: &SecretParts,
        signed: &DraftRequest,
    ) -> Vec<DraftRequest> {
        let members = SignatureParams::default();
        let ts = scheme
            .ts
            .as_ref()
            .map(|ts| ts.unit.write(NOW.seconds()))
            .unwrap_or_default();
        let request = signed.request();

        let scene = SigningContext {
            request,
            members: &members,
            ts: Some(ts.as_bytes()),
            origin: &signed.origin,
        };

        let text = |source: &ValueSource| {
            let template = Template::of(source.clone());
            let message = scene.render(&template, parts).ok()?;
            String::from_utf8(message.concat(&signed.body)).ok()
        };

        let mut cuts = Vec::new();
        let template = scheme.msg.parts();
        for (at, part) in template.iter().enumerate() {
            let (between, right) = match (template.get(at + 1), template.get(at + 2)) {
                (Some(TemplatePart::Value(right, _)), _) => ("", right),
                (Some(TemplatePart::Literal(text)), Some(TemplatePart::Value(right, _))) => {
                    (text.as_str(), right)
                }
                _ => continue,
            };

            let TemplatePart::Value(left, _) = part else {
                continue;
            };
            let (Some(first), Some(second)) = (text(left), text(right)) else {
                continue;
            };
            let whole = format!("{first}{between}{second}");
            for cut in (0..=whole.len()).filter(|cut| whole.is_char_boundary(*cut)) {
                let (head, tail) = whole.split_at(cut);
                let Some(tail) = tail.strip_prefix(between) else {
                    continue;
                };
                let mut other = signed.clone();
                let moved = put(scheme, &mut other, left, &first, head)
                    .and_then(|()| put(scheme, &mut other, right, &second, tail));
                if moved.is_some() && other.body != signed.body {
                    cuts.push(other);
                }
            }
        }

        cuts
    }

    /// Bodies that are hard to split: with times, separators, URLs and brackets in and around them.
    const BODIES: [&str; 8] = [
        r#"{"a":1}"#,
        r#"{"a":1,"b":{"a":999}}"#,
        r#"[{"u":"https://h.example/x?y","t":1700000000},{"n":"a.b:c|d;e"}]"#,
        r#"{"u":"https://h.example/x","v":"v0:1700000000:{}"}"#,
        "1700000000{\"a\":1}1700000000",
        "1700000000000",
        "a.1700000000.b:1700000000:c|1700000000|d",
        "?x=1{\"a\":1}",
    ];

    #[test]
    fn where_the_whole_body_is_signed_no_other_cut_verifies() {
        let pairs = Pairs {
            ed25519: Pair::ed25519(),
            ecdsa: Pair::ecdsa(),
            rsa: Pair::rsa(),
        };

        let mut tried = BTreeMap::new();
        for row in providers::all() {
            for scheme in row
                .schemes()
                .into_iter()
                .chain(row.variants.values().cloned())
            {
                if scheme.coverage() != Coverage::Body || scheme.alg == Algorithm::RsaSha1 {
                    continue;
                }

                let (private, public) = pairs.of(&scheme);
                let shape = row.shape();
                let (private, public) = (
                    secret(&scheme, &shape, private),
                    secret(&scheme, &shape, public),
                );
                let keyed =
                    SignatureVerifier::new(std::slice::from_ref(&scheme), &shape, &[public], None)
                        .unwrap()
                        .of_provider(row);

                for (body, target) in BODIES
                    .iter()
                    .flat_map(|body| ["/x?data.id=1", "/x"].map(|target| (body, target)))
                {
                    let draft = DraftRequest {
                        origin: "https://h.example".to_owned(),
                        target: target.to_owned(),
                        method: Method::POST,
                        headers: HeaderMap::new(),
                        body: body.as_bytes().to_vec(),
                    };
                    let Ok(signed) = sign(&scheme, &shape, &private, draft, NOW, "msg_1") else {
                        continue;
                    };

                    // Some providers send only JSON, so nothing else is accepted.
                    if keyed
                        .verify(&signed.request(), &FetchedKeys::default(), NOW)
                        .is_err()
                    {
                        continue;
                    }

                    for other in other_cuts(&scheme, &shape.split(&private).unwrap(), &signed) {
                        *tried.entry(row.id.as_str()).or_insert(0) += 1;
                        let verdict = keyed.verify(&other.request(), &FetchedKeys::default(), NOW);
                        assert!(
                            verdict.is_err(),
                            "{}: {} {:?}",
                            row.id,
                            other.target,
                            other.body
                        );
                    }
                }
            }
        }

        // The providers that the test is about were tried.
        for id in [
            "sourcehut",
            "square",
            "hubspot_v3",
            "trello",
            "airwallex",
            "discord",
            "quicknode",
            "bamboohr",
            "klaviyo",
        ] {
            assert!(
                tried.get(id).is_some_and(|count| *count >= 4),
                "{id}: {tried:?}"
            );
        }
    }

    /// Returns bodies of this size that are hard to parse: many names, long names, depth, folding
    /// letters, numbers.
    fn hostile_bodies(length: usize) -> Vec<(&'static str, Vec<u8>)> {
        let filled = |begin: &str, piece: &str, end: &str| {
            [begin, &piece.repeat(length / piece.len()), end]
                .concat()
                .into_bytes()
        };

        let sns = r#"{"Type":"Notification","SignatureVersion":"2","Signature":"AAAA","TopicArn":"arn","SigningCertURL":"https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-a.pem","Message":"m","MessageId":"i","Timestamp":"t","#;
        vec![
            ("small names", filled("{", r#""a":0,"#, r#""b":0}"#)),
            ("one long name", filled(r#"{""#, "a", r#"":0}"#)),
            ("names that fold", filled("{", "\"\u{e9}\":0,", r#""b":0}"#)),
            (
                "names that fold, of a provider",
                filled(sns, "\"\u{131}d\":0,", r#""b":0}"#),
            ),
            ("escaped names", filled("{", r#""\u0061":0,"#, r#""b":0}"#)),
            (
                "duplicates of what is read",
                filled("{", r#""id":"x","data":{"id":1},"#, r#""b":0}"#),
            ),
            (
                "depth",
                [vec![b'['; length / 2], vec![b']'; length / 2]].concat(),
            ),
            ("depth by objects", filled("", r#"{"a":"#, "")),
            ("a large number", filled("[", "9", "]")),
            ("many numbers", filled("[", "1e999,", "0]")),
            ("items", filled("[", r#"{"id":1},"#, "{}]")),
            ("a form", filled("", "a=1&", "b=2")),
            ("escapes of a form", filled("payload=", "%7B", "")),
            (
                "parts of a form",
                filled(
                    "",
                    "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n",
                    "--b--\r\n",
                ),
            ),
        ]
    }

    /// The cost of any request is a few times its length, for every provider: each body is parsed
    /// once as JSON or as a form, and hashed once for each key and text.
    #[test]
    fn hostile_bodies_cost_a_few_times_their_length() {
        const LENGTH: usize = 24 * 1024;
        /// Number of times that a signed text may contain the same text, and hash it before.
        const HASHED: u64 = 3;
        const PARSED: u64 = 2;
        const RENDERED: u64 = 2;
        /// Maximum cost of the rest of a request: its head.
        const HEAD: u64 = 8 * 1024;

        let pairs = Pairs {
            ed25519: Pair::ed25519(),
            ecdsa: Pair::ecdsa(),
            rsa: Pair::rsa(),
        };

        let (state, client) = (GateState::default(), "192.0.2.1".parse().unwrap());
        let mut read = 0;

        for row in providers::all() {
            for scheme in row.schemes() {
                let (private, public) = pairs.of(&scheme);
                let shape = row.shape();
                let (private, public) = (
                    secret(&scheme, &shape, private),
                    secret(&scheme, &shape, public),
                );

                let check = SignatureCheck {
                    secrets: vec![ActiveSecret {
                        name: "env:S".to_owned(),
                        secret: public,
                    }],
                    challenge: row
                        .challenges
                        .iter()
                        .any(|challenge| challenge.pair.is_none()),
                    ..SignatureCheck::by(&row.id)
                };

                let mut route = Route::new("r", vec!["/**".to_owned()]);
                route.accept.push(Accept {
                    verify: vec![check],
                    ..Accept::default()
                });

                // If the schemes of a row need keys of different kinds, each gets its own.
                let Ok(gate) = Gate::compile(&Policy::new(vec![route]), Side::Relay, NOW) else {
                    continue;
                };
                let gate = Arc::new(gate);

                let draft = DraftRequest {
                    origin: "https://h.example".to_owned(),
                    target: "/x?data.id=1".to_owned(),
                    method: Method::POST,
                    headers: HeaderMap::new(),
                    body: body(&row.id).as_bytes().to_vec(),
                };
                let Ok(signed) = sign(&scheme, &shape, &private, draft, NOW, "msg_1") else {
                    continue;
                };

                for (kind, hostile) in hostile_bodies(LENGTH) {
                    let mut headers = signed.headers.clone();
                    let media = match kind {
                        "a form" | "escapes of a form" => "application/x-www-form-urlencoded",
                        "parts of a form" => "multipart/form-data; boundary=b",
                        _ => "application/json",
                    };
                    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));

                    let DraftRequest {
                        method,
                        target,
                        origin,
                        ..
                    } = &signed;

                    let head = RequestHead {
                        method,
                        target: target.as_bytes(),
                        headers: &headers,
                        origin,
                    };

                    let Ok(HeadVerdict::ReadBody(pending)) =
                        gate.check_head(head, Evaluation::new(client, NOW, &state))
                    else {
                        continue;
                    };

                    read += 1;
                    let work = pending.work();
                    let _ =
                        pending.check_body(head, &hostile, Evaluation::new(client, NOW, &state));
                    let used =
                        [Kind::Parsed, Kind::Hashed, Kind::Rendered].map(|kind| work.used(kind));
                    let most =
                        [PARSED, HASHED, RENDERED].map(|times| times * hostile.len() as u64 + HEAD);
                    assert!(
                        used.iter().zip(most).all(|(used, most)| *used <= most),
                        "{} {kind}: {used:?}",
                        row.id
                    );
                }
            }
        }

        assert!(read > 1000, "{read}");
    }

    proptest::proptest! {
        /// A text that a challenge signs for anyone is no event, in any scheme of its provider.
        #[test]
        fn what_challenges_sign_is_no_event(seed in "[A-Za-z0-9._~+/=-]{1,130}", hex in "[0-9a-f]{1,40}") {
            for row in providers::all().iter().filter(|row| row.challenges.iter().any(Challenge::signs)) {
                let shape = row.shape();
                for scheme in row.schemes().into_iter().chain(row.variants.values().cloned()) {
                    let secret = secret(&scheme, &shape, "secret of the test".to_owned());
                    let keyed = SignatureVerifier::new(std::slice::from_ref(&scheme), &shape, std::slice::from_ref(&secret), None);
                    let keyed = keyed.unwrap().of_provider(row);
                    for text in [&seed, &hex] {
                        let draft = DraftRequest {
                            origin: "https://h.example".to_owned(),
                            target: "/x".to_owned(),
                            method: Method::POST,
                            headers: HeaderMap::new(),
                            body: text.clone().into_bytes(),
                        };
                        let mut events = vec![draft.clone()];
                        for source in scheme.msg.sources() {
                            if let ValueSource::At(place @ ValueLocator::Form(_)) = source {
                                let mut form = draft.clone();
                                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                                form.headers.insert(header::CONTENT_TYPE, kind);
                                form.body.clear();
                                form.put(place, text).unwrap();
                                events.push(form);
                            }
                        }
                        for event in events {
                            let Ok(signed) = sign(&scheme, &shape, &secret, event, NOW, "msg_1") else { continue };
                            let ts = scheme.ts.as_ref().map(|ts| ts.unit.write(NOW.seconds())).unwrap_or_default();
                            let members = SignatureParams::default();
                            let request = signed.request();
                            let scene = SigningContext { request, members: &members, ts: Some(ts.as_bytes()), origin: &signed.origin };
                            let Ok(message) = scene.render(&scheme.msg, &shape.split(&secret).unwrap()) else { continue };
                            let message = message.concat(&signed.body);
                            let guards = row.challenges.iter().filter(|challenge| challenge.signs());
                            let admitted = guards.clone().any(|challenge| challenge.guard.admits(&message));
                            let verdict = keyed.verify(&request, &FetchedKeys::default(), NOW);
                            proptest::prop_assert!(!admitted || verdict.is_err(), "{}: {text}", row.id);
                        }
                    }
                }
            }
        }
    }
}
