//! Validation of policies: errors, and warnings for the owner. Relay and agent each run it.

mod accept;
mod policy_limits;
mod signature;

use std::collections::BTreeMap;

use http::Method;

pub use self::policy_limits::PolicyLimits;
use crate::policy::{Accept, Mode, OnDuplicate, Policy, Route, SecretAt, SignatureCheck};
use crate::providers::{self, Coverage};
use hookward_core::clock::UnixMillis;
use hookward_core::ip_sets;
use hookward_core::limits::BODY_MEMORY_SHARES;
use hookward_core::limits::{self};
use hookward_core::path::PathPattern;
use hookward_core::secret::Secret;
use hookward_core::syntax;

/// A mistake of a route or an accept rule.
pub(crate) struct Mistake {
    /// Key of the setting; empty for the rule as a whole.
    pub(crate) key: &'static str,
    pub(crate) text: String,
}

impl Mistake {
    pub(crate) fn new(key: &'static str, text: impl Into<String>) -> Self {
        Self {
            key,
            text: text.into(),
        }
    }

    /// Returns `true` if the mistake is an empty list of addresses.
    pub(crate) fn is_empty_list(&self) -> bool {
        self.text == EMPTY_LIST
    }
}

/// Mistake of an empty list of addresses.
const EMPTY_LIST: &str = "allow_ips is an empty list: nothing could pass";

impl Policy {
    /// Returns all reasons why this policy is unusable.
    #[must_use]
    pub fn errors(&self, now: UnixMillis) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.routes.is_empty() {
            mistakes.push("the policy has no route, so nothing could pass".to_owned());
        }

        if self.routes.len() > limits::ROUTES {
            return vec![format!(
                "the policy has {} routes, more than {}",
                self.routes.len(),
                limits::ROUTES
            )];
        }

        if let Some(lockout) = self.lockout {
            let spans = [lockout.within_ms, lockout.for_ms];
            if lockout.failures == 0 || spans.iter().any(|span| !(1..=LOCKOUT_MS).contains(span)) {
                mistakes.push(
                    "lockout: failures is 1 or more, within and for lie between 1ms and 24h"
                        .to_owned(),
                );
            }

            let judges = |accept: &Accept| {
                accept.token.is_some() || accept.basic.is_some() || !accept.verify.is_empty()
            };

            if !self
                .routes
                .iter()
                .flat_map(|route| &route.accept)
                .any(judges)
            {
                mistakes
                    .push("lockout has no effect: no token and no signature could fail".to_owned());
            }
        }

        let mut earlier: Vec<(&str, DeliveryReach)> = Vec::new();
        for route in &self.routes {
            let mut found = route.mistakes(now);
            let reach = DeliveryReach::of(route);
            if let Some((name, _)) = earlier.iter().find(|(_, other)| other.covers(&reach)) {
                found.push(format!(
                    "can't be reached: the route {name:?} before it takes all its requests"
                ));
            }

            earlier.push((&route.name, reach));
            mistakes.extend(
                found
                    .into_iter()
                    .map(|what| format!("route {:?}: {what}", route.name)),
            );
        }

        mistakes
    }

    /// Returns warnings for the user: legal settings that are more open than the default.
    #[must_use]
    pub fn warnings(&self, now: UnixMillis) -> Vec<String> {
        self.routes
            .iter()
            .flat_map(|route| route.warnings(now))
            .collect()
    }
}

/// Maximum lockout, in milliseconds, because addresses change hands.
const LOCKOUT_MS: u64 = 86_400_000;

impl Route {
    fn warnings(&self, now: UnixMillis) -> Vec<String> {
        let mut warnings = Vec::new();
        let everything =
            |path: &String| PathPattern::parse(path).is_ok_and(|path| path.is_everything());
        if self.paths.iter().any(everything) {
            warnings.push(format!(
                "route {:?} opens the whole application, not only its webhooks",
                self.name
            ));
        }

        if self.accept.iter().any(|accept| !accept.is_protected()) {
            warnings.push(format!(
                "route {:?} is open: anyone who finds the URL can send to it; \
                 add an address range, a token or a signature",
                self.name
            ));
        }

        if let Mode::Observe { until } = self.mode {
            let what = if until <= now.seconds() {
                "enforces: observe_until is over, and the line can go"
            } else {
                "only observes: its failed checks are shown and do not refuse"
            };
            warnings.push(format!("route {:?} {what}", self.name));
        }

        warnings.extend(self.signature_warnings());
        for set in self
            .accept
            .iter()
            .filter_map(|accept| accept.allow_ips.as_ref())
            .flat_map(|ips| &ips.named)
        {
            if let Some(set) = ip_sets::find(set).filter(|set| set.ranges.is_empty()) {
                warnings.push(format!(
                    "route {:?}: the addresses of {} are empty until the relay has read {}",
                    self.name,
                    set.title,
                    set.url.as_deref().unwrap_or("their list"),
                ));
            }
        }

        warnings
    }

    fn signature_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for check in self.accept.iter().flat_map(|accept| &accept.verify) {
            let what = match check.coverage() {
                Coverage::Body => continue,
                Coverage::Part => {
                    "does not cover every byte of the body, and the rest may be anything"
                }
                Coverage::Nothing => "identifies the sender, and does not cover the body",
            };

            warnings.push(format!(
                "route {:?}: what {} sends {what}",
                self.name,
                check.title()
            ));
        }

        for check in self.accept.iter().flat_map(|accept| &accept.verify) {
            let shared = |row: &providers::Provider| {
                row.shared_key && (check.secrets.is_empty() || !row.has_parts())
            };
            if check.row().is_some_and(shared) {
                warnings.push(format!(
                    "route {:?}: {} signs with one key for all its customers: a valid signature says who \
                     sends, not for whom; add a token, or pin what is yours (hookward providers show)",
                    self.name,
                    check.title()
                ));
            }
        }

        warnings
    }
}

impl Route {
    fn mistakes(&self, now: UnixMillis) -> Vec<String> {
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
            let keyed = keyed.with_proof(self.replay.is_some() || self.stored.is_some());

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

        if let Some(stored) = self.stored
            && !STORED_AGE_MS.contains(&stored.max_age_ms)
        {
            let text = "stored: max_age lies outside 1m to 30 days";
            mistakes.push(Mistake::new("stored", text));
        }

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

/// Minimum and maximum age of a stored delivery, in milliseconds.
const STORED_AGE_MS: std::ops::RangeInclusive<u64> = 60_000..=30 * 86_400_000;

/// Minimum and maximum time for which deliveries are remembered, in milliseconds: a second, and the
/// 30 days of the longest retries.
const REPLAY_WINDOW_MS: std::ops::RangeInclusive<u64> = 1000..=30 * 86_400_000;

/// Requests that a route covers.
struct DeliveryReach {
    paths: Vec<PathPattern>,
    methods: Vec<Method>,
}

impl DeliveryReach {
    fn of(route: &Route) -> Self {
        let paths = route
            .paths
            .iter()
            .take(limits::ITEMS_PER_ROUTE)
            .filter_map(|path| PathPattern::parse(path).ok());

        Self {
            paths: paths.collect(),
            methods: route.admitted_methods(),
        }
    }

    /// Returns `true` if this route covers every request of the other.
    fn covers(&self, other: &Self) -> bool {
        !other.paths.is_empty()
            && other
                .paths
                .iter()
                .all(|path| self.paths.iter().any(|wide| wide.covers(path)))
            && other
                .methods
                .iter()
                .all(|method| self.methods.contains(method))
    }
}
