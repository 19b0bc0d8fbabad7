//! Verification of a request by one scheme and its keys.

use super::{ActiveKey, other_port, signed_of};
use crate::inspection::BodyFieldsBuilder;
use crate::inspection::{BodyFields, BodyReadError, Kind};
use crate::providers::challenge::ChallengeGuard;
use crate::providers::error::SignatureError;
use crate::providers::key::{SecretParts, VerifyingKey};
use crate::providers::locator::SignatureParams;
use crate::providers::scheme::joints::{Joint, is_bare};
use crate::providers::scheme::{Algorithm, Encoding, KeyForm, Pick, Scheme};
use crate::providers::signing_input::SigningContext;
use crate::providers::template::ValueSource;
use crate::request::Request;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::json::JsonPath;
use hookward_core::secret::Secret;
use sha2::{Digest as _, Sha256};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Maximum number of signatures in one request if each costs a public-key operation; more indicate
/// an attack.
pub(super) const MAX_PUBLIC: usize = 8;

/// Maximum number of candidates that are compared with one digest: DocuSign sends up to 100.
pub(super) const MAX_SHARED: usize = 100;

/// Maximum number of items of a batch, because each is verified.
pub(super) const MAX_ITEMS: usize = 100;

pub(super) struct SchemeVerifier {
    pub(super) scheme: Scheme,
    pub(super) active: Vec<ActiveKey>,
    pub(super) proves: bool,
    /// Fields that are read of an item, if a batch is signed item by item.
    pub(super) item_places: Arc<BodyFields>,
}

pub(super) type VerifyResult = (Option<usize>, Option<[u8; 32]>);

/// A request to verify, with its context.
#[derive(Clone, Copy)]
pub(super) struct VerifyContext<'c> {
    pub(super) request: &'c Request<'c>,
    /// Origin of the URL that is signed.
    pub(super) origin: &'c str,
    pub(super) fetched: &'c FetchedKeys,
    pub(super) now: UnixMillis,
    /// Guards of the texts that the provider's challenges sign for any sender.
    pub(super) chosen_messages: &'c [ChallengeGuard],
}

impl SchemeVerifier {
    pub(super) fn new(scheme: &Scheme, active: Vec<ActiveKey>) -> Self {
        let mut fields = BodyFieldsBuilder::default();
        scheme.places().for_each(|place| place.add_to(&mut fields));

        Self {
            scheme: scheme.clone(),
            active,
            proves: false,
            item_places: Arc::new(fields.finish()),
        }
    }

    pub(super) fn verify(&self, case: &VerifyContext<'_>) -> Result<VerifyResult, SignatureError> {
        if self.active.is_empty() {
            return Err(SignatureError::Required(
                "this way of signing has no secret; it".to_owned(),
            ));
        }

        match &self.scheme.each {
            None => self.verify_one(case),
            Some(path) => self.verify_each(path, case),
        }
    }

    /// Verifies all items of a batch; the proof covers all of them.
    fn verify_each(
        &self,
        path: &JsonPath,
        case: &VerifyContext<'_>,
    ) -> Result<VerifyResult, SignatureError> {
        let request = case.request;
        let inspection = request.inspection.ok_or(SignatureError::Mismatch)?;
        let items = inspection
            .raw(path, request.body)
            .map_err(|fault| match fault {
                BodyReadError::Json(fault) => SignatureError::Body(fault),
                BodyReadError::WorkLimit(overworked) => overworked.into(),
                BodyReadError::Form(_) => SignatureError::Mismatch,
            })?;

        if items.len() > MAX_ITEMS {
            return Err(SignatureError::Malformed(
                format!("json:{path}"),
                "it has too many items",
            ));
        }

        // Sorted and without duplicates, because the same items in another order are the same
        // delivery.
        let mut proofs = BTreeSet::new();
        let (mut secret, mut proved) = (None, true);

        for item in items {
            let of_item = inspection.of_item(&self.item_places);
            let item = Request::new(request.head, item.as_bytes()).inspected(&of_item);
            let (by, proof) = self.verify_one(&VerifyContext {
                request: &item,
                ..*case
            })?;
            secret = by;
            proved &= proof.is_some();

            if !proofs.insert(proof) && proof.is_some() {
                return Err(SignatureError::Repeated(format!("an item of json:{path}")));
            }
        }

        let digest = |proofs: BTreeSet<Option<[u8; 32]>>| {
            let all = proofs.into_iter().flatten().flatten().collect::<Vec<_>>();
            Sha256::digest(&all).into()
        };

        Ok((secret, proved.then(|| digest(proofs))))
    }

    fn verify_one(&self, case: &VerifyContext<'_>) -> Result<VerifyResult, SignatureError> {
        let fields = self
            .scheme
            .sig
            .at
            .read_all(case.request, self.scheme.sig.repeats)?;
        let mut outcome = Err(SignatureError::Required("the request".to_owned()));

        // No early exit: the time reveals nothing about a near match.
        for live in &self.active {
            let result = self.verify_by(live, &fields, case);
            let further = |fault: &SignatureError| match &outcome {
                Ok(_) => false,
                Err(other) => other.progress() < fault.progress(),
            };
            if result.is_ok() && outcome.is_err() || result.as_ref().is_err_and(further) {
                outcome = result;
            }
        }

        outcome
    }

    fn verify_by(
        &self,
        live: &ActiveKey,
        fields: &[Cow<'_, [u8]>],
        case: &VerifyContext<'_>,
    ) -> Result<VerifyResult, SignatureError> {
        let VerifyContext {
            request,
            origin,
            fetched,
            now,
            chosen_messages: oracles,
        } = *case;
        let mut candidates = Vec::new();
        let mut members = SignatureParams::default();

        for field in fields {
            self.candidates(field, live, &mut candidates, &mut members)?;
        }

        let at = &self.scheme.sig.at;
        let public = self.scheme.alg.is_public() || self.scheme.alg == Algorithm::Jwt;

        match candidates.len() {
            0 => {
                return Err(SignatureError::Malformed(
                    at.to_string(),
                    "it has no signature of the pinned version",
                ));
            }
            count if count > if public { MAX_PUBLIC } else { MAX_SHARED } => {
                return Err(SignatureError::Malformed(
                    at.to_string(),
                    "it has too many signatures",
                ));
            }
            _ => {}
        }

        self.holds(request, &live.parts)?;
        let ts = self.timestamp(request, &members, now)?;
        let made_key = match (&live.key, &self.scheme.fetch) {
            // The time and the secret together are the key.
            _ if self.scheme.key == KeyForm::TsUtf8 => {
                let secret = live
                    .parts
                    .get(self.scheme.part.as_deref())
                    .map(Secret::expose)
                    .unwrap_or_default();
                let text = [ts.as_deref().unwrap_or_default(), secret].concat();
                Some(
                    VerifyingKey::new(&self.scheme, &text)
                        .map_err(|_| SignatureError::UnknownKey)?,
                )
            }
            (None, Some(source)) => {
                let url = source.address(request)?;
                let content = fetched
                    .0
                    .get(&url)
                    .ok_or_else(|| SignatureError::NoKey(url.to_string()))?;
                Some(source.key(&self.scheme, content, &url)?)
            }
            _ => None,
        };
        let Some(key) = made_key.as_ref().or(live.key.as_ref()) else {
            return Err(SignatureError::UnknownKey);
        };

        let other = if self.scheme.url_ports {
            other_port(origin)
        } else {
            None
        };

        for origin in std::iter::once(origin).chain(other.as_deref()) {
            let scene = SigningContext {
                request: *request,
                members: &members,
                ts: ts.as_deref(),
                origin,
            };

            if let (VerifyingKey::Jwt(key), Some(rules)) = (key, &self.scheme.jwt) {
                let token = candidates.first().map(Vec::as_slice).unwrap_or_default();
                key.claims(rules, token, &scene, &live.parts, now)?;
                let proof = self
                    .proves
                    .then(|| signed_of(token, rules.detached.then_some(request.body)));
                return Ok((live.secret, proof));
            }

            let message = scene.message(&self.scheme.msg, &live.parts)?;
            self.check_joints(&scene)?;
            // A key that depends on the request's time has no id.
            let id = if made_key.is_some() { None } else { live.id };
            if key.verify(id, &message, &candidates, request)? {
                if self.scheme.alg != Algorithm::Equals
                    && is_oracle(oracles, &message.1, request.body)
                {
                    return Err(SignatureError::ChosenMessage);
                }

                // Not the signature: two secrets make two for one delivery, and some algorithms
                // allow a second valid one.
                let proves = self.proves && self.scheme.alg != Algorithm::Equals;
                if proves && let Some(inspection) = request.inspection {
                    inspection.work().spend(Kind::Hashed, message.1.len())?;
                }

                let digest = || {
                    let pieces = message.1.slices(request.body);
                    pieces
                        .iter()
                        .fold(Sha256::new(), |digest, piece| digest.chain_update(piece))
                };
                return Ok((live.secret, proves.then(|| digest().finalize().into())));
            }
        }

        Err(if self.scheme.alg == Algorithm::Equals {
            SignatureError::OtherToken
        } else {
            SignatureError::Mismatch
        })
    }

    /// Checks the joints of the signed text.
    fn check_joints(&self, scene: &SigningContext<'_, '_>) -> Result<(), SignatureError> {
        let head = &scene.request.head;
        let cut =
            SignatureError::Malformed("the signed text".to_owned(), "it could be cut in two ways");

        if self.scheme.json_body && !self.scheme.has_telling_body(&scene.request) {
            return Err(cut);
        }

        for joint in self.scheme.joints() {
            let fits = match joint {
                Joint::Time(unit) => unit.is_pinned(scene.ts.unwrap_or_default()),
                Joint::Json(ValueSource::Url | ValueSource::Target) => is_bare(head.target),
                Joint::Json(ValueSource::At(place)) => {
                    let value = place
                        .read(&scene.request, scene.members)?
                        .unwrap_or_default();
                    is_bare(&value)
                }
                Joint::Json(_) | Joint::Open => true,
            };
            if !fits {
                return Err(cut);
            }
        }

        Ok(())
    }

    /// Checks the scheme's conditions.
    pub(super) fn holds(
        &self,
        request: &Request<'_>,
        parts: &SecretParts,
    ) -> Result<(), SignatureError> {
        self.scheme
            .require
            .iter()
            .try_for_each(|required| required.holds(request, parts, false))
    }

    /// Returns the decoded signatures in a value, and the list's members.
    fn candidates(
        &self,
        field: &[u8],
        live: &ActiveKey,
        candidates: &mut Vec<Vec<u8>>,
        members: &mut SignatureParams,
    ) -> Result<(), SignatureError> {
        let sig = &self.scheme.sig;
        let parts: Vec<&[u8]> = match &sig.split {
            Some(separator) => split(field, separator.as_bytes()),
            None => vec![field],
        };
        for (position, member) in parts.into_iter().enumerate() {
            let (key, value) = match &sig.kv {
                Some(kv) => match memchr::memmem::find(member, kv.as_bytes()) {
                    Some(at) => {
                        let (key, value) = member.split_at(at);
                        (Some(key), value.get(kv.len()..).unwrap_or_default())
                    }
                    None => continue,
                },
                None => (None, member),
            };

            if sig.split.is_some() {
                members.0.push((key.map(Into::into), value.into()));
            }

            let picked = match &sig.pick {
                None => true,
                Some(Pick::Key(wanted)) => key == Some(wanted.as_bytes()),
                Some(Pick::Part(name)) => live
                    .parts
                    .get(Some(name))
                    .is_some_and(|part| key == Some(part.expose())),
                Some(Pick::From(first)) => position >= *first,
            };
            if picked {
                candidates.push(self.decode(value)?);
            }
        }

        Ok(())
    }

    fn decode(&self, value: &[u8]) -> Result<Vec<u8>, SignatureError> {
        let sig = &self.scheme.sig;
        let malformed = |reason| SignatureError::Malformed(sig.at.to_string(), reason);
        let text = value
            .strip_prefix(sig.prefix.as_bytes())
            .ok_or_else(|| malformed("the prefix is another"))?;

        let decoded = match sig.enc {
            Encoding::Hex => HEXLOWER_PERMISSIVE
                .decode(text)
                .map_err(|_| malformed("it is not hex")),
            Encoding::Base64 => BASE64
                .decode(text)
                .map_err(|_| malformed("it is not base64")),
            Encoding::Base64url => BASE64URL_NOPAD
                .decode(text)
                .map_err(|_| malformed("it is not base64url")),
            Encoding::Text => Ok(text.to_vec()),
        }?;

        if decoded.is_empty() {
            Err(malformed("the signature is empty"))
        } else {
            Ok(decoded)
        }
    }

    /// Returns the timestamp's text as received, if it is within the window.
    fn timestamp<'r>(
        &self,
        request: &Request<'r>,
        members: &SignatureParams,
        now: UnixMillis,
    ) -> Result<Option<Cow<'r, [u8]>>, SignatureError> {
        let Some(declared) = &self.scheme.ts else {
            return Ok(None);
        };
        let text = declared.at.read(request, members)?;
        let text =
            text.ok_or_else(|| SignatureError::Missing(format!("the timestamp {}", declared.at)))?;
        let at = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| declared.unit.seconds(text))
            .ok_or_else(|| {
                SignatureError::Malformed(declared.at.to_string(), "it is not a timestamp")
            })?;

        let text = Some(text);
        let Some(tolerance) = declared.tolerance else {
            return Ok(text);
        };
        let now = now.seconds();
        if now.saturating_sub(at) > tolerance {
            return Err(SignatureError::Stale(now.saturating_sub(at), tolerance));
        }

        if at.saturating_sub(now) > tolerance {
            return Err(SignatureError::Future(at.saturating_sub(now), tolerance));
        }

        Ok(text)
    }
}

/// Returns `true` for a text that a challenge signs for anyone.
pub(super) fn is_oracle(
    oracles: &[ChallengeGuard],
    message: &crate::inspection::SignedMessage,
    body: &[u8],
) -> bool {
    let admits =
        |guard: &ChallengeGuard| message.len() <= guard.most && guard.admits(&message.concat(body));
    oracles.iter().any(admits)
}

/// Splits a list at a separator of one or more characters. Ignores blanks around the members, as in
/// any list-valued header (RFC 9110 §5.6.1).
pub(super) fn split<'f>(field: &'f [u8], separator: &[u8]) -> Vec<&'f [u8]> {
    let mut members = Vec::new();
    let mut rest = field;
    while let Some(at) = memchr::memmem::find(rest, separator) {
        let (member, after) = rest.split_at(at);
        members.push(member.trim_ascii());
        rest = after.get(separator.len()..).unwrap_or_default();
    }

    members.push(rest.trim_ascii());
    members
}
