//! Opens the tunnels of a session.

use crate::sessions::active::ActiveSession;
use crate::sessions::context::SessionContext;
use crate::sessions::registry::PolicyVersion;
use crate::storage::StorageError;
use crate::storage::agents::AgentScope;
use crate::storage::hosts::HostClaim;
use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName, origin_of};
use hookward_core::rate::Rate;
use hookward_gate::engine::{Gate, GateState, Side};
use hookward_gate::policy::summary::Summary;
use hookward_gate::policy::{Policy, PolicyLimits};
use hookward_tunnel::protocol::control::{RefusedReason, RelayMessage};
use std::sync::Arc;

/// A refusal that ends the session.
pub(super) struct OpenRefused(pub(super) RefusedReason, pub(super) String);

impl From<StorageError> for OpenRefused {
    fn from(error: StorageError) -> Self {
        tracing::error!(%error, "state file failed");
        Self(
            RefusedReason::Unavailable,
            "the relay can't access its state file; try again later".to_owned(),
        )
    }
}

pub(super) async fn open(
    name: HostName,
    mut policy: Policy,
    revision: u64,
    live: &Arc<ActiveSession>,
    scope: &AgentScope,
    host: &SessionContext,
) -> Result<RelayMessage, OpenRefused> {
    let bounds = PolicyLimits::of(&host.limits).storing(host.stored_for.is_some());
    let (rate, given) = (scope.rate, scope.hosts.clone());
    let held_to = Arc::new(scope.clone());
    let scope = Arc::clone(&held_to);
    // Resolving 100,000 addresses takes long, so it must not block other agents' requests.
    let now = host.clock.now();
    let compiled = tokio::task::spawn_blocking(move || {
        let mut beyond = bounds.exceeded_by(&policy);
        beyond.extend(scope.exceeded_by(&policy));
        if !beyond.is_empty() {
            return Err(beyond);
        }
        // The agent compares the digest with that of its own policy.
        let summary = Arc::new(Summary::of(&policy));
        scope.apply_to(&mut policy);
        let stored_for = policy.stored_for();
        let gate = Gate::compile(&policy, Side::Relay, now)?;
        Ok((gate, summary, stored_for))
    });

    let compiled = compiled.await.map_err(|_| {
        OpenRefused(
            RefusedReason::Unavailable,
            "the relay is stopping".to_owned(),
        )
    })?;

    let (gate, summary, stored_for) = match compiled {
        Ok(compiled) => compiled,
        // An open tunnel keeps its policy.
        Err(mistakes) if host.registry.is_served_by(name.as_str(), live) => {
            return Ok(RelayMessage::PolicyRejected {
                message: mistakes.join("; "),
            });
        }
        Err(mistakes) => return Err(OpenRefused(RefusedReason::Policy, mistakes.join("; "))),
    };

    let gate = match host.limits.policy_rate {
        rate if rate < Limits::default().policy_rate => {
            gate.at_most(Rate::per_second(u32::try_from(rate).unwrap_or(u32::MAX)))
        }
        _ => gate,
    };
    let gate = gate.at_most_for_agent(rate);

    // Reserved hosts belong to the agent in the settings, even if another one owned them before.
    if !host.reserved_hosts.load().contains_key(&name) {
        let (claimed, of_name, agent) =
            (name.clone(), name.agent_below(&host.domain), live.agent.id);

        match host
            .store
            .run(move |store| store.claim_host(&claimed, of_name.as_ref(), agent))
            .await?
        {
            HostClaim::Owned => {}
            HostClaim::Taken(owner) => {
                return Err(OpenRefused(
                    RefusedReason::Host,
                    format!("{name} belongs to the agent {owner}; choose another --host"),
                ));
            }
            HostClaim::OutOfScope => {
                return Err(out_of_scope(&name, &live.agent.name, &given));
            }
            HostClaim::TooMany => {
                return Err(OpenRefused(
                    RefusedReason::Host,
                    "this agent already owns the maximum number of hosts".to_owned(),
                ));
            }
        }
    }

    tracing::info!(agent = %live.agent.name, host = %name, "tunnel open");
    host.ip_sets.want(&gate.named_sets());
    let origin = origin_of(name.as_str(), host.public_port);
    let state = GateState::new(host.ip_sets.sets.clone(), host.trusted_proxies.clone());
    let gate = Arc::new(gate);

    host.registry.open(
        name.clone(),
        origin.into(),
        PolicyVersion {
            gate: Arc::clone(&gate),
            revision,
            scope: held_to,
        },
        state,
        live,
    );

    // A policy that arrives late is not in force: the agent learns which one is.
    let in_force = host.registry.find(name.as_str());
    let is_in_force = in_force
        .and_then(|tunnel| tunnel.gate)
        .is_some_and(|used| Arc::ptr_eq(&used, &gate));
    if is_in_force {
        let (peer, audit) = (live.session.peer().ip(), host.observer.audit());
        host.in_force
            .note(&name, &live.agent.name, Arc::clone(&summary), peer, audit);
    }

    Ok(RelayMessage::Opened {
        host: name.to_string(),
        port: host.public_port,
        digest: match is_in_force {
            true => Some(summary.digest.clone()),
            false => host.in_force.digest(&name),
        },
        stored_for_ms: host
            .stored_for
            .zip(stored_for)
            .map(|(most, wanted)| u64::try_from(most.min(wanted).as_millis()).unwrap_or(u64::MAX)),
    })
}

/// Chooses the host of a tunnel: the requested one, if the agent may have it.
pub(super) fn choose_host(
    wanted: Option<&str>,
    agent: &AgentName,
    scope: &AgentScope,
    host: &SessionContext,
) -> Result<HostName, OpenRefused> {
    let refused = |what: String| OpenRefused(RefusedReason::Host, what);
    let name = match wanted {
        None => host.host_of(agent, scope),
        Some(text) if text.contains('.') => {
            HostName::parse(text).ok_or_else(|| refused(format!("{text:?} is not a host name")))?
        }
        Some(text) => {
            let label = AgentName::parse(text)
                .ok_or_else(|| refused(format!("{text:?} is not a host name")))?;
            host.domain.child(&label)
        }
    };

    match host.reserved_hosts.load().get(&name) {
        Some(owner) if owner == agent => Ok(name),
        Some(owner) => Err(refused(format!(
            "{name} is given to the agent {owner} by the relay's settings"
        ))),
        None if scope.hosts.contains(&name) => Ok(name),
        None if !scope.allows_host(&name) => Err(out_of_scope(&name, agent, &scope.hosts)),
        None if name.is_child_of(&host.domain) => Ok(name),
        None => Err(refused(format!(
            "{name} is not one label below {}; the relay's settings can give it to this agent: \
             [hosts] \"{name}\" = \"{agent}\"",
            host.domain
        ))),
    }
}

fn out_of_scope(name: &HostName, agent: &AgentName, given: &[HostName]) -> OpenRefused {
    let all = given.iter().chain([name]);
    let flags: String = all.map(|host| format!(" --host {host}")).collect();
    OpenRefused(
        RefusedReason::Host,
        format!(
            "the relay does not give {name} to the agent {agent}; its administrator can: \
             hookward-relay agent set {agent}{flags}"
        ),
    )
}
