//! Validation of policies: errors, and warnings for the owner. Relay and agent each run it.

mod accept;
mod policy_limits;
mod route;
mod signature;

use http::Method;

pub use self::policy_limits::PolicyLimits;
use crate::policy::{Accept, Mode, Policy, Route};
use crate::providers::{self, Coverage};
use hookward_core::clock::UnixMillis;
use hookward_core::ip_sets;
use hookward_core::limits;
use hookward_core::path::PathPattern;
use hookward_core::text::is_invisible;

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

            let is_long = route.name.chars().count() > MAX_ROUTE_NAME;
            if is_long || route.name.chars().any(is_invisible) {
                found.push(format!(
                    "a name has at most {MAX_ROUTE_NAME} characters, all of them visible"
                ));
            }

            let shown: String = route.name.chars().take(MAX_ROUTE_NAME).collect();
            earlier.push((&route.name, reach));
            mistakes.extend(
                found
                    .into_iter()
                    .map(|what| format!("route {shown:?}: {what}")),
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

/// Maximum length of a route's name, in characters. It is in every record of a forwarded request, and
/// in labels of metrics.
pub(super) const MAX_ROUTE_NAME: usize = 200;

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
