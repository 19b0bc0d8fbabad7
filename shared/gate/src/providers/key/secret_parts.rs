//! Secrets of several parts.

use crate::providers::scheme::SchemeError;
use hookward_core::secret::Secret;
use std::collections::BTreeMap;

/// Name of the only part of a secret without parts.
pub(crate) const WHOLE: &str = "secret";

/// Format of a provider's secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretShape {
    /// Parts of a secret that is a JSON object, with their descriptions; empty if the text is the
    /// secret.
    pub parts: BTreeMap<String, String>,
    /// Part that a text is if it is no such object.
    pub plain: Option<String>,
}

/// Parts of a secret, by name.
#[derive(Clone, Default)]
pub(crate) struct SecretParts {
    parts: BTreeMap<String, Secret>,
    plain: String,
}

impl SecretShape {
    /// Splits a secret into its parts.
    ///
    /// # Errors
    /// [`SchemeError`] if it has another format.
    pub(crate) fn split(&self, secret: &Secret) -> Result<SecretParts, SchemeError> {
        let plain = self.plain.clone().unwrap_or_else(|| WHOLE.to_owned());
        let whole = |name: &str| BTreeMap::from([(name.to_owned(), secret.clone())]);

        if self.parts.is_empty() {
            return Ok(SecretParts {
                parts: whole(&plain),
                plain,
            });
        }

        let names = || self.parts.keys().cloned().collect::<Vec<_>>().join(", ");
        match serde_json::from_slice::<BTreeMap<String, String>>(secret.expose()) {
            Ok(given) => {
                if given.keys().any(|name| !self.parts.contains_key(name)) {
                    return Err(SchemeError::Parts(names()));
                }

                let part = |(name, text): (String, String)| {
                    Some((
                        name,
                        Secret::new(text.into_bytes()).ok_or(SchemeError::EmptyKey),
                    ))
                };
                let parts = given.into_iter().filter_map(part);
                let parts = parts
                    .map(|(name, secret)| secret.map(|secret| (name, secret)))
                    .collect::<Result<_, _>>()?;

                Ok(SecretParts { parts, plain })
            }
            Err(_) if self.plain.is_some() => Ok(SecretParts {
                parts: whole(&plain),
                plain,
            }),
            Err(_) => Err(SchemeError::Parts(names())),
        }
    }
}

impl SecretParts {
    /// Returns no parts, for a key that is fetched.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self {
            parts: BTreeMap::new(),
            plain: WHOLE.to_owned(),
        }
    }

    /// Returns a part by its name; `None` selects the default part.
    #[must_use]
    pub(crate) fn get(&self, name: Option<&str>) -> Option<&Secret> {
        self.parts.get(name.unwrap_or(&self.plain))
    }
}
