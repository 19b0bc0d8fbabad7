//! A compiled route.

use super::Side;
use super::accept::{AcceptRule, AddressRule, RouteMemory};
use super::evaluation::Evaluation;
use super::permit::RouteSettings;
use crate::inspection::{BodyFields, BodyFieldsBuilder};
use crate::policy::{Mode, OnDuplicate, ReplayProtection, Route};
use hookward_core::path::PathPattern;
use hookward_core::rate::Rate;
use hookward_core::reason::Reason;
use hookward_core::reason::{Check, Code, Refusal};
use http::Method;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct CompiledRoute {
    pub(super) settings: RouteSettings,
    pub(super) paths: Vec<PathPattern>,
    pub(super) methods: Vec<Method>,
    pub(super) deny: AddressRule,
    pub(super) rate: Option<Rate>,
    pub(super) replay: Option<ReplayProtection>,
    /// `true` if the policy refuses repeated deliveries. On the agent, the relay's claims are unknown.
    pub(super) refuses_repeats: bool,
    pub(super) mode: Mode,
    pub(super) accept: Vec<AcceptRule>,
    /// Checks of each accept rule, in their order.
    pub(super) checks: Vec<Arc<[Check]>>,
    /// Body fields that its checks read.
    pub(super) body_fields: Arc<BodyFields>,
}

/// Returns the checks of an accept rule together with those of its route.
fn checks_of(route: &Route, rule: &AcceptRule, side: Side) -> Arc<[Check]> {
    let mut checks = vec![Check::Path, Check::Method];
    if !route.deny_ips.is_empty() {
        checks.push(Check::Address);
    }
    checks.extend(rule.checks());
    if side == Side::Relay && route.replay.is_some() {
        checks.push(Check::Replay);
    }
    checks.dedup();
    checks.into()
}

pub(super) fn no_route() -> Refusal {
    Refusal::new(Check::Path, Code::NotFound, "no route has this path")
}

impl CompiledRoute {
    /// Returns the evaluation on this route, which may only report failed checks at this time.
    pub(super) const fn evaluation<'e>(&self, evaluation: Evaluation<'e>) -> Evaluation<'e> {
        let now = evaluation.now.wall;
        let observes = matches!(self.mode, Mode::Observe { until } if now.seconds() < until);
        evaluation.observing(observes)
    }

    pub(super) fn new(route: &Route, side: Side) -> Result<Self, Reason> {
        let paths = route
            .paths
            .iter()
            .map(|path| PathPattern::parse(path))
            .collect::<Result<_, _>>()?;
        let memory = RouteMemory {
            stores: route.stores(),
            remembers: route.replay.is_some(),
        };
        let rules = route.accept.iter().enumerate();
        let accept = rules.map(|(number, accept)| AcceptRule::new(accept, number, side, memory));
        let accept = accept.collect::<Result<Vec<_>, _>>()?;

        let mut places = BodyFieldsBuilder::default();
        accept
            .iter()
            .for_each(|rule| rule.add_body_fields(&mut places));

        let checks = accept
            .iter()
            .map(|rule| checks_of(route, rule, side))
            .collect();

        Ok(Self {
            settings: RouteSettings {
                name: route.name.clone(),
                max_body: route.max_body,
                answer_timeout: Duration::from_millis(route.answer_timeout_ms),
                websocket: route.websocket,
                keep_token: route.keep_token,
                encoded_slashes: route.encoded_slashes,
                paths: route.paths.clone(),
                delivery: route.delivery.clone(),
            },
            paths,
            methods: route.admitted_methods(),
            deny: AddressRule::new(&route.deny_ips),
            rate: route.rate.filter(|_| side == Side::Relay),
            replay: route.replay.filter(|_| side == Side::Relay),
            refuses_repeats: route
                .replay
                .is_some_and(|replay| replay.on_duplicate != OnDuplicate::Forward),
            mode: route.mode,
            accept,
            checks,
            body_fields: Arc::new(places.finish()),
        })
    }

    /// Returns `true` if one of its patterns matches this path.
    pub(super) fn has_path(&self, path: &[u8]) -> bool {
        self.paths
            .iter()
            .any(|pattern| pattern.matches(path, self.settings.encoded_slashes))
    }
}
