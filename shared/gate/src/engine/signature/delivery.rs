//! Identity of a delivery, which distinguishes it from others.

use super::SignatureRule;
use crate::providers::locator::SignatureParams;
use crate::providers::{Coverage, Scheme, ValueLocator, Verified};
use crate::request::Request;
use sha2::{Digest as _, Sha256};

/// Value that distinguishes a delivery from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeliveryIdentity {
    /// `true` if the signature covers it.
    pub(crate) signed: bool,
    pub(crate) value: Vec<u8>,
}

impl SignatureRule {
    /// Returns the digest of the signed content, if the rule computes it. The body contributes where
    /// one signature may cover several deliveries, as with a JSON Web Token.
    pub(crate) fn content_digest(
        &self,
        request: &Request<'_>,
        verified: &Verified,
    ) -> Option<[u8; 32]> {
        let proof = verified.proof?;
        match self.signature_repeats(verified) {
            false => Some(proof),
            true => {
                let body = Sha256::digest(request.body);
                Some(Sha256::digest([proof, body.into()].concat()).into())
            }
        }
    }

    /// Returns `true` if one signature may cover several deliveries.
    fn signature_repeats(&self, verified: &Verified) -> bool {
        let scheme = self.schemes.get(verified.way);
        let is_token =
            |scheme: &Scheme| scheme.coverage() == Coverage::Nothing && scheme.jwt.is_some();
        scheme.is_some_and(is_token) || self.provider.is_some_and(|row| row.signature_repeats)
    }

    pub(super) fn delivery_places(&self) -> &'static [ValueLocator] {
        self.provider.map_or(&[], |row| row.delivery.as_slice())
    }

    /// Returns the identity of the delivery: its id if the signature covers it, else the signature.
    ///
    /// For a token it is only the id, which anyone with the token can choose. If one signature may cover
    /// several deliveries, as with a JSON Web Token, the identity also has the id or the body. That
    /// does not protect against a sender with such a token, but loses no delivery of the provider.
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

        // The provider's row names the id of its usual headers; the scheme knows the id of others
        // (svix-id beside webhook-id).
        let signed_id = || id_at(std::slice::from_ref(scheme.signed_id()?));

        if !places.is_empty()
            && let Some(id) = signed_id()
        {
            return signed(id);
        }

        if !self.signature_repeats(verified) {
            return signed(proof);
        }

        let other = id().unwrap_or_else(|| Sha256::digest(request.body).to_vec());
        signed([proof, other].concat())
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

    /// Returns the signed header that contains the delivery's id.
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
