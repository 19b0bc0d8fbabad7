//! Compiled keys.

use crate::inspection::KeyId;
use crate::providers::key::{SecretParts, VerifyingKey};
use crate::providers::scheme::{Pick, Scheme, SchemeError};
use crate::providers::template::{Template, ValueSource};

/// A valid secret, for one scheme.
pub(super) struct ActiveKey {
    pub(super) secret: Option<usize>,
    pub(super) parts: SecretParts,
    /// `None` if the key is fetched.
    pub(super) key: Option<VerifyingKey>,
    /// Id that is equal for equal keys.
    pub(super) id: Option<KeyId>,
}

impl ActiveKey {
    /// Creates a key that the relay fetches for each request.
    pub(super) fn fetched(scheme: &Scheme) -> Result<Self, SchemeError> {
        let signed = scheme.msg.sources().find_map(|source| match source {
            ValueSource::Secret(name) => Some(name.clone().unwrap_or_default()),
            _ => None,
        });

        match signed {
            Some(name) => Err(SchemeError::MissingPart(name)),
            None => Ok(Self {
                secret: None,
                parts: SecretParts::none(),
                key: None,
                id: None,
            }),
        }
    }

    pub(super) fn new(
        scheme: &Scheme,
        index: usize,
        parts: &SecretParts,
    ) -> Result<Self, SchemeError> {
        let claims = scheme.jwt.iter().flat_map(|rules| rules.claims.values());
        for source in scheme
            .msg
            .sources()
            .chain(claims.flat_map(Template::sources))
        {
            if let ValueSource::Secret(name) = source
                && parts.get(name.as_deref()).is_none()
            {
                return Err(SchemeError::MissingPart(name.clone().unwrap_or_default()));
            }
        }

        if let Some(Pick::Part(name)) = &scheme.sig.pick
            && parts.get(Some(name)).is_none()
        {
            return Err(SchemeError::MissingPart(name.clone()));
        }

        let secret = parts.get(scheme.part.as_deref());
        let key = match secret {
            Some(secret) => Some(VerifyingKey::new(scheme, secret.expose())?),
            None if scheme.fetch.is_some() => None,
            None => {
                return Err(SchemeError::MissingPart(
                    scheme.part.clone().unwrap_or_default(),
                ));
            }
        };

        let id = secret.map(|secret| VerifyingKey::id(scheme, secret.expose()));
        Ok(Self {
            secret: Some(index),
            parts: parts.clone(),
            key,
            id,
        })
    }
}
