//! Causes of a wrong signature that the doctor tries.

use super::rewrites::{member_of, respelled, rewritten};
use super::{Doctor, MAX_PROVIDERS};
use crate::policy::ActiveSecret;
use crate::providers::Provider;
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::providers::scheme::{KeyForm, Scheme};
use crate::providers::verifier::SignatureVerifier;
use crate::request::{Request, RequestHead};
use hookward_core::clock::UnixMillis;
use hookward_core::secret::Secret;
use hookward_core::secret::oddities::oddities;
use hookward_core::text::Escaped;
use http::header;
use std::borrow::Cow;
use subtle::ConstantTimeEq as _;

impl Doctor<'_> {
    /// Tries the secret as it may have been miscopied, and the secrets of other checks.
    pub(super) fn secrets(&mut self, request: &Request<'_>, others: &[ActiveSecret]) {
        let (schemes, shape) = (self.schemes, self.shape);
        for secret in self.secrets {
            for (text, what) in respelled(secret.expose()) {
                let Some(secret) = Secret::new(text) else {
                    continue;
                };
                if self.fits(schemes, shape, &[secret], request) {
                    self.say(format!("it would be right with the secret {what}"));
                    return;
                }
            }

            for (form, what) in [
                (KeyForm::Utf8, "used as it is"),
                (KeyForm::Base64, "decoded as base64"),
                (KeyForm::Hex, "decoded as hex"),
                (KeyForm::Whsec, "without whsec_, decoded as base64"),
            ] {
                let others: Vec<Scheme> = schemes
                    .iter()
                    .filter(|scheme| scheme.key != form)
                    .map(|scheme| Scheme {
                        key: form,
                        ..scheme.clone()
                    })
                    .collect();
                if !others.is_empty()
                    && self.fits(&others, shape, std::slice::from_ref(secret), request)
                {
                    self.say(format!("it would be right with the secret {what}"));
                    return;
                }
            }
        }

        for other in others {
            let own = self
                .check
                .secrets
                .iter()
                .any(|live| live.name == other.name);
            if !own && self.fits(schemes, shape, std::slice::from_ref(&other.secret), request) {
                self.say(format!(
                    "it is signed with another secret of this policy, {}",
                    other.name
                ));
                return;
            }
        }
    }

    /// Tries the body as an intermediary may have rewritten it.
    pub(super) fn body(&mut self, request: &Request<'_>) {
        let (schemes, shape, secrets) = (self.schemes, self.shape, self.secrets);
        for (body, what) in rewritten(request.body) {
            if self.fits(schemes, shape, secrets, &Request::new(request.head, &body)) {
                self.say(format!(
                    "it would be right for the body {what}: something between the provider and here changed it"
                ));
                return;
            }
        }
    }

    /// Tries the URL as the provider may know it, behind a proxy or by another name.
    pub(super) fn url(&mut self, request: &Request<'_>) {
        if !self.schemes.iter().any(Scheme::signs_url) {
            return;
        }

        let origin = self.check.origin.as_deref().unwrap_or(request.head.origin);
        let named = |name: &header::HeaderName| {
            request
                .head
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let host = named(&header::HOST).map(|host| format!("https://{host}"));

        let (_, authority) = origin.split_once("://").unwrap_or(("", origin));
        let bare = authority.split(':').next().unwrap_or_default();
        let mut origins = vec![
            (format!("http://{authority}"), "http instead of https"),
            (format!("https://{bare}"), "without the port"),
            (format!("https://{bare}:443"), "with the port 443"),
            (format!("http://{bare}"), "http, without the port"),
        ];
        origins.extend(host.map(|host| (host, "the host of the request")));

        let target = request.head.target;
        let (path, query) = target.split_at(request.head.path().len());
        let slashed = match path.strip_suffix(b"/") {
            Some(path) => [path, query].concat(),
            None => [path, b"/", query].concat(),
        };
        let (schemes, shape, secrets) = (self.schemes, self.shape, self.secrets);

        for (other, what) in &origins {
            if self.fits_at(schemes, shape, secrets, Some(other.clone()), request) {
                let then = if other.starts_with("http:") {
                    "register the URL with https at the provider".to_owned()
                } else {
                    format!("the policy has origin = \"{other}\", if the provider uses this URL")
                };
                self.say(format!("it would be right for another URL: {what}; {then}"));
                return;
            }
        }

        let head = RequestHead {
            target: &slashed,
            ..request.head
        };
        if self.fits(schemes, shape, secrets, &Request::new(head, request.body)) {
            self.say("it would be right for the URL with one slash more or less at its end: register exactly the URL that is sent to");
        }
    }

    /// Tests if only the time is wrong.
    pub(super) fn clock(&mut self, keyed: &SignatureVerifier, request: &Request<'_>) {
        for scheme in self.schemes {
            let Some(ts) = scheme.ts.as_ref().filter(|ts| ts.tolerance.is_some()) else {
                continue;
            };
            let text = match &ts.at {
                ValueLocator::Member(key) => member_of(scheme, request, key),
                place => place
                    .read(request, &SignatureParams::default())
                    .ok()
                    .flatten()
                    .map(Cow::into_owned),
            };
            let at = text
                .and_then(|text| String::from_utf8(text).ok())
                .and_then(|text| ts.unit.seconds(&text));

            let Some(at) = at else { continue };
            if self.verifies(keyed, request, UnixMillis(at.saturating_mul(1000))) {
                let now = self.now.seconds();
                self.say(if at > now {
                    let ahead = at - now;
                    format!(
                        "only the time is wrong: it lies in the future, this clock is {ahead} s behind the provider's; check \
                         the clocks of both sides"
                    )
                } else {
                    format!(
                        "only the time is wrong: by it, this clock is {} s ahead of the provider's, or the request is that old",
                        now - at
                    )
                });

                return;
            }
        }
    }

    /// Detects a legacy header with a weaker signature, which is not accepted beside the strong
    /// one.
    pub(super) fn weaker_header(&mut self, request: &Request<'_>) {
        let has = |name: &str| request.head.headers.contains_key(name);
        let wants = |name: &str| {
            self.schemes
                .iter()
                .any(|scheme| matches!(&scheme.sig.at, ValueLocator::Header(field) if field.name().as_str() == name))
        };
        if wants("x-hub-signature-256") && has("x-hub-signature") {
            self.say("only the old header X-Hub-Signature (SHA-1) was sent; set the secret at the provider again, so that it sends X-Hub-Signature-256");
        }
    }

    /// Tries a token without its prefix.
    pub(super) fn token(&mut self, request: &Request<'_>) {
        let secrets: Vec<_> = self
            .secrets
            .iter()
            .map(|secret| secret.expose().to_vec())
            .collect();

        for scheme in self.schemes {
            let sent = scheme
                .sig
                .at
                .read(request, &SignatureParams::default())
                .ok()
                .flatten();
            let Some(sent) = sent.and_then(|sent| String::from_utf8(sent.into_owned()).ok()) else {
                continue;
            };
            let Some((word, rest)) = sent.split_once(' ') else {
                continue;
            };
            let plain = word.len() <= 16 && word.bytes().all(|byte| byte.is_ascii_alphabetic());

            if plain
                && secrets
                    .iter()
                    .any(|secret| bool::from(secret.ct_eq(rest.as_bytes())))
            {
                self.say(format!(
                    "the sender writes {word:?} in front of the token; configure the token with it"
                ));
                return;
            }
        }
    }

    /// Tries a body that was compressed after signing, or before.
    pub(super) fn compressed(&mut self, request: &Request<'_>) {
        let coding = request
            .head
            .headers
            .get(header::CONTENT_ENCODING)
            .and_then(|value| value.to_str().ok());
        let name = self.check.title();

        if let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
            let coding = Escaped(coding.as_bytes());
            self.say(format!(
                "the body is packed ({coding}) and is checked as it was sent; {name} may sign the unpacked body, which is \
                 not made here: turn compression off at the provider"
            ));
        }
    }

    /// Reports oddities of a secret, if no other cause was found.
    pub(super) fn odd_secrets(&mut self) {
        let live = &self.check.secrets;
        let found: Vec<_> = live
            .iter()
            .flat_map(|live| {
                oddities(live.secret.expose())
                    .into_iter()
                    .map(|what| format!("{} {what}", live.name))
            })
            .collect();
        self.found.extend(found);
    }

    pub(super) fn other_provider(&mut self, request: &Request<'_>) {
        let present = |scheme: &Scheme| match &scheme.sig.at {
            ValueLocator::Header(field) => {
                field.name() != header::AUTHORIZATION
                    && request.head.headers.contains_key(field.name())
            }
            _ => false,
        };

        let own = self.check.row().map(|row| row.id.as_str());
        let rows: Vec<&Provider> = crate::providers::all()
            .iter()
            .filter(|row| Some(row.id.as_str()) != own && present(row.scheme()))
            .collect();
        let secrets = self.secrets;

        for row in rows.iter().take(MAX_PROVIDERS) {
            if self.fits(&row.schemes(), &row.shape(), secrets, request) {
                self.say(format!(
                    "it would be right as {}: write provider = \"{}\"",
                    row.name, row.id
                ));
                return;
            }
        }

        if let [row] = rows.as_slice()
            && self.found.is_empty()
        {
            self.say(format!(
                "it carries the header of {}: is {} the provider?",
                row.name, row.id
            ));
        }
    }
}
