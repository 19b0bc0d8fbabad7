//! Signs a request as a provider would, for `hookward send`: the test of a webhook before the provider
//! sends one. Not for fixtures: those are signed by other programs.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use http::{HeaderMap, HeaderName, HeaderValue};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use super::key::{Key, Parts, SecretShape};
use super::message::Scene;
use super::place::{FieldName, Members, Place};
use super::scheme::{Algorithm, Encoding, KeyForm, Pick, Scheme, SchemeError, TimeUnit};
use super::template::Source;
use crate::clock::UnixMillis;
use crate::request::{Request, RequestHead};
use crate::secret::Secret;

/// Why a request can't be signed here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The secret or the scheme.
    #[error(transparent)]
    Scheme(#[from] SchemeError),
    /// The private key can't be read.
    #[error("the private key is no PKCS #8 key in PEM of this provider's algorithm")]
    PrivateKey,
    /// The signature stands where this command does not write.
    #[error(
        "this provider's signature stands at {0}, inside what is sent; this command writes headers and query parameters only"
    )]
    Place(String),
    /// The scheme is a token that only its issuer makes.
    #[error("this provider sends a JSON Web Token, which this command does not make")]
    Token,
    /// Something that is signed is not in the request.
    #[error("{0}")]
    Missing(String),
}

/// What signing adds to a request.
#[derive(Debug, Default)]
pub struct Signed {
    /// Header fields.
    pub headers: HeaderMap,
    /// A query parameter.
    pub query: Option<(String, String)>,
}

/// Signs a request by a scheme, at `now`. `id` stands for a delivery id where one is signed.
///
/// # Errors
/// [`SignError`].
pub fn sign(
    scheme: &Scheme,
    shape: &SecretShape,
    secret: &Secret,
    head: RequestHead<'_>,
    body: &[u8],
    now: UnixMillis,
    id: &str,
) -> Result<Signed, SignError> {
    scheme.check()?;
    if scheme.alg == Algorithm::Jwt {
        return Err(SignError::Token);
    }
    let parts = shape.split(secret)?;
    let mut headers = head.headers.clone();
    let mut added = HeaderMap::new();
    let mut add = |field: &FieldName, value: &str, headers: &mut HeaderMap| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(field.name().clone(), value.clone());
            added.insert(field.name().clone(), value);
        }
    };
    let unit = scheme.ts.as_ref().map_or(TimeUnit::Seconds, |ts| ts.unit);
    let ts = unit.write(now.seconds());
    // What is signed beside the body, and what the scheme asks for, must be there.
    for source in scheme.msg.sources() {
        if let Source::At(Place::Header(field)) = source
            && !headers.contains_key(field.name())
        {
            add(field, id, &mut headers);
        }
    }
    for required in &scheme.require {
        let text =
            required.begins.clone().or(required.contains.clone()).or(required.is.as_ref().map(ToString::to_string));
        if let (Place::Header(field), Some(text)) = (&required.at, text)
            && !headers.contains_key(field.name())
        {
            add(field, &text, &mut headers);
        }
    }
    if let Some(Place::Header(field)) = scheme.ts.as_ref().map(|ts| &ts.at) {
        add(field, &ts, &mut headers);
    }
    let request = Request { head: RequestHead { headers: &headers, ..head }, body };
    let members = Members(
        scheme
            .ts
            .iter()
            .filter_map(|ts_at| match &ts_at.at {
                Place::Member(key) => Some((Some(key.clone().into_bytes()), ts.clone().into_bytes())),
                _ => None,
            })
            .collect(),
    );
    let scene = Scene { request, members: &members, ts: Some(ts.as_bytes()), origin: head.origin };
    let message = scene.render(&scheme.msg, &parts).map_err(|fault| SignError::Missing(fault.to_string()))?;
    let signature = signature(scheme, &parts, &message, &ts)?;
    let value = written(scheme, &parts, &signature, &ts);
    match &scheme.sig.at {
        Place::Header(field) => {
            add(field, &value, &mut headers);
            Ok(Signed { headers: added, query: None })
        }
        Place::Numbered(stem) => {
            let name = HeaderName::from_bytes(format!("{}-1", stem.name()).as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
                added.insert(name, value);
            }
            Ok(Signed { headers: added, query: None })
        }
        Place::Query(name) => Ok(Signed { headers: added, query: Some((name.clone(), value)) }),
        other => Err(SignError::Place(other.to_string())),
    }
}

fn signature(scheme: &Scheme, parts: &Parts, message: &[impl AsRef<[u8]>], ts: &str) -> Result<Vec<u8>, SignError> {
    let secret = parts.get(scheme.part.as_deref()).ok_or(SignError::PrivateKey)?;
    if scheme.alg == Algorithm::Equals {
        return Ok(secret.expose().to_vec());
    }
    if scheme.alg.is_public() {
        let message = message.iter().flat_map(AsRef::as_ref).copied().collect::<Vec<u8>>();
        return by_private_key(scheme.alg, secret.expose(), &message).ok_or(SignError::PrivateKey);
    }
    let key = match scheme.key {
        KeyForm::TsUtf8 => Key::new(scheme, &[ts.as_bytes(), secret.expose()].concat())?,
        _ => Key::new(scheme, secret.expose())?,
    };
    key.sign(message).ok_or(SignError::PrivateKey)
}

fn by_private_key(alg: Algorithm, pem: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
    let der = key.secret_der();
    let random = SystemRandom::new();
    match alg {
        Algorithm::Ed25519 => Some(Ed25519KeyPair::from_pkcs8(der).ok()?.sign(message).as_ref().to_vec()),
        Algorithm::EcdsaP256Sha256 => {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).ok()?;
            Some(pair.sign(&random, message).ok()?.as_ref().to_vec())
        }
        Algorithm::RsaSha256 | Algorithm::RsaSha512 => {
            let pair = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der)).ok()?;
            let mut signature = vec![0; pair.public_modulus_len()];
            let padding = if alg == Algorithm::RsaSha256 { &RSA_PKCS1_SHA256 } else { &RSA_PKCS1_SHA512 };
            pair.sign(padding, &random, message, &mut signature).ok()?;
            Some(signature)
        }
        _ => None,
    }
}

/// The signature as the provider writes it, in its list if there is one.
fn written(scheme: &Scheme, parts: &Parts, signature: &[u8], ts: &str) -> String {
    let sig = &scheme.sig;
    let encoded = match sig.enc {
        Encoding::Hex => HEXLOWER.encode(signature),
        Encoding::Base64 => BASE64.encode(signature),
        Encoding::Base64url => BASE64URL_NOPAD.encode(signature),
        Encoding::Text => String::from_utf8_lossy(signature).into_owned(),
    };
    let value = format!("{}{encoded}", sig.prefix);
    let (split, kv) = (sig.split.as_deref().unwrap_or_default(), sig.kv.as_deref().unwrap_or_default());
    let in_list = |at: &Place| match at {
        Place::Member(key) => Some(format!("{key}{kv}{ts}{split}")),
        Place::Position(_) => Some(format!("{ts}{split}")),
        _ => None,
    };
    let before = scheme.ts.as_ref().and_then(|ts| in_list(&ts.at)).unwrap_or_default();
    match &sig.pick {
        Some(Pick::Key(key)) => format!("{before}{key}{kv}{value}"),
        Some(Pick::Part(part)) => {
            let key = parts.get(Some(part)).map(Secret::expose).unwrap_or_default();
            format!("{before}{}{kv}{value}", String::from_utf8_lossy(key))
        }
        _ => format!("{before}{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::{self, FetchedKeys, Keyed};
    use http::Method;
    use std::collections::BTreeMap;

    /// Secrets that have the forms of the catalogue's keys.
    fn secret_for(scheme: &Scheme, shape: &SecretShape) -> Secret {
        let text = |form: KeyForm| match form {
            KeyForm::Base64 | KeyForm::Whsec => "c2VjcmV0IG9mIHRoZSB0ZXN0",
            KeyForm::Hex => "736563726574",
            _ => "secret of the test",
        };
        let text = if shape.parts.is_empty() {
            text(scheme.key).to_owned()
        } else {
            let parts: BTreeMap<_, _> = shape.parts.keys().map(|name| (name.clone(), text(scheme.key))).collect();
            serde_json::to_string(&parts).unwrap()
        };
        Secret::new(text.into_bytes()).unwrap()
    }

    #[test]
    fn what_is_signed_here_is_verified_here() {
        let now = UnixMillis(1_700_000_000_000);
        let mut signed_rows = 0;
        for row in providers::all() {
            let scheme = row.scheme();
            if scheme.alg.is_public() {
                continue;
            }
            let secret = secret_for(scheme, &row.shape());
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("application/json"));
            let body = if scheme.msg.sources().any(|source| *source == Source::FormSorted) {
                &b""[..]
            } else {
                b"{\"webhookTimestamp\":1700000000000}"
            };
            let head = RequestHead {
                method: &Method::POST,
                target: b"/x?data.id=1",
                headers: &headers,
                origin: "https://h.example",
            };
            let signed = match sign(scheme, &row.shape(), &secret, head, body, now, "msg_1") {
                Ok(signed) => signed,
                Err(SignError::Token | SignError::Place(_) | SignError::Missing(_)) => continue,
                Err(error) => panic!("{}: {error}", row.id),
            };
            signed_rows += 1;
            let mut target = "/x?data.id=1".to_owned();
            if let Some((name, value)) = &signed.query {
                target.push_str(&format!("&{name}={value}"));
            }
            let mut sent = headers.clone();
            sent.extend(signed.headers);
            let head = RequestHead { target: target.as_bytes(), headers: &sent, ..head };
            let keyed = Keyed::new(std::slice::from_ref(scheme), &row.shape(), &[secret], None).unwrap();
            let verdict = keyed.verify(&Request { head, body }, &FetchedKeys::default(), now);
            assert!(verdict.is_ok(), "{}: {verdict:?}", row.id);
        }
        assert!(signed_rows > 200, "{signed_rows}");
    }
}
