//! A provider's signature, as a check of the gate: the keys compiled, the handshakes at hand.

use http::StatusCode;
use sha2::{Digest as _, Sha256};

use crate::clock::UnixMillis;
use crate::gate::Side;
use crate::policy::{LiveSecret, SecretAt, SignatureCheck};
use crate::providers::challenge::Reaction;
use crate::providers::place::Members;
use crate::providers::{Challenge, Coverage, FetchedKeys, Keyed, Place, Scheme, SignatureFault, Verified, doctor};
use crate::refusal::{Check, Code, Refusal};
use crate::request::Request;
use crate::secret::Secret;
use crate::url::HttpsUrl;

/// A public key that has to be fetched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedKey {
    /// Where it is.
    pub url: HttpsUrl,
    /// Whether a row of the catalogue says so, and not a policy: then the operator's list must have the host.
    pub in_catalogue: bool,
}

/// What tells a delivery from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// Whether the signature vouches for it.
    pub(super) signed: bool,
    pub(super) value: Vec<u8>,
}

/// A signature check, ready.
pub(super) struct SignatureRule {
    check: SignatureCheck,
    title: String,
    schemes: Vec<Scheme>,
    /// Whether deliveries have to be told from each other.
    remembers: bool,
    /// `None` on the relay when the secret stays on the agent.
    keyed: Option<Keyed>,
    /// The status of a refusal, where the provider wants another one than 403.
    refused_with: Option<StatusCode>,
    /// The handshakes that are answered here.
    challenges: Vec<Challenge>,
}

impl SignatureRule {
    pub(super) fn new(check: &SignatureCheck, side: Side, remembers: bool) -> Result<Self, String> {
        let schemes = check.schemes()?;
        let secrets: Vec<Secret> = check.secrets.iter().map(|live| live.secret.clone()).collect();
        let keyed = match (side, check.secret_at) {
            (Side::Relay, SecretAt::Agent) => None,
            _ => Some(
                Keyed::new(&schemes, &check.shape(), &secrets, check.origin.clone())
                    .map_err(|error| error.to_string())?
                    .proving(remembers),
            ),
        };
        let row = check.row();
        let refused_with = row.and_then(|row| row.refused_with).and_then(|status| StatusCode::from_u16(status).ok());
        let answers = check.challenge || check.pair;
        let challenges = row.filter(|_| answers).map(|row| row.challenges.clone()).unwrap_or_default();
        Ok(Self { check: check.clone(), title: check.title(), schemes, remembers, keyed, refused_with, challenges })
    }

    /// Whether it can only be judged with the body at hand.
    pub(super) fn needs_body(&self) -> bool {
        self.keyed.as_ref().is_some_and(Keyed::needs_body) || self.challenges.iter().any(Challenge::needs_body)
    }

    /// Whether one of its handshakes can only be told by the body.
    pub(super) fn answers_in_body(&self) -> bool {
        self.challenges.iter().any(Challenge::needs_body)
    }

    /// Whether the relay alone can't judge it.
    pub(super) const fn is_left_to_agent(&self) -> bool {
        self.keyed.is_none()
    }

    /// The keys that have to be fetched for this request.
    pub(super) fn wanted(&self, request: &Request<'_>) -> Vec<WantedKey> {
        // What can't be named is refused by `verify`, with the reason.
        let urls = self.keyed.as_ref().and_then(|keyed| keyed.wanted(request).ok()).unwrap_or_default();
        let in_catalogue = self.check.scheme.is_none();
        urls.into_iter().map(|url| WantedKey { url, in_catalogue }).collect()
    }

    /// Whether the request is signed. `None`: it is left to the agent.
    pub(super) fn verify(
        &self,
        request: &Request<'_>,
        fetched: &FetchedKeys,
        now: UnixMillis,
    ) -> Result<Option<(Verified, &str)>, Refusal> {
        let Some(keyed) = &self.keyed else { return Ok(None) };
        match keyed.verify(request, fetched, now) {
            Ok(verified) => {
                let name = verified.secret.and_then(|index| self.check.secrets.get(index));
                Ok(Some((verified, name.map_or("a fetched key", |live| live.name.as_str()))))
            }
            Err(fault) => Err(self.refusal(&fault)),
        }
    }

    fn refusal(&self, fault: &SignatureFault) -> Refusal {
        // An outage of the provider's, or of the way to it, is none of the sender's, nor is a key that was
        // published a moment ago: it may try again.
        let fetched = || self.schemes.iter().any(|scheme| scheme.fetch.is_some());
        if matches!(fault, SignatureFault::NoKey(_)) || *fault == SignatureFault::UnknownKey && fetched() {
            return Refusal::new(Check::Signature, Code::Busy, format!("{}: {fault}", self.title));
        }
        let refusal = Refusal::failed(Check::Signature, format!("{}: {fault}", self.title));
        let by_stranger = matches!(fault, SignatureFault::Mismatch | SignatureFault::OtherToken);
        Refusal { status: self.refused_with.unwrap_or(refusal.status), by_stranger, ..refusal }
    }

    /// What a handshake asks for, if the request is one: of those that are signed like events, or of
    /// those that are not.
    pub(super) fn react(
        &self,
        request: &Request<'_>,
        has_body: bool,
        signed: bool,
    ) -> Result<Option<Reaction>, Refusal> {
        let Some(keyed) = &self.keyed else { return Ok(None) };
        for challenge in self.challenges.iter().filter(|challenge| challenge.signed == signed) {
            // A secret that a stranger could tell is only taken while pairing.
            if challenge.pair.is_some() != self.check.pair {
                continue;
            }
            if let Some(reaction) = keyed.react(challenge, request, has_body).map_err(|fault| self.refusal(&fault))? {
                return Ok(Some(reaction));
            }
        }
        Ok(None)
    }

    /// What identifies the delivery: its id where the signature covers it, else the signature. For a token the
    /// id alone, which whoever knows the token can choose. A signature that stands for several deliveries,
    /// such as a JSON Web Token that is used for an hour, counts together with the id or the body: that is
    /// no protection against somebody who has such a token, and loses nothing of the provider's.
    pub(super) fn delivery(&self, request: &Request<'_>, verified: &Verified) -> Option<Identity> {
        let scheme = self.schemes.get(verified.way).filter(|_| self.remembers)?;
        let place = self.check.row().and_then(|row| row.delivery.as_ref());
        let id = || {
            let value = place?.read(request, &Members::default()).ok()??;
            Some([b"id:", value.as_ref()].concat())
        };
        let proof = || verified.proof.map(|proof| [&b"signature:"[..], proof.as_slice()].concat());
        let signed = |value| Some(Identity { signed: true, value });
        let Some(proof) = proof() else { return id().map(|value| Identity { signed: false, value }) };
        if place.is_some_and(|place| scheme.signs(place)) {
            return signed(id().unwrap_or(proof));
        }
        // The row names the id of its usual headers; of others (svix-id beside webhook-id) the way knows it.
        let signed_id = || {
            let value = scheme.signed_id()?.read(request, &Members::default()).ok()??;
            Some([b"id:", value.as_ref()].concat())
        };
        if place.is_some()
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

    /// What would have been right, for the tunnel's owner.
    pub(super) fn diagnose(
        &self,
        request: &Request<'_>,
        fetched: &FetchedKeys,
        others: &[LiveSecret],
        now: UnixMillis,
    ) -> Vec<String> {
        if self.keyed.is_none() {
            return Vec::new();
        }
        doctor::diagnose(&self.check, request, fetched, others, now)
    }

    pub(super) fn title(&self) -> &str {
        &self.title
    }

    pub(super) fn secrets(&self) -> &[LiveSecret] {
        &self.check.secrets
    }

    pub(super) const fn check(&self) -> &SignatureCheck {
        &self.check
    }
}

impl Scheme {
    /// Whether what stands at this place is part of what is signed.
    fn signs(&self, place: &Place) -> bool {
        use crate::providers::template::Source;
        let whole = self.coverage() == Coverage::Body;
        let named = || self.msg.sources().any(|source| matches!(source, Source::At(signed) if signed == place));
        if place.is_in_body() { whole || named() } else { named() }
    }

    /// The header among what is signed that holds the delivery's id.
    fn signed_id(&self) -> Option<&Place> {
        use crate::providers::template::Source;
        self.msg.sources().find_map(|source| match source {
            Source::At(place @ Place::Header(_)) if place.to_string().to_ascii_lowercase().ends_with("-id") => {
                Some(place)
            }
            _ => None,
        })
    }
}
