//! Challenges: requests by which a provider verifies that a URL belongs to its customer, and the
//! responses that it expects. The gate answers them, so that applications need not.
//!
//! An answer replaces only the signature check of a provider whose challenge is unsigned. Reflected
//! text is restricted: some challenges sign any sender's text with the key of events (Zoom, X,
//! LinkedIn, Braintree), and without a guard anyone could have an event signed.

mod guard;

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

pub use self::guard::ChallengeGuard;
use self::guard::ok;
use crate::providers::error::SignatureError;
use crate::providers::key::{SecretParts, VerifyingKey};
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::providers::scheme::Required;
use crate::providers::signing_input::SigningContext;
use crate::providers::template::{Filter, Template, TemplatePart, ValueSource};
use crate::request::Request;
use hookward_core::secret::Secret;
use hookward_core::url::{HostPattern, HttpsUrl};

/// A provider's challenge.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Method of the challenge; `None` for any.
    #[serde(default)]
    pub method: Option<String>,
    /// Conditions that make a request this challenge.
    #[serde(default, rename = "when")]
    pub conditions: Vec<ChallengeCondition>,
    /// `true` if the provider signs it like an event.
    #[serde(default)]
    pub signed: bool,
    /// `true` if it is answered even without `challenge` in the policy: the response reveals nothing,
    /// and the provider sends it before there could be a signature.
    #[serde(default)]
    pub always: bool,
    /// Allowed form of text from the request in the response.
    #[serde(default)]
    pub guard: ChallengeGuard,
    /// Status of the response.
    #[serde(default = "ok")]
    pub status: u16,
    /// Media type of the response.
    #[serde(default, rename = "type")]
    pub media_type: Option<String>,
    /// Body of the response.
    #[serde(default)]
    pub body: Option<Template>,
    /// Header fields of the response.
    #[serde(default)]
    pub headers: BTreeMap<String, Template>,
    /// Secret that the provider sends here, once; accepted only while `hookward pair` runs.
    #[serde(default)]
    pub pair: Option<ValueLocator>,
    /// URL in the request that confirms the subscription when it is fetched.
    #[serde(default)]
    pub confirm: Option<Confirmation>,
}

/// Condition that makes a request a challenge.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum ChallengeCondition {
    /// A value as declared.
    Value(Required),
    /// Any value at this location.
    Present {
        /// Location that must have a value.
        has: ValueLocator,
    },
}

/// URL that is fetched to confirm a subscription, after its signature was verified.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confirmation {
    /// Location of the URL in the request.
    pub from: ValueLocator,
    /// Allowed hosts.
    pub hosts: Vec<HostPattern>,
}

/// Response to a challenge.
#[derive(Debug, Clone)]
pub struct ChallengeResponse {
    /// Status of the response.
    pub status: StatusCode,
    /// Header fields of the response.
    pub headers: HeaderMap,
    /// Body, up to 512 bytes.
    pub body: Bytes,
    /// URL to fetch first; the response is sent only if that succeeds.
    pub confirm: Option<HttpsUrl>,
}

/// Action that a challenge requires.
pub(crate) enum ChallengeAction {
    Respond(Box<ChallengeResponse>),
    /// The provider sends its secret, and expects this response.
    Pair(Secret, Box<ChallengeResponse>),
}

impl Challenge {
    /// Returns `true` if this request is the challenge. Without the body, conditions on the body
    /// fail.
    pub(crate) fn matches(
        &self,
        request: &Request<'_>,
        parts: &SecretParts,
        has_body: bool,
    ) -> bool {
        if self
            .method
            .as_ref()
            .is_some_and(|method| method != request.head.method.as_str())
        {
            return false;
        }

        if !has_body && self.needs_body() {
            return false;
        }

        self.conditions.iter().all(|condition| match condition {
            ChallengeCondition::Value(required) => required.holds(request, parts, true).is_ok(),
            ChallengeCondition::Present { has } => {
                matches!(has.read(request, &SignatureParams::default()), Ok(Some(_)))
            }
        })
    }

    /// Returns `Some` if the request would be this challenge with another part of the secret, with
    /// the location and the name of that part. Ignores challenges in bodies.
    pub(crate) fn missed(&self, request: &Request<'_>) -> Option<Option<(String, String)>> {
        let is_method = self
            .method
            .as_ref()
            .is_none_or(|method| method == request.head.method.as_str());
        if !is_method || self.conditions.is_empty() || self.needs_body() {
            return None;
        }

        let mut part_of_secret = None;
        for condition in &self.conditions {
            let part = match condition {
                ChallengeCondition::Value(required) => {
                    required.is.as_ref().and_then(Template::secret_part)
                }
                ChallengeCondition::Present { .. } => None,
            };
            match (condition, part) {
                (ChallengeCondition::Value(required), Some(part)) => {
                    part_of_secret = Some((required.at.to_string(), part.to_owned()))
                }
                (ChallengeCondition::Value(required), None) => required
                    .holds(request, &SecretParts::default(), true)
                    .ok()?,
                (ChallengeCondition::Present { has }, _) => {
                    drop(has.read(request, &SignatureParams::default()).ok()??)
                }
            }
        }

        Some(part_of_secret)
    }

    /// Returns `true` if the conditions need the body.
    #[must_use]
    pub(crate) fn needs_body(&self) -> bool {
        let template_reads = |template: &Template| {
            template
                .sources()
                .any(|source| matches!(source, ValueSource::At(place) if place.is_in_body()))
        };

        self.conditions.iter().any(|condition| match condition {
            ChallengeCondition::Value(required) => required.at.is_in_body(),
            ChallengeCondition::Present { has } => has.is_in_body(),
        }) || self.pair.as_ref().is_some_and(ValueLocator::is_in_body)
            || self
                .confirm
                .as_ref()
                .is_some_and(|confirm| confirm.from.is_in_body())
            || self.body.as_ref().is_some_and(template_reads)
            || self.headers.values().any(template_reads)
    }

    /// Returns `true` if its response signs text of the request with the provider's key.
    #[must_use]
    pub(crate) fn signs(&self) -> bool {
        let signs = |part: &TemplatePart| {
            matches!(
                part,
                TemplatePart::Value(_, Filter::SignedHex | Filter::SignedBase64)
            )
        };

        self.body
            .iter()
            .chain(self.headers.values())
            .any(|template| template.parts().iter().any(signs))
    }

    /// Returns all locations that are read to recognise and to answer it.
    pub(crate) fn places(&self) -> impl Iterator<Item = &ValueLocator> {
        let conditions = self.conditions.iter().map(|condition| match condition {
            ChallengeCondition::Value(required) => &required.at,
            ChallengeCondition::Present { has } => has,
        });
        let templates = self
            .body
            .iter()
            .chain(self.headers.values())
            .flat_map(Template::sources);
        let reflected = templates.filter_map(|source| match source {
            ValueSource::At(place) => Some(place),
            _ => None,
        });

        let confirmed = self.confirm.as_ref().map(|confirm| &confirm.from);
        conditions
            .chain(reflected)
            .chain(self.pair.as_ref())
            .chain(confirmed)
    }

    /// Returns the action for this challenge.
    ///
    /// # Errors
    /// If the guard rejects the text to reflect, or a value is missing.
    pub(crate) fn react(
        &self,
        request: &Request<'_>,
        parts: &SecretParts,
        key: Option<&VerifyingKey>,
    ) -> Result<ChallengeAction, SignatureError> {
        let no_members = SignatureParams::default();
        let scene = SigningContext {
            request: *request,
            members: &no_members,
            ts: None,
            origin: request.head.origin,
        };

        for template in self.body.iter().chain(self.headers.values()) {
            for source in template.sources() {
                if let ValueSource::At(place) = source {
                    let value = place.read(request, &no_members)?;
                    if !value.is_some_and(|value| self.guard.admits(&value)) {
                        return Err(SignatureError::Guard(place.to_string()));
                    }
                }
            }
        }

        let fill = |template: &Template| scene.render_signed(template, parts, key);
        let mut headers = HeaderMap::new();

        for (name, template) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&fill(template)?)) {
                headers.insert(name, value);
            }
        }

        let body = self
            .body
            .as_ref()
            .map(fill)
            .transpose()?
            .unwrap_or_default();
        if body.len() > RESPONSE_BYTES {
            return Err(SignatureError::Guard("the answer's length".to_owned()));
        }

        if !body.is_empty() {
            let kind = self
                .media_type
                .as_deref()
                .unwrap_or("text/plain; charset=utf-8");
            if let Ok(kind) = HeaderValue::from_str(kind) {
                headers.insert(header::CONTENT_TYPE, kind);
            }

            headers.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
        }

        let confirm = self
            .confirm
            .as_ref()
            .map(|confirm| confirm.address(request))
            .transpose()?;
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);

        let answer = Box::new(ChallengeResponse {
            status,
            headers,
            body: body.into(),
            confirm,
        });

        match &self.pair {
            None => Ok(ChallengeAction::Respond(answer)),
            Some(place) => {
                let value = place.read(request, &no_members)?;
                let secret = value.and_then(|value| Secret::new(value.into_owned()));
                let secret = secret.ok_or_else(|| SignatureError::Missing(place.to_string()))?;
                Ok(ChallengeAction::Pair(secret, answer))
            }
        }
    }
}

/// Maximum size of a response's body, in bytes.
const RESPONSE_BYTES: usize = 512;

impl Confirmation {
    fn address(&self, request: &Request<'_>) -> Result<HttpsUrl, SignatureError> {
        let value = self.from.read(request, &SignatureParams::default())?;
        let text = value.and_then(|value| String::from_utf8(value.into_owned()).ok());
        let text = text.ok_or_else(|| SignatureError::Missing(self.from.to_string()))?;
        let url = HttpsUrl::parse(&text).map_err(SignatureError::KeyAddress)?;
        if url.port() != 443 || !self.hosts.iter().any(|pattern| pattern.matches(url.host())) {
            return Err(SignatureError::KeyAddress("another host"));
        }

        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_keeps_out_what_could_be_an_event() {
        let guard = ChallengeGuard {
            and: "._~+/-".into(),
            hex: false,
            least: 1,
            most: 128,
        };
        assert!(guard.admits(b"YWJj==") && guard.admits(b"YWI="));
        assert!(
            !guard.admits(b"payload=evil") && !guard.admits(b"a==="),
            "a form's pair"
        );

        assert!(guard.admits(b"qgg8vlvZRS6UYooatFL8Aw"));
        for bad in [
            &b""[..],
            b"v0:1700000000:{}",
            b"{\"a\":1}",
            b"a b",
            b"a\n",
            &[b'a'; 129],
        ] {
            assert!(!guard.admits(bad), "{bad:?}");
        }

        let hex = ChallengeGuard {
            and: "-".into(),
            hex: true,
            least: 36,
            most: 36,
        };
        assert!(
            hex.admits(b"890e4665-4dfe-4ab1-b689-ed553bceeed0")
                && !hex.admits(b"890E4665-4dfe-4ab1-b689-ed553bceeed0")
        );

        for markup in [&b"<script>"[..], b"\"", b"\x7f", b"\\", b"a&b"] {
            assert!(!ChallengeGuard::default().admits(markup), "{markup:?}");
        }
    }
}
