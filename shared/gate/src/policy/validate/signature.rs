//! Errors of signature checks.

use crate::policy::{SecretAt, SignatureCheck};
use crate::providers::{Coverage, SignatureVerifier};
use hookward_core::secret::Secret;

impl SignatureCheck {
    /// Returns `true` if the check can distinguish deliveries: by signed content, or by the
    /// provider's id.
    pub(super) fn identifies(&self) -> bool {
        self.coverage() > Coverage::Nothing
            || self.row().is_some_and(|row| !row.delivery.is_empty())
    }

    /// Returns an error if the check lacks a secret, unless the keys are fetched or the other side
    /// has the secret.
    pub(super) fn lacks(&self) -> Option<String> {
        let fetched = self
            .schemes()
            .is_ok_and(|schemes| schemes.iter().any(|scheme| scheme.fetch.is_some()));
        let lacks =
            self.secrets.is_empty() && self.secret_at == SecretAt::Relay && !fetched && !self.pair;
        lacks.then(|| format!("{}: no secret is given", self.title()))
    }

    pub(super) fn mistakes(&self) -> Vec<String> {
        let schemes = match self.schemes() {
            Ok(schemes) => schemes,
            Err(what) => return vec![what.to_string()],
        };
        let name = self.title();
        let mut mistakes = Vec::new();

        for scheme in &schemes {
            if let Err(what) = scheme.check() {
                return vec![format!("{name}: {what}")];
            }
        }

        let secrets: Vec<Secret> = self
            .secrets
            .iter()
            .map(|live| live.secret.clone())
            .collect();
        if let Err(what) = SignatureVerifier::new(&schemes, &self.shape(), &secrets, None) {
            mistakes.push(format!("{name}: {what}"));
        }

        if let Some(origin) = &self.origin {
            let url = hookward_core::url::HttpsUrl::parse(origin);
            if url.is_err() || origin.matches('/').count() > 2 {
                mistakes.push(format!(
                    "{name}: origin is written https://HOST or https://HOST:PORT"
                ));
            } else if !schemes.iter().any(crate::providers::Scheme::signs_url) {
                mistakes.push(format!(
                    "{name}: origin has no effect: the URL is not signed"
                ));
            }
        }

        let challenges = self.row().map_or(&[][..], |row| row.challenges.as_slice());
        if self.challenge && challenges.is_empty() {
            mistakes.push(format!(
                "{name}: challenge has no effect: this provider sends none"
            ));
        }

        if self.pair && !challenges.iter().any(|challenge| challenge.pair.is_some()) {
            mistakes.push(format!(
                "{name}: it does not send its secret in a challenge, so there is nothing to pair"
            ));
        }

        mistakes
    }
}
