//! Observation of the agent's work: every event passes here before it is broadcast. The observer
//! counts ([`metrics`], [`activity`]) and writes the audit log ([`audit`]).

pub(crate) mod activity;
mod audit;
mod metrics;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookward_observe::audit::{Actor, AuditLog};
use serde_json::json;

use self::activity::TunnelActivity;
pub(crate) use self::metrics::AgentMetrics;
use crate::events::{Event, EventObserver, Ready, RequestEvent, RequestResult};

/// Observer of an agent.
pub struct AgentObserver {
    audit: AuditLog,
    metrics: AgentMetrics,
    // A std mutex: it guards counters, and nothing waits while it is held.
    tunnels: Mutex<BTreeMap<String, ObservedTunnel>>,
}

/// A tunnel that was open at least once.
#[derive(Clone)]
pub(crate) struct ObservedTunnel {
    /// URL without path and token.
    pub base_url: String,
    pub application: String,
    pub activity: TunnelActivity,
}

impl AgentObserver {
    /// Creates an observer that records in this log.
    #[must_use]
    pub fn new(audit: AuditLog) -> Self {
        Self {
            audit,
            metrics: AgentMetrics::new(),
            tunnels: Mutex::default(),
        }
    }

    /// Returns the audit log.
    pub(crate) const fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Returns the counters.
    pub(crate) const fn metrics(&self) -> &AgentMetrics {
        &self.metrics
    }

    /// Returns the tunnels, by host.
    pub(crate) fn tunnels(&self) -> BTreeMap<String, ObservedTunnel> {
        self.lock().clone()
    }

    /// Returns the durations that these shares of the last requests did not exceed, of all tunnels;
    /// `None` without requests.
    pub(crate) fn durations<const N: usize>(&self, shares: [f64; N]) -> Option<[Duration; N]> {
        let tunnels = self.lock();
        let all = tunnels
            .values()
            .flat_map(|tunnel| tunnel.activity.durations());
        let mut sorted: Vec<_> = all.collect();
        drop(tunnels);
        if sorted.is_empty() {
            return None;
        }
        sorted.sort_unstable();
        Some(shares.map(|share| activity::percentile(&sorted, share)))
    }

    fn ready(&self, ready: &Ready) {
        let mut tunnels = self.lock();
        let tunnel = tunnels
            .entry(ready.host.clone())
            .or_insert_with(|| ObservedTunnel {
                base_url: ready.base_url.clone(),
                application: ready.application.clone(),
                activity: TunnelActivity::default(),
            });
        tunnel.base_url.clone_from(&ready.base_url);
        drop(tunnels);

        let details = json!({
            "tunnel": ready.host,
            "relay": ready.relay,
            "transport": ready.transport,
            "application": ready.application,
        });
        self.audit.act("tunnel_open", Actor::program(), details);
    }

    fn disconnected(&self, reason: &str) {
        let details = json!({ "reason": reason });
        self.audit.act("disconnected", Actor::program(), details);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ObservedTunnel>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventObserver for AgentObserver {
    fn request(&self, request: &RequestEvent) {
        self.metrics.request(request);
        audit::request(&self.audit, request);
        if let Some(tunnel) = self.lock().get_mut(&*request.host) {
            let is_answer = matches!(request.outcome, RequestResult::Answered { .. });
            tunnel.activity.count(is_answer.then_some(request.took));
        }
    }

    fn event(&self, event: &Event) {
        match event {
            Event::Ready(ready) => self.ready(ready),
            Event::Disconnected { reason } => self.disconnected(reason),
            Event::RelayDisconnected { reason, .. } => self.disconnected(reason),
            Event::Connecting { .. }
            | Event::Request(_)
            | Event::Refused(_)
            | Event::RefusedSummary(_)
            | Event::Api { .. }
            | Event::Stopping { .. }
            | Event::Application { .. }
            | Event::Note(_)
            | Event::Warning(_) => {}
        }
    }
}
