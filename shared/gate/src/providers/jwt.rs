//! JSON Web Tokens (RFC 7519): a library verifies the signature; this module checks the claims,
//! with the gate's time and request.

use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;

use crate::inspection::Kind;
use crate::providers::error::SignatureError;
use crate::providers::jwt_key::JwtKey;
use crate::providers::key::SecretParts;
use crate::providers::scheme::{JwtAlgorithm, JwtRules};
use crate::providers::signing_input::SigningContext;
use hookward_core::clock::UnixMillis;

impl JwtKey {
    /// Returns the claims of a token that this key signed, and that has the required values.
    pub(crate) fn claims(
        &self,
        rules: &JwtRules,
        token: &[u8],
        scene: &SigningContext<'_, '_>,
        parts: &SecretParts,
        now: UnixMillis,
    ) -> Result<(), SignatureError> {
        let malformed = |what| SignatureError::Token(what);
        let header = jsonwebtoken::decode_header(token)
            .map_err(|_| malformed("it is not a JSON Web Token"))?;
        check_critical(token)?;

        let allowed: Vec<Algorithm> = rules.algs.iter().map(|alg| algorithm(*alg)).collect();
        if !allowed.contains(&header.alg) {
            return Err(malformed(
                "it is signed by another algorithm than this route's",
            ));
        }

        let key = self.decoding_key(header.kid.as_deref())?;

        let mut validation = Validation::new(header.alg);
        // Time and claims are checked below, with the gate's time and a reason.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();

        if let Some(inspection) = scene.request.inspection {
            let signed = if rules.detached {
                scene.request.body.len()
            } else {
                token.len()
            };
            inspection.work().spend(Kind::Hashed, signed)?;
        }

        let whole = if rules.detached {
            attached(token, scene.request.body)
        } else {
            Some(token.to_vec())
        };
        let whole = whole.ok_or(malformed("it holds a payload of its own"))?;
        let decoded = jsonwebtoken::decode::<Map<String, Value>>(whole, &key, &validation)
            .map_err(|_| SignatureError::Mismatch)?;
        check_time(rules, &decoded.claims, now)?;

        check_claims(rules, &decoded.claims, scene, parts)
    }
}

/// Rejects a token whose header requires an extension: none is supported (RFC 7515 §4.1.11), nor an
/// unencoded payload (`b64`, RFC 7797).
fn check_critical(token: &[u8]) -> Result<(), SignatureError> {
    let malformed = || SignatureError::Token("it is not a JSON Web Token");
    let header = token.split(|byte| *byte == b'.').next().unwrap_or_default();
    let header = BASE64URL_NOPAD.decode(header).map_err(|_| malformed())?;
    let header: Map<String, Value> = serde_json::from_slice(&header).map_err(|_| malformed())?;
    if header.contains_key("crit")
        || header
            .get("b64")
            .is_some_and(|value| *value != Value::Bool(true))
    {
        return Err(SignatureError::Token(
            "its header has a critical extension, which is not known here",
        ));
    }

    Ok(())
}

/// Returns the token with the body as its payload, or `None` if it has one already.
fn attached(token: &[u8], body: &[u8]) -> Option<Vec<u8>> {
    let mut parts = token.split(|byte| *byte == b'.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    let payload = payload.is_empty().then(|| BASE64URL_NOPAD.encode(body))?;
    Some([header, b".", payload.as_bytes(), b".", signature].concat())
}

fn check_time(
    rules: &JwtRules,
    claims: &Map<String, Value>,
    now: UnixMillis,
) -> Result<(), SignatureError> {
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        // RFC 7519 §2: seconds, possibly with a fraction.
        Some(value) => match value
            .as_u64()
            .or_else(|| value.as_f64().filter(|at| *at >= 0.0).map(|at| at as u64))
        {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(SignatureError::Token("one of its times is not a number")),
        },
    };

    let now = now.seconds();
    match time("exp")? {
        Some(at) if now >= at.saturating_add(rules.leeway) => {
            return Err(SignatureError::Expired(now - at));
        }
        None if rules.expires => {
            return Err(SignatureError::Token("it does not say when it expires"));
        }
        _ => {}
    }

    if let Some(at) = time("nbf")?.filter(|at| *at > now.saturating_add(rules.leeway)) {
        return Err(SignatureError::Future(at - now, rules.leeway));
    }

    let issued = time("iat")?;
    if let Some(at) = issued.filter(|at| *at > now.saturating_add(rules.leeway.max(60))) {
        return Err(SignatureError::Future(at - now, rules.leeway));
    }

    match (rules.max_age, issued) {
        (Some(_), None) => Err(SignatureError::Token("it does not say when it was issued")),
        (Some(most), Some(at)) if now.saturating_sub(at) > most.saturating_add(rules.leeway) => {
            Err(SignatureError::Stale(now.saturating_sub(at), most))
        }
        _ => Ok(()),
    }
}

fn check_claims(
    rules: &JwtRules,
    claims: &Map<String, Value>,
    scene: &SigningContext<'_, '_>,
    parts: &SecretParts,
) -> Result<(), SignatureError> {
    let text = |name: &str| claims.get(name).and_then(Value::as_str);
    if rules.iss.is_some() && text("iss") != rules.iss.as_deref() {
        return Err(SignatureError::Claim("iss".to_owned()));
    }

    if let Some(wanted) = &rules.aud {
        let listed = |value: &Value| match value {
            Value::Array(items) => items.iter().any(|item| item.as_str() == Some(wanted)),
            other => other.as_str() == Some(wanted),
        };
        if !claims.get("aud").is_some_and(listed) {
            return Err(SignatureError::Claim("aud".to_owned()));
        }
    }

    for (name, template) in &rules.claims {
        let empty_body = scene.request.body.is_empty() && rules.unless_empty.as_ref() == Some(name);
        if empty_body && !claims.contains_key(name) {
            continue;
        }

        let (_, wanted) = scene.message(template, parts)?;
        let wanted = wanted.concat(scene.request.body);
        let fits = match claims.get(name) {
            Some(Value::Array(values)) => values.iter().any(|claim| same(claim, &wanted)),
            Some(claim) => same(claim, &wanted),
            None => false,
        };
        if !fits {
            return Err(SignatureError::Claim(name.clone()));
        }
    }

    Ok(())
}

/// Returns `true` if a claim equals this text. Some libraries pad base64.
fn same(claim: &Value, wanted: &[u8]) -> bool {
    let claim = match claim {
        Value::String(text) => text.clone().into_bytes(),
        Value::Bool(value) => value.to_string().into_bytes(),
        Value::Number(number) => number.to_string().into_bytes(),
        _ => return false,
    };

    let trimmed = |bytes: &[u8]| {
        let end = bytes
            .iter()
            .rposition(|byte| *byte != b'=')
            .map_or(0, |last| last + 1);
        bytes.get(..end).unwrap_or_default().to_vec()
    };
    let (claim, wanted) = (trimmed(&claim), trimmed(wanted));
    !claim.is_empty() && bool::from(claim.ct_eq(&wanted))
}

pub(crate) const fn algorithm(alg: JwtAlgorithm) -> Algorithm {
    match alg {
        JwtAlgorithm::HS256 => Algorithm::HS256,
        JwtAlgorithm::HS384 => Algorithm::HS384,
        JwtAlgorithm::HS512 => Algorithm::HS512,
        JwtAlgorithm::RS256 => Algorithm::RS256,
        JwtAlgorithm::RS384 => Algorithm::RS384,
        JwtAlgorithm::RS512 => Algorithm::RS512,
        JwtAlgorithm::ES256 => Algorithm::ES256,
        JwtAlgorithm::ES384 => Algorithm::ES384,
        JwtAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}
