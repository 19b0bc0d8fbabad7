//! Maximum values of policies, by the relay's settings.

use crate::policy::{DeliveryMode, Policy, Route};
use hookward_core::limits::Limits;

/// Maximum values that the relay's settings allow a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyLimits {
    /// Maximum number of routes.
    pub routes: usize,
    /// Maximum number of address ranges.
    pub ranges: usize,
    /// Maximum size of a body that a check reads, in bytes.
    pub body: u64,
    /// Maximum timeout for the head of the application's response, in milliseconds.
    pub answer_timeout_ms: u64,
    /// Maximum rate of the tunnel, in requests a second.
    pub rate: u64,
    /// `true` if the relay stores webhooks.
    pub stores: bool,
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
            stores: true,
        }
    }

    /// Returns these limits for a relay that stores webhooks, or does not.
    #[must_use]
    pub const fn storing(self, stores: bool) -> Self {
        Self { stores, ..self }
    }

    /// Returns every limit that the policy exceeds, by its name in the relay's settings.
    #[must_use]
    pub fn exceeded_by(&self, policy: &Policy) -> Vec<String> {
        let mut found = Vec::new();
        let mut beyond = |name: &str, asked: u64, most: u64, unit: &str| {
            if asked > most {
                found.push(format!(
                    "the relay's limit {name} is {most}{unit}, and this policy has {asked}{unit}"
                ));
            }
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
            policy.routes.iter().map(ranges_of).sum::<usize>() as u64,
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

        let stored = policy.routes.iter().find(|route| {
            let mode = route.delivery.as_ref().map(|delivery| delivery.mode);
            matches!(mode, Some(DeliveryMode::Queue | DeliveryMode::Fallback))
        });
        if let Some(route) = stored.filter(|_| !self.stores) {
            found.push(format!(
                "route {:?} stores webhooks, and the relay does not ([delivery] enabled = false); write delivery = \
                 \"direct\"",
                route.name
            ));
        }

        found
    }
}

/// Returns the number of address ranges of a route.
fn ranges_of(route: &Route) -> usize {
    let allowed = route
        .accept
        .iter()
        .filter_map(|accept| accept.allow_ips.as_ref());

    allowed
        .chain([&route.deny_ips])
        .map(|addresses| addresses.ranges.len())
        .sum()
}
