//! A provider's signature, as a check of the gate: the keys compiled, the handshakes at hand.

use data_encoding::HEXLOWER;
use http::StatusCode;
use sha2::{Digest as _, Sha256};

use crate::doctor;
use crate::engine::Side;
use crate::inspection::BodyFieldsBuilder;
use crate::policy::{ActiveSecret, SecretAt, SignatureCheck};
use crate::providers::challenge::ChallengeAction;
use crate::providers::locator::SignatureParams;
use crate::providers::{
    Challenge, Coverage, Scheme, SignatureError, SignatureVerifier, ValueLocator, Verified,
};
use crate::request::{Request, RequestHead};
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::secret::Secret;
use hookward_core::url::HttpsUrl;

/// A public key that has to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedKey {
    /// URL of the key.
    pub url: HttpsUrl,
    /// `true` if a row of the catalog names the URL. Otherwise the operator's list must contain the
    /// host.
    pub in_catalogue: bool,
}

/// Value that tells a delivery from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeliveryIdentity {
    /// `true` if the signature covers it.
    pub(crate) signed: bool,
    pub(crate) value: Vec<u8>,
}

/// A signature check, ready.
pub(crate) struct SignatureRule {
    check: SignatureCheck,
    title: String,
    schemes: Vec<Scheme>,
    /// Origin that tells deliveries of this rule from others; `None` where none is remembered.
    remembered_as: Option<ChallengeOrigin>,
    /// `None` on the relay when the secret stays on the agent.
    verifier: Option<SignatureVerifier>,
    /// The status of a refusal, where the provider wants another one than 403.
    refused_with: Option<StatusCode>,
    /// The handshakes that are answered here.
    challenges: Vec<Challenge>,
}

/// Origin of a rule's deliveries: the provider, or the scheme of the user's own, and the account
/// there, by the name of the rule's first secret. Rules with the same secret have the same origin,
/// wherever they stand in a policy.
#[derive(Debug, Clone)]
struct ChallengeOrigin(Vec<u8>);

impl ChallengeOrigin {
    fn of(check: &SignatureCheck) -> Self {
        let provider = match (check.row(), &check.scheme) {
            (Some(row), _) => format!("{}/", row.id),
            (None, scheme) => {
                // A scheme came from TOML or JSON, and can be written as JSON.
                let scheme = serde_json::to_vec(scheme).unwrap_or_default();
                format!("own scheme {}/", HEXLOWER.encode(&Sha256::digest(scheme)))
            }
        };

        let account = check
            .secrets
            .iter()
            .map(|live| live.name.as_str())
            .min()
            .unwrap_or_default();

        Self(format!("{provider}{account}/").into_bytes())
    }
}

impl SignatureRule {
    /// `remembers`: deliveries have to be told from each other.
    pub(crate) fn new(check: &SignatureCheck, side: Side, remembers: bool) -> Result<Self, String> {
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
                    .with_proof(remembers),
            ),
        };

        let row = check.row();
        let remembered_as = remembers.then(|| ChallengeOrigin::of(check));
        let refused_with = row
            .and_then(|row| row.refused_with)
            .and_then(|status| StatusCode::from_u16(status).ok());
        let answers = check.challenge || check.pair;
        let all = row.map(|row| row.challenges.as_slice()).unwrap_or_default();
        let challenges = all
            .iter()
            .filter(|challenge| answers || challenge.always)
            .cloned()
            .collect();

        let title = check.title();
        Ok(Self {
            check: check.clone(),
            title,
            schemes,
            remembered_as,
            verifier: keyed,
            refused_with,
            challenges,
        })
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

    fn delivery_places(&self) -> &'static [ValueLocator] {
        self.check.row().map_or(&[], |row| row.delivery.as_slice())
    }

    /// Adds what it reads of bodies.
    pub(crate) fn add_places(&self, places: &mut BodyFieldsBuilder) {
        for scheme in &self.schemes {
            match &scheme.each {
                // What stands in an item is read there.
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

    /// Returns `true` if the request carries what could be a right signature, and it is checked on
    /// this side.
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

    /// The keys that have to be fetched for this request.
    pub(crate) fn wanted(&self, request: &Request<'_>) -> Vec<WantedKey> {
        // What can't be named is refused by `verify`, with the reason.
        let urls = self
            .verifier
            .as_ref()
            .and_then(|keyed| keyed.wanted(request).ok())
            .unwrap_or_default();
        let in_catalogue = self.check.scheme.is_none();

        urls.into_iter()
            .map(|url| WantedKey { url, in_catalogue })
            .collect()
    }

    /// Verifies the request's signature. Returns `None` if the check is left to the agent.
    pub(crate) fn verify(
        &self,
        request: &Request<'_>,
        fetched: &FetchedKeys,
        now: UnixMillis,
    ) -> Result<Option<(Verified, &str)>, Refusal> {
        let Some(keyed) = &self.verifier else {
            return Ok(None);
        };
        match keyed.verify(request, fetched, now) {
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

    /// Returns the reason why a request that is the provider's challenge was not treated as one.
    fn missed_challenge(&self, request: &Request<'_>) -> Option<String> {
        let challenges = &self.check.row()?.challenges;
        let missed = challenges
            .iter()
            .filter(|challenge| challenge.pair.is_none())
            .find_map(|challenge| challenge.missed(request))?;

        Some(match missed {
            _ if !self.check.challenge => {
                "it is the provider's handshake, which is not answered without --challenge (challenge = true)"
                    .to_owned()
            }
            Some((place, part)) => format!(
                "it is the provider's handshake, and its {place} is not the part {part} of any secret that is configured"
            ),
            None => return None,
        })
    }

    fn refusal(&self, fault: &SignatureError) -> Refusal {
        // An outage of the provider's, or of the way to it, is none of the sender's, nor is a key
        // that was published a moment ago: it may try again.
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

    /// Returns the action for a challenge, if the request is one: of the challenges that are signed
    /// like events, or of the others.
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
            // A secret that a stranger could tell is only taken while pairing.
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

    /// Returns the identity of the delivery: its id if the signature covers it, else the signature.
    ///
    /// For a token it is the id alone, which anyone with the token can choose. A signature that
    /// stands for several deliveries, such as a JSON Web Token, counts together with the id or the
    /// body. That does not protect against a sender with such a token, and loses none of the
    /// provider's deliveries.
    pub(crate) fn delivery(
        &self,
        request: &Request<'_>,
        verified: &Verified,
    ) -> Option<DeliveryIdentity> {
        let rule = self.remembered_as.as_ref()?;
        let scheme = self.schemes.get(verified.way)?;
        let places = self.delivery_places();
        let id_at = |places: &[ValueLocator]| {
            let mut id = b"id:".to_vec();
            for place in places {
                let value = place.read(request, &SignatureParams::default()).ok()??;
                id.extend_from_slice(&(value.len() as u64).to_be_bytes());
                id.extend_from_slice(&value);
            }
            (!places.is_empty()).then_some(id)
        };
        let id = || id_at(places);

        let identity = |signed, value: Vec<u8>| {
            Some(DeliveryIdentity {
                signed,
                value: [&rule.0[..], &value].concat(),
            })
        };

        let proof = || {
            verified
                .proof
                .map(|proof| [&b"signature:"[..], proof.as_slice()].concat())
        };

        let signed = |value| identity(true, value);
        let Some(proof) = proof() else {
            return identity(false, id()?);
        };

        if !places.is_empty() && places.iter().all(|place| scheme.vouches_for(place)) {
            return signed(id().unwrap_or(proof));
        }

        // The row names the id of its usual headers; of others (svix-id beside webhook-id) the way
        // knows it.
        let signed_id = || id_at(std::slice::from_ref(scheme.signed_id()?));

        if !places.is_empty()
            && let Some(id) = signed_id()
        {
            return signed(id);
        }

        let repeats = scheme.coverage() == Coverage::Nothing && scheme.jwt.is_some()
            || self.check.row().is_some_and(|row| row.signature_repeats);
        if !repeats {
            return signed(proof);
        }

        let other = id().unwrap_or_else(|| Sha256::digest(request.body).to_vec());
        signed([proof, other].concat())
    }

    /// Finds causes of a wrong signature, for the tunnel's owner.
    pub(crate) fn diagnose(
        &self,
        request: &Request<'_>,
        fetched: &FetchedKeys,
        others: &[ActiveSecret],
        now: UnixMillis,
    ) -> Vec<String> {
        if self.verifier.is_none() {
            return Vec::new();
        }
        doctor::diagnose(&self.check, request, fetched, others, now)
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

impl Scheme {
    /// Returns `true` if the signature covers the value at this location.
    fn vouches_for(&self, place: &ValueLocator) -> bool {
        use crate::providers::template::ValueSource;

        let whole = self.coverage() == Coverage::Body;
        let named = || {
            self.msg
                .sources()
                .any(|source| matches!(source, ValueSource::At(signed) if signed == place))
        };

        if place.is_in_body() {
            whole || named()
        } else {
            named()
        }
    }

    /// The header among what is signed that holds the delivery's id.
    fn signed_id(&self) -> Option<&ValueLocator> {
        use crate::providers::template::ValueSource;

        self.msg.sources().find_map(|source| match source {
            ValueSource::At(place @ ValueLocator::Header(_))
                if place.to_string().to_ascii_lowercase().ends_with("-id") =>
            {
                Some(place)
            }
            _ => None,
        })
    }
}
