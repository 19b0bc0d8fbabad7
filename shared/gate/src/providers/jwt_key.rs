//! Keys of JSON Web Tokens (RFC 7519).

use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::JwkSet;

use crate::providers::error::SignatureError;
use crate::providers::scheme::{JwtAlgorithm, JwtRules, KeyForm, SchemeError};

/// Keys that may have signed a token.
pub(crate) enum JwtKey {
    One(Box<DecodingKey>),
    /// A published set; the token selects one.
    Set(JwkSet),
}

impl JwtKey {
    pub(crate) fn new(rules: &JwtRules, form: KeyForm, text: &[u8]) -> Result<Self, SchemeError> {
        if text.is_empty() {
            return Err(SchemeError::EmptyKey);
        }

        if form == KeyForm::Jwks {
            let set: JwkSet =
                serde_json::from_slice(text).map_err(|_| SchemeError::Key("a JSON Web Key Set"))?;
            return Ok(Self::Set(set));
        }

        let key = match rules.algs.first() {
            Some(alg) if alg.is_symmetric() => DecodingKey::from_secret(text),
            Some(JwtAlgorithm::RS256 | JwtAlgorithm::RS384 | JwtAlgorithm::RS512) => {
                DecodingKey::from_rsa_der(text)
            }
            Some(JwtAlgorithm::ES256 | JwtAlgorithm::ES384) => DecodingKey::from_ec_der(text),
            _ => DecodingKey::from_ed_der(text),
        };
        Ok(Self::One(Box::new(key)))
    }

    /// Returns the key with this id; of a set with one key, that one.
    pub(super) fn decoding_key(&self, id: Option<&str>) -> Result<DecodingKey, SignatureError> {
        match self {
            Self::One(key) => Ok(key.as_ref().clone()),
            Self::Set(set) => {
                let named = id.and_then(|id| set.find(id));
                let only = || set.keys.first().filter(|_| set.keys.len() == 1);
                let jwk = named.or_else(only).ok_or(SignatureError::UnknownKey)?;
                DecodingKey::from_jwk(jwk).map_err(|_| SignatureError::UnknownKey)
            }
        }
    }
}
