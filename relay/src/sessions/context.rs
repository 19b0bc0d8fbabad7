//! The relay as sessions use it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use hookward_core::address::AddressSet;
use hookward_core::clock::Clock;
use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName};
use hookward_gate::policy::summary::Summary;
use hookward_observe::audit::{Act, Actor, AuditLog, Causer, LimitedKind};
use hookward_tunnel::transport::liveness::Liveness;
use serde_json::json;
use tokio::sync::watch;

use crate::fetch::ip_sets::IpSetUpdater;
use crate::observe::Observer;
use crate::sessions::failed_joins::FailedJoins;
use crate::sessions::registry::Registry;
use crate::storage::Store;
use crate::storage::agents::AgentScope;

/// State that sessions need.
pub(crate) struct SessionContext {
    /// Registry of hosts and sessions.
    pub registry: Registry,
    /// Persistent state.
    pub store: Store,
    /// Number of changes of agents in it, which may come from other processes.
    pub agents_revision: watch::Receiver<u64>,
    /// Failed joins by client.
    pub failed_joins: FailedJoins,
    /// Clock.
    pub clock: Clock,
    pub limits: Limits,
    /// Maximum age of stored webhooks; `None` if the relay stores none.
    pub stored_for: Option<Duration>,
    /// Methods of the API that agents call.
    pub deliveries_api: Router,
    pub domain: HostName,
    /// Reserved hosts of the relay's settings.
    pub reserved_hosts: Arc<ArcSwap<BTreeMap<HostName, AgentName>>>,
    /// Port in public URLs.
    pub public_port: u16,
    /// Named address sets.
    pub ip_sets: IpSetUpdater,
    /// Trusted proxies, which are never locked out.
    pub trusted_proxies: AddressSet,
    /// Policies in force, for the audit log and the admin API.
    pub in_force: PoliciesInForce,
    /// Observer of requests and sessions.
    pub observer: Arc<Observer>,
}

/// The policy in force of each host, so that each change is recorded once.
#[derive(Default)]
pub(crate) struct PoliciesInForce(
    // A std mutex: it guards a small map, and nothing waits while it is held.
    Mutex<HashMap<HostName, Arc<Summary>>>,
);

impl PoliciesInForce {
    /// Returns the digest of the policy in force for a host.
    pub(crate) fn digest(&self, host: &HostName) -> Option<String> {
        self.summary(host).map(|summary| summary.digest.clone())
    }

    /// Returns the summary of the policy in force for a host.
    pub(crate) fn summary(&self, host: &HostName) -> Option<Arc<Summary>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(host).cloned()
    }

    /// Records and logs the policy of a host, unless it was in force before.
    pub(crate) fn note(
        &self,
        host: &HostName,
        agent: &AgentName,
        summary: Arc<Summary>,
        peer: IpAddr,
        audit: &AuditLog,
    ) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(host.clone(), Arc::clone(&summary));
        drop(known);
        let before = before.map(|before| before.digest.clone());
        if before.as_ref() == Some(&summary.digest) {
            return;
        }

        tracing::info!(
            event = "policy_in_force", %agent, %host, policy = summary.digest,
            lets_in = summary.lines.join("; "), "policy in force"
        );
        let kind = LimitedKind {
            event: "policy_in_force",
            reason: "",
        };
        audit.limited(Causer::Agent, peer, kind, || Act {
            actor: Actor::agent(agent),
            details: json!({
                "tunnel": host.as_str(),
                "agent": agent.as_str(),
                "policy": summary.digest,
                "previous": before,
                "lets_in": summary.lines,
            }),
        });
    }
}

impl SessionContext {
    /// Returns the keep-alive settings of agents' connections.
    #[must_use]
    pub(crate) const fn liveness(&self) -> Liveness {
        Liveness::with_idle_timeout(self.limits.tunnel_idle_timeout)
    }

    /// Returns the host of an agent that requests none: a reserved host, the first one of its scope, or
    /// its name below the domain.
    #[must_use]
    pub(crate) fn host_of(&self, agent: &AgentName, scope: &AgentScope) -> HostName {
        let given = self
            .reserved_hosts
            .load()
            .iter()
            .find(|(_, owner)| *owner == agent)
            .map(|(name, _)| name.clone());
        let given = given.or_else(|| scope.hosts.first().cloned());
        given.unwrap_or_else(|| self.domain.child(agent))
    }
}
