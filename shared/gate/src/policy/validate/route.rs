//! Errors of routes.

use std::collections::BTreeMap;

use http::Method;

use super::Mistake;
use crate::policy::{Accept, Mode, OnDuplicate, Route, SecretAt, SignatureCheck};
use hookward_core::clock::UnixMillis;
use hookward_core::limits::{self, BODY_MEMORY_SHARES};
use hookward_core::path::PathPattern;
use hookward_core::secret::Secret;
use hookward_core::syntax;

impl Route {
    pub(super) fn mistakes(&self, now: UnixMillis) -> Vec<String> {
        let deny = self.deny_ips.set();
        let of_accept = |(index, accept): (usize, &Accept)| {
            let mistakes = accept.lacks().into_iter().chain(accept.mistakes(&deny));
            mistakes.map(move |mistake| format!("accept {}: {}", index + 1, mistake.text))
        };

        let accepts = self
            .accept
            .iter()
            .take(limits::ITEMS_PER_ROUTE)
            .enumerate()
            .flat_map(of_accept);

        let own = self.own_mistakes(now).into_iter();
        own.map(|mistake| mistake.text)
            .chain(accepts)
            .chain(self.excessive_work().map(|mistake| mistake.text))
            .collect()
    }

    /// Returns an error if one request could make the gate hash more than its limit: distinct keys
    /// and signed texts, each over the largest body. The other side counts keys that this side
    /// lacks.
    pub(crate) fn excessive_work(&self) -> Option<Mistake> {
        let checks = self
            .accept
            .iter()
            .take(limits::ITEMS_PER_ROUTE)
            .flat_map(|accept| &accept.verify);
        let mut hashes = BTreeMap::new();

        for check in checks {
            let Ok(schemes) = check.schemes() else {
                continue;
            };
            let secrets: Vec<Secret> = check
                .secrets
                .iter()
                .map(|live| live.secret.clone())
                .collect();
            let Ok(keyed) = check.verifier(&schemes, &secrets) else {
                continue;
            };
            let keyed = keyed.with_proof(self.replay.is_some() || self.stores());

            hashes.extend(
                keyed
                    .body_hashes()
                    .map(|(key, text, times)| ((key, text), times as u64)),
            );
        }

        let times: u64 = hashes.values().sum();
        let most = times.saturating_mul(self.max_body);
        (most > limits::GATE_HASHED_BYTES).then(|| {
            let text = format!(
                "a request could cost {} MiB of hashing ({times} times max_body, {} MiB), more than {} MiB; use fewer \
                 accept rules or secrets, or a smaller max_body",
                most / limits::MIB,
                self.max_body / limits::MIB,
                limits::GATE_HASHED_BYTES / limits::MIB
            );
            Mistake::new("max_body", text)
        })
    }

    /// Returns every error except those of its accept rules.
    pub(crate) fn own_mistakes(&self, now: UnixMillis) -> Vec<Mistake> {
        let mut mistakes = self.path_mistakes();
        mistakes.extend(self.limit_mistakes());
        mistakes.extend(self.effect_mistakes());
        mistakes.extend(self.observe_mistakes(now));
        mistakes.extend(self.replay_mistakes());
        mistakes.extend(self.delivery_mistakes());

        if self.accept.is_empty() {
            mistakes.push(Mistake::new(
                "accept",
                "it has no accept, so nothing could pass",
            ));
        }
        let deny = self.deny_ips.mistakes().into_iter();
        mistakes.extend(deny.map(|what| Mistake::new("deny_ips", format!("deny_ips: {what}"))));
        mistakes
    }

    /// Returns the errors of paths and methods.
    fn path_mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.paths.is_empty() {
            mistakes.push(Mistake::new("path", "it has no path"));
        }

        for path in &self.paths {
            if path.len() > limits::PATTERN_BYTES {
                let text = format!("a path has more than {} bytes", limits::PATTERN_BYTES);
                mistakes.push(Mistake::new("path", text));
            } else if let Err(what) = PathPattern::parse(path) {
                mistakes.push(Mistake::new("path", what.to_string()));
            }
        }

        for name in &self.methods {
            let method = Method::from_bytes(name.as_bytes());
            if !method.is_ok_and(|method| syntax::is_known_method(&method)) {
                let text = format!(
                    "the method {name:?} can't pass; choose from GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
                );
                mistakes.push(Mistake::new("methods", text));
            }
        }
        mistakes
    }

    /// Returns the errors of sizes, times and counts.
    fn limit_mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let largest = limits::AGENT_BODY_MEMORY / BODY_MEMORY_SHARES;
        if self.max_body == 0 || self.max_body > largest {
            let text = format!("max_body lies outside 1B to {} MiB", largest / limits::MIB);
            mistakes.push(Mistake::new("max_body", text));
        }

        let longest = limits::ANSWER_TIMEOUT_MAX;
        if self.answer_timeout_ms == 0 || u128::from(self.answer_timeout_ms) > longest.as_millis() {
            let text = format!("answer_timeout lies outside 1ms to {} s", longest.as_secs());
            mistakes.push(Mistake::new("answer_timeout", text));
        }

        for (key, what, count) in [
            ("path", "paths", self.paths.len()),
            ("methods", "methods", self.methods.len()),
            ("accept", "accept rules", self.accept.len()),
        ] {
            if count > limits::ITEMS_PER_ROUTE {
                let most = limits::ITEMS_PER_ROUTE;
                let text = format!("it has {count} {what}, more than {most}");
                mistakes.push(Mistake::new(key, text));
            }
        }
        mistakes
    }

    /// Returns an error for each setting that has no effect.
    fn effect_mistakes(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let below = |path: &String| path.ends_with("/**");
        if self.encoded_slashes && !self.paths.iter().any(below) {
            let text = "encoded_slashes has no effect: no path ends with /**";
            mistakes.push(Mistake::new("encoded_slashes", text));
        }

        let has_token = |accept: &Accept| accept.token.is_some() || accept.basic.is_some();
        if self.keep_token && !self.accept.iter().any(has_token) {
            let text = "keep_token has no effect: there is no token";
            mistakes.push(Mistake::new("keep_token", text));
        }

        let opens = || {
            self.accept.iter().any(Accept::opens_websocket)
                && self.admitted_methods().contains(&Method::GET)
        };
        if self.websocket && !opens() {
            let text = "websocket has no effect: a WebSocket is a GET without a body, which these providers do not sign";
            mistakes.push(Mistake::new("websocket", text));
        }
        mistakes
    }

    fn observe_mistakes(&self, now: UnixMillis) -> Vec<Mistake> {
        let Mode::Observe { until } = self.mode else {
            return Vec::new();
        };

        let mut mistakes = Vec::new();
        if self.accept.iter().any(|accept| accept.open) {
            let text = "observe_until has no effect: an accept rule is open, so nothing is refused";
            mistakes.push(Mistake::new("observe_until", text));
        }

        let days = u64::try_from(limits::OBSERVE_DAYS).unwrap_or_default();
        if until > now.seconds() + days * 86_400 {
            let text = format!("observe_until is more than {days} days ahead");
            mistakes.push(Mistake::new("observe_until", text));
        }
        mistakes
    }

    fn replay_mistakes(&self) -> Vec<Mistake> {
        let Some(replay) = self.replay else {
            return Vec::new();
        };

        let mut mistakes = Vec::new();
        if !REPLAY_WINDOW_MS.contains(&replay.window_ms) {
            let text = "replay: window lies outside 1s to 30 days";
            mistakes.push(Mistake::new("replay", text));
        }

        let checks = || self.accept.iter().flat_map(|accept| &accept.verify);
        if !checks().any(SignatureCheck::identifies) {
            let text = "replay has no effect: no check identifies a delivery";
            mistakes.push(Mistake::new("replay", text));
        }

        let mut at_agent = checks().filter(|check| check.secret_at == SecretAt::Agent);
        if replay.on_duplicate != OnDuplicate::Forward && at_agent.next().is_some() {
            let text = "replay needs the secret at the relay, which remembers deliveries: a forged one would be taken for \
                        the first";
            mistakes.push(Mistake::new("replay", text));
        }
        mistakes
    }
}

/// Minimum and maximum time for which deliveries are remembered, in milliseconds: a second, and the
/// 30 days of the longest retries.
const REPLAY_WINDOW_MS: std::ops::RangeInclusive<u64> = 1000..=30 * 86_400_000;
