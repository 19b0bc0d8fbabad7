//! Signature checks of a policy.

use crate::providers::scheme::SchemeError;
use crate::providers::{self, Coverage, Provider, Scheme, SecretShape, SignatureVerifier};
use hookward_core::reason::Reason;
use hookward_core::secret::Secret;
use serde::{Deserialize, Serialize};

/// A signature check, by a provider's scheme or a custom one.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureCheck {
    /// Id or alias of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Variant of the provider, if its settings select one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Custom scheme, instead of a provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Box<Scheme>>,
    /// Programs that may hold the secret.
    pub secret_at: SecretAt,
    /// Valid secrets; empty in the relay's copy if they stay on the agent.
    pub secrets: Vec<ActiveSecret>,
    /// Origin of the URL that is registered at the provider, if it differs from the tunnel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// `true` if the gate answers the provider's challenges.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub challenge: bool,
    /// `true` if the gate accepts a secret from the provider's challenge, only while pairing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pair: bool,
}

/// A valid secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveSecret {
    /// Name of the secret, such as `env:NAME`.
    pub name: String,
    /// The secret itself.
    pub secret: Secret,
}

/// Programs that may hold a signing secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretAt {
    /// Both: forged webhooks end at the edge. A compromised relay could sign.
    #[default]
    Relay,
    /// The agent only: the relay can neither check nor forge.
    Agent,
}

impl SignatureCheck {
    /// Creates a check by a provider of the catalog.
    #[must_use]
    pub fn by(provider: &str) -> Self {
        Self {
            provider: Some(provider.to_owned()),
            ..Self::default()
        }
    }

    /// Returns the provider, if the check names one.
    #[must_use]
    pub(crate) fn row(&self) -> Option<&'static Provider> {
        self.provider.as_deref().and_then(providers::find)
    }

    /// Returns the schemes that the check pins.
    ///
    /// # Errors
    /// The mistake in the names.
    pub fn schemes(&self) -> Result<Vec<Scheme>, Reason> {
        match (&self.provider, &self.scheme) {
            (Some(name), None) => {
                let row = providers::find(name).ok_or_else(|| providers::unknown(name))?;
                row.pinned(self.variant.as_deref())
            }
            (None, Some(scheme)) if self.variant.is_none() => Ok(vec![scheme.as_ref().clone()]),
            (None, Some(_)) => Err(
                "variant is about a provider's row, and not about a scheme of your own"
                    .to_owned()
                    .into(),
            ),
            (Some(_), Some(_)) => Err(
                "it names a provider and holds a scheme; take one of them away"
                    .to_owned()
                    .into(),
            ),
            (None, None) => Err(
                "provider is missing; write for example provider = \"github\""
                    .to_owned()
                    .into(),
            ),
        }
    }

    /// Compiles these schemes with these secrets.
    ///
    /// # Errors
    /// If a scheme contradicts itself, or a secret has the wrong format.
    pub(crate) fn verifier(
        &self,
        schemes: &[Scheme],
        secrets: &[Secret],
    ) -> Result<SignatureVerifier, SchemeError> {
        let keyed = SignatureVerifier::new(schemes, &self.shape(), secrets, self.origin.clone())?;
        Ok(match self.row() {
            Some(row) => keyed.of_provider(row),
            None => keyed,
        })
    }

    /// Returns the format of the provider's secret.
    #[must_use]
    pub(crate) fn shape(&self) -> SecretShape {
        self.row().map(Provider::shape).unwrap_or_default()
    }

    /// Returns the display name of the provider or scheme.
    #[must_use]
    pub fn title(&self) -> String {
        match (self.row(), &self.variant) {
            (Some(row), None) => row.name.clone(),
            (Some(row), Some(variant)) => format!("{} ({variant})", row.name),
            (None, _)
                if self
                    .scheme
                    .as_ref()
                    .is_some_and(|scheme| scheme.jwt.is_some()) =>
            {
                "JSON Web Token".to_owned()
            }
            (None, _) => "own scheme".to_owned(),
        }
    }

    /// Returns how much of the body a valid signature covers: of several schemes, the least.
    #[must_use]
    pub(crate) fn coverage(&self) -> Coverage {
        let schemes = self.schemes().unwrap_or_default();
        schemes
            .iter()
            .map(Scheme::coverage)
            .min()
            .unwrap_or(Coverage::Nothing)
    }
}
