//! Challenges of a signature's provider.

use super::SignatureRule;
use crate::policy::SignatureCheck;
use crate::providers::challenge::ChallengeAction;
use crate::request::Request;
use data_encoding::HEXLOWER;
use hookward_core::reason::Refusal;
use sha2::{Digest as _, Sha256};

/// Origin of a rule's deliveries: the provider or the custom scheme, and the account, by the name
/// of the rule's first secret. Rules with the same secret have the same origin anywhere in a
/// policy.
#[derive(Debug, Clone)]
pub(super) struct ChallengeOrigin(pub(super) Vec<u8>);

impl ChallengeOrigin {
    pub(super) fn of(check: &SignatureCheck) -> Self {
        let provider = scheme_name(check);
        let account = check
            .secrets
            .iter()
            .map(|live| live.name.as_str())
            .min()
            .unwrap_or_default();

        Self(format!("{provider}/{account}/").into_bytes())
    }
}

/// Returns the provider, or a digest of the custom scheme.
pub(super) fn scheme_name(check: &SignatureCheck) -> String {
    match (check.row(), &check.scheme) {
        (Some(row), _) => row.id.clone(),
        (None, scheme) => {
            // A scheme comes from TOML or JSON, so it can be serialized as JSON.
            let scheme = serde_json::to_vec(scheme).unwrap_or_default();
            format!("own scheme {}", HEXLOWER.encode(&Sha256::digest(scheme)))
        }
    }
}

impl SignatureRule {
    /// Returns the reason why a challenge of the provider was not treated as one.
    pub(super) fn missed_challenge(&self, request: &Request<'_>) -> Option<String> {
        let challenges = &self.provider?.challenges;
        let missed = challenges
            .iter()
            .filter(|challenge| challenge.pair.is_none())
            .find_map(|challenge| challenge.missed(request))?;

        Some(match missed {
            _ if !self.check.challenge => {
                "it is the provider's challenge, which is not answered without --challenge (challenge = true)"
                    .to_owned()
            }
            Some((place, part)) => format!(
                "it is the provider's challenge, and its {place} is not the part {part} of any secret that is configured"
            ),
            None => return None,
        })
    }

    /// Returns the action for a challenge, if the request is one: of the signed challenges, or of
    /// the others.
    pub(crate) fn react(
        &self,
        request: &Request<'_>,
        has_body: bool,
        signed: bool,
    ) -> Result<Option<ChallengeAction>, Refusal> {
        let Some(keyed) = &self.verifier else {
            return Ok(None);
        };

        for challenge in self
            .challenges
            .iter()
            .filter(|challenge| challenge.signed == signed)
        {
            // A secret that anyone could send is accepted only while pairing.
            if challenge.pair.is_some() != self.check.pair {
                continue;
            }

            if let Some(reaction) = keyed
                .react(challenge, request, has_body)
                .map_err(|fault| self.refusal(&fault))?
            {
                return Ok(Some(reaction));
            }
        }

        Ok(None)
    }
}
