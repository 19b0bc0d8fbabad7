//! A tunnel's policy as the inspector uses it: to explain verdicts, to find secrets, and to sign.

use std::net::IpAddr;
use std::sync::Arc;

use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_gate::engine::explain::{self, Explanation};
use hookward_gate::engine::{Evaluation, Gate, GateState, Request, Side};
use hookward_gate::inspection::Work;
use hookward_gate::policy::{Policy, SecretAt};

use hookward_gate::redaction::Redaction;

/// Policy of a tunnel, for the inspector.
pub(crate) struct InspectedPolicy {
    /// Policy with its secrets.
    pub policy: Policy,
    /// Gate that runs all checks, those of the relay and those of the agent.
    gate: Option<Arc<Gate>>,
    pub(super) redaction: Redaction,
}

impl InspectedPolicy {
    /// Prepares a policy that is valid at this time. Values with the names of `redacted` are not kept.
    pub(crate) fn new(policy: &Policy, redacted: &[String], now: UnixMillis) -> Self {
        let whole = with_all_secrets(policy.clone());
        Self {
            gate: Gate::compile(&whole, Side::Relay, now).ok().map(Arc::new),
            redaction: Redaction::of(policy, redacted),
            policy: policy.clone(),
        }
    }

    /// Explains a request, check by check. Counts nothing. `work` bounds the cost of advice.
    pub(super) fn explain(
        &self,
        request: &Request<'_>,
        (client, now): (IpAddr, UnixMillis),
        keys: &FetchedKeys,
        work: &Arc<Work>,
    ) -> Option<Explanation> {
        let state = GateState::default();
        let evaluation = Evaluation::new(client, now, &state).with_keys(keys);
        let gate = self.gate.as_ref()?;
        Some(explain::explain_within(gate, request, evaluation, work))
    }
}

/// Returns the policy with the checks whose secret stays on the agent: here they can run.
pub(crate) fn with_all_secrets(mut policy: Policy) -> Policy {
    let rules = policy.routes.iter_mut().flat_map(|route| &mut route.accept);
    for check in rules.flat_map(|rule| &mut rule.verify) {
        check.secret_at = SecretAt::Relay;
    }
    policy
}
