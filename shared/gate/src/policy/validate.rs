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

    /// Returns an error if one request could make the gate hash more than its limit: distinct keys
    /// and signed texts, each over the largest body. The other side counts keys that this side
    /// lacks.
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
                 accept rules or secrets, or a smaller max_body",
                most / limits::MIB,
                self.max_body / limits::MIB,
                limits::GATE_HASHED_BYTES / limits::MIB
            )
        })
    }

    /// Returns every error except those of its accept rules.
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
                mistake(what.to_string());
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
                "observe_until has no effect: an accept rule is open, so nothing is refused"
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
                mistake("replay has no effect: no check identifies a delivery".to_owned());
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
            ("accept rules", self.accept.len()),
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
