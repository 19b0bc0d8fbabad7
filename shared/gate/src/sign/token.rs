//! Creation of the JSON Web Token that a provider would send (RFC 7519).

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::EncodingKey;
use serde_json::{Map, Value, json};

use crate::providers::jwt::algorithm;
use crate::providers::key::{SecretParts, decoded};
use crate::providers::locator::ValueLocator;
use crate::providers::scheme::{JwtAlgorithm, JwtRules, Scheme};
use crate::providers::signing_input::SigningContext;
use crate::sign::SignError;
use crate::sign::private_key::Signer;
use hookward_core::clock::UnixMillis;

/// Creates the token for a request, at `now`.
pub(crate) fn token(
    scheme: &Scheme,
    rules: &JwtRules,
    parts: &SecretParts,
    scene: &SigningContext<'_, '_>,
    now: UnixMillis,
) -> Result<String, SignError> {
    let secret = parts
        .get(scheme.part.as_deref())
        .ok_or(SignError::PrivateKey)?
        .expose();
    let body = scene.request.body;

    let payload = if rules.detached {
        serde_json::from_slice::<Map<String, Value>>(body).map_err(|_| {
            SignError::Missing("this provider's body is a JSON object; it".to_owned())
        })?;
        BASE64URL_NOPAD.encode(body)
    } else {
        let mut claims = claims(rules, parts, scene, now)?;
        if scheme.sig.at == ValueLocator::Body {
            // Wix: the body is the token, and its claim `data` has the event.
            claims.insert("data".to_owned(), String::from_utf8_lossy(body).into());
        }
        BASE64URL_NOPAD.encode(Value::Object(claims).to_string().as_bytes())
    };

    // Of several algorithms, the one of the private key.
    let signed = rules.algs.iter().find_map(|alg| {
        let header = json!({ "alg": alg, "typ": "JWT" }).to_string();
        let header = BASE64URL_NOPAD.encode(header.as_bytes());
        let signature = signature(
            scheme,
            *alg,
            secret,
            format!("{header}.{payload}").as_bytes(),
        )?;
        let payload = if rules.detached { "" } else { &payload };
        Some(format!("{header}.{payload}.{signature}"))
    });
    signed.ok_or(SignError::PrivateKey)
}

fn claims(
    rules: &JwtRules,
    parts: &SecretParts,
    scene: &SigningContext<'_, '_>,
    now: UnixMillis,
) -> Result<Map<String, Value>, SignError> {
    let mut claims = Map::new();
    claims.insert("iat".to_owned(), now.seconds().into());
    claims.insert("exp".to_owned(), now.seconds().saturating_add(LIFE).into());

    for (name, text) in [("iss", &rules.iss), ("aud", &rules.aud)] {
        if let Some(text) = text {
            claims.insert(name.to_owned(), text.clone().into());
        }
    }

    for (name, template) in &rules.claims {
        if scene.request.body.is_empty() && rules.unless_empty.as_ref() == Some(name) {
            continue;
        }

        let text = scene
            .render(template, parts)
            .map_err(|fault| SignError::Missing(fault.to_string()))?
            .concat(scene.request.body);
        let value = match text.as_slice() {
            b"true" => Value::Bool(true),
            b"false" => Value::Bool(false),
            text => String::from_utf8_lossy(text).into(),
        };
        claims.insert(name.clone(), value);
    }

    Ok(claims)
}

/// Lifetime of a token, in seconds; the tolerance of other signatures.
const LIFE: u64 = 300;

fn signature(scheme: &Scheme, alg: JwtAlgorithm, secret: &[u8], message: &[u8]) -> Option<String> {
    match Signer::of_token(alg) {
        Some(signer) => Some(BASE64URL_NOPAD.encode(&signer.sign(secret, message)?)),
        None => {
            let key = EncodingKey::from_secret(&decoded(scheme.key, secret).ok()?);
            jsonwebtoken::crypto::sign(message, &key, algorithm(alg)).ok()
        }
    }
}
