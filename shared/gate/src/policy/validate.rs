//! What is wrong with a policy, and what its owner should know of it. Both sides ask, each for
//! itself.

use std::collections::BTreeMap;

use http::Method;

use crate::policy::{
    Accept, Addresses, Mode, OnDuplicate, Policy, Route, SecretAt, SignatureCheck, TokenCheck,
};
use crate::providers::{self, Coverage, SignatureVerifier};
use hookward_core::address::AddressSet;
use hookward_core::clock::UnixMillis;
use hookward_core::ip_sets;
use hookward_core::limits::BODY_MEMORY_SHARES;
use hookward_core::limits::{self, Limits};
use hookward_core::path::PathPattern;
use hookward_core::secret::Secret;
use hookward_core::syntax;

/// Shortest and longest time for which deliveries are remembered, in milliseconds: a second, and
/// the 30 days of the longest retries.
const REPLAY_WINDOW_MS: std::ops::RangeInclusive<u64> = 1000..=30 * 86_400_000;
/// Longest lockout, in milliseconds: an address changes hands.
const LOCKOUT_MS: u64 = 86_400_000;

/// Maximum values that the relay's settings allow a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyLimits {
    /// Maximum number of routes.
    pub routes: usize,
    /// Address ranges, in all.
    pub ranges: usize,
    /// Bytes of a body that a check must read whole.
    pub body: u64,
    /// Wait for the head of the application's answer, in milliseconds.
    pub answer_timeout_ms: u64,
    /// Requests a second of the tunnel.
    pub rate: u64,
}

impl PolicyLimits {
    /// Returns the maximum values of these limits.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        Self {
            routes: limits.policy_routes,
            ranges: limits.policy_ranges,
            body: limits.policy_body,
            answer_timeout_ms: u64::try_from(limits.policy_answer_timeout.as_millis())
                .unwrap_or(u64::MAX),
            rate: limits.policy_rate as u64,
        }
    }

    /// Every bound that the policy goes beyond, each named as in the relay's settings.
    #[must_use]
    pub fn exceeded_by(&self, policy: &Policy) -> Vec<String> {
        let mut found = Vec::new();
        let mut beyond = |name: &str, asked: u64, most: u64, unit: &str| {
            if asked > most {
                found.push(format!("the relay's limit {name} is {most}{unit}, and this policy asks for {asked}{unit}"));
            }
        };

        let ranges = |route: &Route| {
            let allowed = route
                .accept
                .iter()
                .filter_map(|accept| accept.allow_ips.as_ref());

            allowed
                .chain([&route.deny_ips])
                .map(|addresses| addresses.ranges.len())
                .sum::<usize>()
        };

        let most = |of: fn(&Route) -> u64| policy.routes.iter().map(of).max().unwrap_or_default();
        beyond(
            "policy_routes",
            policy.routes.len() as u64,
            self.routes as u64,
            " routes",
        );

        beyond(
            "policy_ranges",
            policy.routes.iter().map(ranges).sum::<usize>() as u64,
            self.ranges as u64,
            " ranges",
        );

        beyond(
            "policy_body",
            most(|route| route.max_body),
            self.body,
            " bytes (max_body)",
        );

        beyond(
            "policy_answer_timeout",
            most(|route| route.answer_timeout_ms),
            self.answer_timeout_ms,
            " ms",
        );

        let rates = policy
            .routes
            .iter()
            .filter_map(|route| route.rate)
            .chain(policy.rate);

        beyond(
            "policy_rate",
            rates
                .map(crate::policy::Rate::per_second_limit)
                .max()
                .unwrap_or_default(),
            self.rate,
            " requests a second",
        );

        found
    }
}

impl Policy {
    /// Every reason for which this policy can't be used. Both sides ask, each for itself.
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
        let mut warnings = Vec::new();
        for route in &self.routes {
            let everything =
                |path: &String| PathPattern::parse(path).is_ok_and(|path| path.is_everything());
            if route.paths.iter().any(everything) {
                warnings.push(format!(
                    "route {:?} opens the whole application, not only its webhooks",
                    route.name
                ));
            }

            if route.accept.iter().any(|accept| !accept.is_protected()) {
                warnings.push(format!(
                    "route {:?} is open: whoever finds the URL can send to it; \
                     add an address range, a token or a signature",
                    route.name
                ));
            }

            if let Mode::Observe { until } = route.mode {
                let what = if until <= now.seconds() {
                    "enforces: observe_until is over, and the line can go"
                } else {
                    "only observes: its failed checks are shown and do not refuse"
                };
                warnings.push(format!("route {:?} {what}", route.name));
            }

            for check in route.accept.iter().flat_map(|accept| &accept.verify) {
                let what = match check.coverage() {
                    Coverage::Body => continue,
                    Coverage::Part => {
                        "does not cover every byte of the body, and the rest may be anything"
                    }
                    Coverage::Nothing => "says who sends, and nothing about the body",
                };

                warnings.push(format!(
                    "route {:?}: what {} sends {what}",
                    route.name,
                    check.title()
                ));
            }

            for check in route.accept.iter().flat_map(|accept| &accept.verify) {
                let shared = |row: &providers::Provider| {
                    row.shared_key && (check.secrets.is_empty() || !row.has_parts())
                };
                if check.row().is_some_and(shared) {
                    warnings.push(format!(
                        "route {:?}: {} signs with one key for all its customers: a right signature says who \
                         sends, not for whom; add a token, or pin what is yours (hookward providers show)",
                        route.name,
                        check.title()
                    ));
                }
            }

            for set in route
                .accept
                .iter()
                .filter_map(|accept| accept.allow_ips.as_ref())
                .flat_map(|ips| &ips.named)
            {
                if let Some(set) = ip_sets::find(set).filter(|set| set.ranges.is_empty()) {
                    warnings.push(format!(
                        "route {:?}: the addresses of {} are empty until the relay has read {}",
                        route.name,
                        set.title,
                        set.url.as_deref().unwrap_or("their list"),
                    ));
                }
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
            mistakes.map(move |what| format!("accept {}: {what}", index + 1))
        };

        let accepts = self
            .accept
            .iter()
            .take(limits::ITEMS_PER_ROUTE)
            .enumerate()
            .flat_map(of_accept);

        self.own_mistakes(now)
            .into_iter()
            .chain(accepts)
            .chain(self.excessive_work())
            .collect()
    }

    /// Returns a mistake if one request could make the gate hash more than its limit: distinct keys
    /// and signed texts, each over the largest body. Keys of which this side has none are not
    /// counted: the other side counts them.
    pub(crate) fn excessive_work(&self) -> Option<String> {
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
            let keyed = keyed.with_proof(self.replay.is_some());

            hashes.extend(
                keyed
                    .body_hashes()
                    .map(|(key, text, times)| ((key, text), times as u64)),
            );
        }

        let times: u64 = hashes.values().sum();
        let most = times.saturating_mul(self.max_body);
        (most > limits::GATE_HASHED_BYTES).then(|| {
            format!(
                "a request could cost {} MiB of hashing ({times} times max_body, {} MiB), more than {} MiB; use fewer \
                 alternatives or secrets, or a smaller max_body",
                most / limits::MIB,
                self.max_body / limits::MIB,
                limits::GATE_HASHED_BYTES / limits::MIB
            )
        })
    }

    /// Every mistake but those of its alternatives.
    pub(crate) fn own_mistakes(&self, now: UnixMillis) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut mistake = |what: String| mistakes.push(what);

        if self.paths.is_empty() {
            mistake("it has no path".to_owned());
        }

        for path in &self.paths {
            if path.len() > limits::PATTERN_BYTES {
                mistake(format!(
                    "a path has more than {} bytes",
                    limits::PATTERN_BYTES
                ));
            } else if let Err(what) = PathPattern::parse(path) {
                mistake(what);
            }
        }

        for name in &self.methods {
            if !Method::from_bytes(name.as_bytes())
                .is_ok_and(|method| syntax::is_known_method(&method))
            {
                mistake(format!(
                    "the method {name:?} can't pass; choose from GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
                ));
            }
        }

        if self.max_body == 0 || self.max_body > limits::AGENT_BODY_MEMORY / BODY_MEMORY_SHARES {
            mistake(format!(
                "max_body lies outside 1B to {} MiB",
                limits::AGENT_BODY_MEMORY / BODY_MEMORY_SHARES / limits::MIB
            ));
        }

        let below = |path: &String| path.ends_with("/**");
        if self.encoded_slashes && !self.paths.iter().any(below) {
            mistake("encoded_slashes has no effect: no path ends with /**".to_owned());
        }

        if self.keep_token
            && self
                .accept
                .iter()
                .all(|accept| accept.token.is_none() && accept.basic.is_none())
        {
            mistake("keep_token has no effect: there is no token".to_owned());
        }

        let opens = || {
            self.accept.iter().any(Accept::opens_websocket)
                && self.admitted_methods().contains(&Method::GET)
        };
        if self.websocket && !opens() {
            mistake(
                "websocket has no effect: a WebSocket is a GET without a body, which these providers do not sign"
                    .to_owned(),
            );
        }

        if matches!(self.mode, Mode::Observe { .. }) && self.accept.iter().any(|accept| accept.open)
        {
            mistake(
                "observe_until has no effect: an alternative is open, so nothing is refused"
                    .to_owned(),
            );
        }

        let longest = limits::ANSWER_TIMEOUT_MAX;
        if self.answer_timeout_ms == 0 || u128::from(self.answer_timeout_ms) > longest.as_millis() {
            mistake(format!(
                "answer_timeout lies outside 1ms to {} s",
                longest.as_secs()
            ));
        }

        if let Mode::Observe { until } = self.mode {
            let latest =
                now.seconds() + u64::try_from(limits::OBSERVE_DAYS).unwrap_or_default() * 86_400;
            if until > latest {
                mistake(format!(
                    "observe_until is more than {} days ahead",
                    limits::OBSERVE_DAYS
                ));
            }
        }

        if let Some(replay) = self.replay {
            if !REPLAY_WINDOW_MS.contains(&replay.window_ms) {
                mistake("replay: window lies outside 1s to 30 days".to_owned());
            }

            if !self
                .accept
                .iter()
                .any(|accept| accept.verify.iter().any(SignatureCheck::identifies))
            {
                mistake(
                    "replay has no effect: nothing here tells one delivery from another".to_owned(),
                );
            }

            let at_agent = |check: &SignatureCheck| check.secret_at == SecretAt::Agent;
            if replay.on_duplicate != OnDuplicate::Forward
                && self
                    .accept
                    .iter()
                    .any(|accept| accept.verify.iter().any(at_agent))
            {
                mistake(
                    "replay needs the secret at the relay, which remembers deliveries: a forged one would be taken for the first"
                        .to_owned(),
                );
            }
        }

        if self.accept.is_empty() {
            mistake("it has no accept, so nothing could pass".to_owned());
        }

        for (what, count) in [
            ("paths", self.paths.len()),
            ("methods", self.methods.len()),
            ("alternatives", self.accept.len()),
        ] {
            if count > limits::ITEMS_PER_ROUTE {
                mistake(format!(
                    "it has {count} {what}, more than {}",
                    limits::ITEMS_PER_ROUTE
                ));
            }
        }

        for what in self.deny_ips.mistakes() {
            mistake(format!("deny_ips: {what}"));
        }

        mistakes
    }
}

/// Which requests a route is about.
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

    /// Returns `true` if this route takes every request of the other.
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

impl Addresses {
    fn mistakes(&self) -> Vec<String> {
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

    /// Returns `true` if a request without a body can pass: by what stands in its head, or by a
    /// signature of its URL, as Twilio signs WebSockets (twilio.com/docs/usage/security).
    fn opens_websocket(&self) -> bool {
        let signs_url = |check: &SignatureCheck| {
            check
                .schemes()
                .is_ok_and(|schemes| schemes.iter().any(crate::providers::Scheme::signs_url))
        };
        !self.needs_body() || self.body.is_empty() && self.verify.iter().all(signs_url)
    }

    /// Returns the kinds of checks that the accept rule lacks.
    pub(crate) fn lacks(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !self.open && !self.is_protected() {
            mistakes.push(
                "it has no address range (0.0.0.0/0 and ::/0 are none), no token and no signature; \
                 add one, or say open = true if everybody may send"
                    .to_owned(),
            );
        }

        if self
            .token
            .iter()
            .chain(&self.basic)
            .any(|check| check.active.is_empty())
        {
            mistakes.push("the token has no secret".to_owned());
        }

        mistakes.extend(self.verify.iter().filter_map(SignatureCheck::lacks));
        mistakes
    }

    /// Returns the errors of the accept rule.
    pub(crate) fn mistakes(&self, deny: &AddressSet) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.open && self.is_protected() {
            mistakes.push("it says open = true beside a check; take one of them away".to_owned());
        }

        if let Some(ips) = &self.allow_ips {
            if ips.is_empty() {
                mistakes.push("allow_ips is an empty list, so nobody could pass".to_owned());
            } else if ips.named.is_empty() && ips.set().is_within(deny) {
                mistakes.push("every address of allow_ips is denied by deny_ips".to_owned());
            }

            mistakes.extend(
                ips.mistakes()
                    .into_iter()
                    .map(|what| format!("allow_ips: {what}")),
            );
        }

        let tokens: Vec<&TokenCheck> = self.token.iter().chain(&self.basic).collect();
        let empty = |values: &Vec<String>| values.is_empty();
        if self.headers.iter().any(|rule| empty(&rule.allowed))
            || self.body.iter().any(|rule| empty(&rule.allowed))
        {
            mistakes.push(
                "a rule about a header or the body allows no value, so nothing could pass"
                    .to_owned(),
            );
        }

        let token = |text: &str| !text.is_empty() && text.parse::<http::HeaderName>().is_ok();
        for kind in &self.content_types {
            if !kind
                .split_once('/')
                .is_some_and(|(kind, of)| token(kind) && token(of))
            {
                mistakes.push(format!(
                    "content_type: {kind:?} is no media type such as application/json"
                ));
            }
        }

        let rules =
            self.headers.len() + self.body.len() + self.content_types.len() + self.verify.len();
        if rules > limits::ITEMS_PER_ROUTE {
            mistakes.push(format!(
                "it has {rules} rules, more than {}",
                limits::ITEMS_PER_ROUTE
            ));
            return mistakes;
        }

        let live = tokens
            .iter()
            .map(|check| check.active.len())
            .chain(self.verify.iter().map(|check| check.secrets.len()));
        if live.max().unwrap_or_default() > limits::ACTIVE_SECRETS {
            mistakes.push(format!(
                "more than {} secrets are live at one time",
                limits::ACTIVE_SECRETS
            ));
            return mistakes;
        }

        mistakes.extend(self.verify.iter().flat_map(SignatureCheck::mistakes));
        mistakes
    }
}

impl SignatureCheck {
    /// Returns `true` if the check can tell deliveries apart: by signed content, or by the
    /// provider's id.
    fn identifies(&self) -> bool {
        self.coverage() > Coverage::Nothing
            || self.row().is_some_and(|row| !row.delivery.is_empty())
    }

    /// Returns a mistake if it lacks a secret, unless the keys are fetched or the secret is
    /// elsewhere.
    fn lacks(&self) -> Option<String> {
        let fetched = self
            .schemes()
            .is_ok_and(|schemes| schemes.iter().any(|scheme| scheme.fetch.is_some()));
        let lacks =
            self.secrets.is_empty() && self.secret_at == SecretAt::Relay && !fetched && !self.pair;
        lacks.then(|| format!("{}: no secret is given", self.title()))
    }

    fn mistakes(&self) -> Vec<String> {
        let schemes = match self.schemes() {
            Ok(schemes) => schemes,
            Err(what) => return vec![what],
        };
        let name = self.title();
        let mut mistakes = Vec::new();

        for scheme in &schemes {
            if let Err(what) = scheme.check() {
                return vec![format!("{name}: {what}")];
            }
        }

        let secrets: Vec<Secret> = self
            .secrets
            .iter()
            .map(|live| live.secret.clone())
            .collect();
        if let Err(what) = SignatureVerifier::new(&schemes, &self.shape(), &secrets, None) {
            mistakes.push(format!("{name}: {what}"));
        }

        if let Some(origin) = &self.origin {
            let url = hookward_core::url::HttpsUrl::parse(origin);
            if url.is_err() || origin.matches('/').count() > 2 {
                mistakes.push(format!(
                    "{name}: origin is written https://HOST or https://HOST:PORT"
                ));
            } else if !schemes.iter().any(crate::providers::Scheme::signs_url) {
                mistakes.push(format!(
                    "{name}: origin has no effect: the URL is not signed"
                ));
            }
        }

        let challenges = self.row().map_or(&[][..], |row| row.challenges.as_slice());
        if self.challenge && challenges.is_empty() {
            mistakes.push(format!(
                "{name}: challenge has no effect: it has no handshake"
            ));
        }

        if self.pair && !challenges.iter().any(|challenge| challenge.pair.is_some()) {
            mistakes.push(format!(
                "{name}: it does not tell its secret in a handshake, so there is nothing to pair"
            ));
        }

        mistakes
    }
}
