//! Errors of accept rules.

use super::{EMPTY_LIST, Mistake};
use crate::policy::{Accept, Addresses, SignatureCheck, TokenCheck};
use hookward_core::address::AddressSet;
use hookward_core::ip_sets;
use hookward_core::limits::{self};

impl Addresses {
    pub(super) fn mistakes(&self) -> Vec<String> {
        self.named
            .iter()
            .filter(|name| ip_sets::find(name).is_none())
            .map(|name| ip_sets::unknown(name))
            .collect()
    }
}

impl Accept {
    /// Returns `true` if a check needs the body.
    #[must_use]
    pub(crate) fn needs_body(&self) -> bool {
        let signs_body = |check: &SignatureCheck| {
            check
                .schemes()
                .unwrap_or_default()
                .iter()
                .any(crate::providers::Scheme::needs_body)
        };
        !self.body.is_empty() || self.verify.iter().any(signs_body)
    }

    /// Returns `true` if a request without a body can pass: by its head, or by a signature of its
    /// URL, as Twilio signs WebSockets (twilio.com/docs/usage/security).
    pub(super) fn opens_websocket(&self) -> bool {
        let signs_url = |check: &SignatureCheck| {
            check
                .schemes()
                .is_ok_and(|schemes| schemes.iter().any(crate::providers::Scheme::signs_url))
        };
        !self.needs_body() || self.body.is_empty() && self.verify.iter().all(signs_url)
    }

    /// Returns the kinds of checks that the accept rule lacks.
    pub(crate) fn lacks(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if !self.open && !self.is_protected() {
            let text = "it has no address range (0.0.0.0/0 and ::/0 are none), no token and no signature; \
                        add one, or write open = true if anyone may send";
            mistakes.push(Mistake::new("", text));
        }

        if self
            .token
            .iter()
            .chain(&self.basic)
            .any(|check| check.active.is_empty())
        {
            mistakes.push(Mistake::new("token", "the token has no secret"));
        }

        let lacking = self.verify.iter().filter_map(SignatureCheck::lacks);
        mistakes.extend(lacking.map(|what| Mistake::new("verify", what)));
        mistakes
    }

    /// Returns the errors of the accept rule.
    pub(crate) fn mistakes(&self, deny: &AddressSet) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.open && self.is_protected() {
            let text = "open = true is beside a check; remove one of them";
            mistakes.push(Mistake::new("open", text));
        }

        if let Some(ips) = &self.allow_ips {
            if ips.is_empty() {
                mistakes.push(Mistake::new("allow_ips", EMPTY_LIST));
            } else if ips.named.is_empty() && ips.set().is_within(deny) {
                let text = "every address of allow_ips is denied by deny_ips";
                mistakes.push(Mistake::new("allow_ips", text));
            }

            let of_ips = ips.mistakes().into_iter();
            mistakes
                .extend(of_ips.map(|what| Mistake::new("allow_ips", format!("allow_ips: {what}"))));
        }

        let tokens: Vec<&TokenCheck> = self.token.iter().chain(&self.basic).collect();
        if self.headers.iter().any(|rule| rule.allowed.is_empty())
            || self.body.iter().any(|rule| rule.allowed.is_empty())
        {
            let text = "a rule about a header or the body allows no value: nothing could pass";
            mistakes.push(Mistake::new("", text));
        }

        let malformed = self
            .content_types
            .iter()
            .filter(|kind| !is_media_type(kind));
        mistakes.extend(malformed.map(|kind| {
            let text =
                format!("content_type: {kind:?} is not a media type such as application/json");
            Mistake::new("content_type", text)
        }));

        let rules =
            self.headers.len() + self.body.len() + self.content_types.len() + self.verify.len();
        if rules > limits::ITEMS_PER_ROUTE {
            let most = limits::ITEMS_PER_ROUTE;
            let text = format!("it has {rules} rules, more than {most}");
            mistakes.push(Mistake::new("", text));
            return mistakes;
        }

        let live = tokens
            .iter()
            .map(|check| check.active.len())
            .chain(self.verify.iter().map(|check| check.secrets.len()));
        if live.max().unwrap_or_default() > limits::ACTIVE_SECRETS {
            let text = format!("more than {} secrets are active", limits::ACTIVE_SECRETS);
            mistakes.push(Mistake::new("", text));
            return mistakes;
        }

        let of_checks = self.verify.iter().flat_map(SignatureCheck::mistakes);
        mistakes.extend(of_checks.map(|what| Mistake::new("verify", what)));
        mistakes
    }
}

/// Returns `true` for `type/subtype`, both tokens (RFC 9110 §8.3.1).
fn is_media_type(text: &str) -> bool {
    let is_token = |text: &str| !text.is_empty() && text.parse::<http::HeaderName>().is_ok();
    text.split_once('/')
        .is_some_and(|(kind, of)| is_token(kind) && is_token(of))
}
