//! Signature check of the gate: a provider's compiled keys and challenges.

mod challenge;
mod delivery;

use hookward_core::reason::Reason;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use self::challenge::ChallengeOrigin;
pub(crate) use self::delivery::DeliveryIdentity;
use crate::doctor;
use crate::engine::{Evaluation, Side};
use crate::inspection::BodyFieldsBuilder;
use crate::policy::{ActiveSecret, SecretAt, SignatureCheck};
use crate::providers::{
    Challenge, Provider, Scheme, SignatureError, SignatureVerifier, ValueLocator, Verified,
};
use crate::request::{Request, RequestHead};
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::secret::Secret;
use hookward_core::url::HttpsUrl;

/// A public key that must be fetched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedKey {
    /// URL of the key.
    pub url: HttpsUrl,
    /// `true` if the catalog names the URL. Otherwise the operator's settings must allow the host.
    pub in_catalog: bool,
}

/// A signature that a gate has verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedSignature {
    /// Provider or custom scheme, variant, and side of the secret.
    pub scheme: String,
    /// Number of its accept rule in the route.
    pub rule: usize,
    /// Digest of the signed content, regardless of the secret, on an agent's route with replay
    /// protection. Where a signature repeats, the body contributes.
    pub digest: Option<[u8; 32]>,
}

/// A compiled signature check.
pub(crate) struct SignatureRule {
    check: SignatureCheck,
    /// Row of the catalog; `None` for a custom scheme.
    provider: Option<&'static Provider>,
    title: String,
    /// Provider or custom scheme, with the variant and the side of the secret. Independent of the
    /// secrets.
    identity: String,
    schemes: Vec<Scheme>,
    /// Origin that distinguishes deliveries of this rule from others; `None` without replay
    /// protection.
    remembered_as: Option<ChallengeOrigin>,
    /// `None` on the relay when the secret stays on the agent.
    verifier: Option<SignatureVerifier>,
    /// Status of a refusal, if the provider requires another one than 403.
    refused_with: Option<StatusCode>,
    /// Challenges that this side answers.
    challenges: Vec<Challenge>,
}

impl SignatureRule {
    /// Compiles a signature check. `remembers` requires an identity of each delivery, and `proves` a
    /// digest of each signed content.
    pub(crate) fn new(
        check: &SignatureCheck,
        side: Side,
        remembers: bool,
        proves: bool,
    ) -> Result<Self, Reason> {
        let schemes = check.schemes()?;
        let secrets: Vec<Secret> = check
            .secrets
            .iter()
            .map(|live| live.secret.clone())
            .collect();

        let keyed = match (side, check.secret_at) {
            (Side::Relay, SecretAt::Agent) => None,
            _ => Some(
                check
                    .verifier(&schemes, &secrets)
                    .map_err(|error| error.to_string())?
                    .with_proof(remembers || proves),
            ),
        };

        let provider = check.row();
        let remembered_as = remembers.then(|| ChallengeOrigin::of(check));
        let refused_with = provider
            .and_then(|row| row.refused_with)
            .and_then(|status| StatusCode::from_u16(status).ok());
        let answers = check.challenge || check.pair;
        let all = provider
            .map(|row| row.challenges.as_slice())
            .unwrap_or_default();
        let challenges = all
            .iter()
            .filter(|challenge| answers || challenge.always)
            .cloned()
            .collect();

        let title = check.title();
        Ok(Self {
            check: check.clone(),
            provider,
            title,
            identity: identity(check),
            schemes,
            remembered_as,
            verifier: keyed,
            refused_with,
            challenges,
        })
    }

    /// Returns the provider or custom scheme, with the variant and the side of the secret.
    /// Independent of the secrets.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Returns the row of the catalog.
    pub(crate) const fn provider(&self) -> Option<&'static Provider> {
        self.provider
    }

    /// Returns `true` if the check needs the body.
    pub(crate) fn needs_body(&self) -> bool {
        self.verifier
            .as_ref()
            .is_some_and(SignatureVerifier::needs_body)
            || self.challenges.iter().any(Challenge::needs_body)
            || self.remembered_as.is_some()
                && self.delivery_places().iter().any(ValueLocator::is_in_body)
    }

    /// Adds the body fields that it reads.
    pub(crate) fn add_places(&self, places: &mut BodyFieldsBuilder) {
        for scheme in &self.schemes {
            match &scheme.each {
                // The fields of an item are read within the item.
                Some(path) => places.json(path),
                None => scheme.places().for_each(|place| place.add_to(places)),
            }
        }

        self.challenges
            .iter()
            .flat_map(Challenge::places)
            .for_each(|place| place.add_to(places));
        self.delivery_places()
            .iter()
            .for_each(|place| place.add_to(places));
    }

    /// Returns `true` if the request has a candidate signature that this side can check.
    pub(crate) fn may_be_signed(&self, head: RequestHead<'_>) -> bool {
        self.verifier.is_some()
            && self
                .schemes
                .iter()
                .any(|scheme| scheme.signs() && scheme.sig.at.may_stand_in(head))
    }

    /// Returns `true` if only the agent has the secret.
    pub(crate) const fn is_left_to_agent(&self) -> bool {
        self.verifier.is_none()
    }

    /// Returns `true` if a key may have to be fetched.
    pub(crate) fn may_want_keys(&self) -> bool {
        self.verifier.is_some() && self.schemes.iter().any(|scheme| scheme.fetch.is_some())
    }

    /// Returns the keys to fetch for this request.
    pub(crate) fn wanted(&self, request: &Request<'_>) -> Vec<WantedKey> {
        // `verify` refuses what has no valid URL, with the reason.
        let urls = self
            .verifier
            .as_ref()
            .and_then(|keyed| keyed.wanted(request).ok())
            .unwrap_or_default();
        let in_catalog = self.check.scheme.is_none();

        urls.into_iter()
            .map(|url| WantedKey { url, in_catalog })
            .collect()
    }

    /// Verifies the request's signature. Returns `None` if the check is left to the agent.
    pub(crate) fn verify(
        &self,
        request: &Request<'_>,
        evaluation: Evaluation<'_>,
    ) -> Result<Option<(Verified, &str)>, Refusal> {
        let Some(keyed) = &self.verifier else {
            return Ok(None);
        };
        match keyed.verify(request, evaluation.keys, evaluation.time()) {
            Ok(verified) => {
                let name = verified
                    .secret
                    .and_then(|index| self.check.secrets.get(index));
                Ok(Some((
                    verified,
                    name.map_or("a fetched key", |live| live.name.as_str()),
                )))
            }
            Err(fault) => {
                let refusal = self.refusal(&fault);
                Err(match self.missed_challenge(request) {
                    Some(hint) => Refusal {
                        reason: format!("{}: {hint}", self.title),
                        ..refusal
                    },
                    None => refusal,
                })
            }
        }
    }

    fn refusal(&self, fault: &SignatureError) -> Refusal {
        // The sender is not responsible for an outage of the provider's key server, or for a key
        // published a moment ago, and may retry.
        let fetched = || self.schemes.iter().any(|scheme| scheme.fetch.is_some());

        if matches!(fault, SignatureError::NoKey(_))
            || *fault == SignatureError::UnknownKey && fetched()
        {
            return Refusal::new(
                Check::Signature,
                Code::Overloaded,
                format!("{}: {fault}", self.title),
            );
        }

        let refusal = Refusal::failed(Check::Signature, format!("{}: {fault}", self.title));
        let by_stranger = matches!(
            fault,
            SignatureError::Mismatch | SignatureError::OtherToken | SignatureError::ChosenMessage
        );
        let closeness = fault.progress();

        Refusal {
            status: self.refused_with.unwrap_or(refusal.status),
            is_unverified: by_stranger,
            closeness,
            ..refusal
        }
    }

    /// Finds causes of a wrong signature, for the tunnel's owner.
    pub(crate) fn diagnose(
        &self,
        request: &Request<'_>,
        others: &[ActiveSecret],
        evaluation: Evaluation<'_>,
    ) -> Vec<String> {
        if self.verifier.is_none() {
            return Vec::new();
        }
        doctor::diagnose(
            &self.check,
            request,
            evaluation.keys,
            others,
            evaluation.time(),
        )
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    pub(crate) fn secrets(&self) -> &[ActiveSecret] {
        &self.check.secrets
    }

    pub(crate) const fn check(&self) -> &SignatureCheck {
        &self.check
    }
}

fn identity(check: &SignatureCheck) -> String {
    let variant = check.variant.as_deref().unwrap_or_default();
    let side = match check.secret_at {
        SecretAt::Relay => "relay",
        SecretAt::Agent => "agent",
    };
    format!("{}/{variant}/{side}", challenge::scheme_name(check))
}
