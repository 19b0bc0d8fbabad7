//! Secrets of several parts.

use crate::providers::scheme::SchemeError;
use hookward_core::secret::Secret;
use std::collections::BTreeMap;

/// The part of a secret that has no parts.
pub(crate) const WHOLE: &str = "secret";

/// Format of a provider's secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretShape {
    /// The parts of a secret that is a JSON object, with what each is; empty: the text is the
    /// secret.
    pub parts: BTreeMap<String, String>,
    /// The part that a text is which is no such object.
    pub plain: Option<String>,
}

/// A secret's parts by their names.
#[derive(Clone, Default)]
pub(crate) struct SecretParts {
    parts: BTreeMap<String, Secret>,
    plain: String,
}

impl SecretShape {
    /// Takes a secret apart.
    ///
    /// # Errors
    /// [`SchemeError`] when it is written otherwise.
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
    /// No secret at all: the key will be fetched.
    #[must_use]
    pub(crate) fn none() -> Self {
        Self {
            parts: BTreeMap::new(),
            plain: WHOLE.to_owned(),
        }
    }

    /// A part by its name; `None` for the one that is meant when none is named.
    #[must_use]
    pub(crate) fn get(&self, name: Option<&str>) -> Option<&Secret> {
        self.parts.get(name.unwrap_or(&self.plain))
    }
}
