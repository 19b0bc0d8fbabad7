//! Audit of changes to the agents. `hookward-relay agent` works on the state file of a running
//! relay, so the log names each change within seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use hookward_runtime::interval::every;
use tokio_util::sync::CancellationToken;

use crate::storage::Store;
use crate::storage::agents::AgentRow;

/// Logs every change of the agents until `stop` is cancelled.
pub(crate) async fn log_changes(store: Store, stop: CancellationToken) {
    let mut due = every(REVIEW);
    let mut known: Option<BTreeMap<String, AgentRow>> = None;

    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = stop.cancelled() => return,
        }

        // Request handling reports read errors.
        let Ok(agents) = store.run(Store::list_agents).await else {
            continue;
        };
        let now: BTreeMap<_, _> = agents
            .into_iter()
            .map(|agent| (agent.name.clone(), agent))
            .collect();

        if let Some(before) = &known {
            log_difference(before, &now);
        }

        known = Some(now);
    }
}

/// Interval between two reads of the state file.
const REVIEW: Duration = Duration::from_secs(3);

fn log_difference(before: &BTreeMap<String, AgentRow>, now: &BTreeMap<String, AgentRow>) {
    for (name, agent) in now {
        let old = before.get(name);
        let is_same = old.is_some_and(|old| old.identity.0 == agent.identity.0);
        if let Some(old) = old.filter(|_| !is_same) {
            log_removed(&old.name);
        }

        if !is_same {
            tracing::info!(target: "audit", event = "agent_added", agent = name, "an agent was added");
        }

        let old = old.filter(|_| is_same);
        if agent.joined && old.is_none_or(|old| old.identity != agent.identity) {
            tracing::info!(target: "audit", event = "agent_joined", agent = name, "an agent joined");
        }

        if old.map_or(!agent.hosts.is_empty(), |old| old.hosts != agent.hosts) {
            let hosts = agent.hosts.join(" ");
            tracing::info!(target: "audit", event = "agent_hosts", agent = name, hosts, "the hosts of an agent changed");
        }
    }

    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        log_removed(name);
    }
}

fn log_removed(agent: &str) {
    tracing::info!(target: "audit", event = "agent_removed", agent, "an agent was removed");
}
