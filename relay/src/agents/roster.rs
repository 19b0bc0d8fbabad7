//! Who may connect, as it changes: `hookward-relay agent` works beside the relay, on its state file. Every change is
//! logged, so that the log says who was admitted and when.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::store::{AgentRow, Store};

/// How often the state file is read.
const REVIEW: Duration = Duration::from_secs(3);

/// Logs every change of the agents until `stop` is cancelled.
pub(crate) async fn log_changes(store: Store, stop: CancellationToken) {
    let mut due = interval(REVIEW);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Option<BTreeMap<String, AgentRow>> = None;
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = stop.cancelled() => return,
        }
        // What reads the state file for a request says that it fails.
        let Ok(agents) = store.run(Store::list_agents).await else { continue };
        let now: BTreeMap<_, _> = agents.into_iter().map(|agent| (agent.name.clone(), agent)).collect();
        if let Some(before) = &known {
            log_difference(before, &now);
        }
        known = Some(now);
    }
}

fn log_difference(before: &BTreeMap<String, AgentRow>, now: &BTreeMap<String, AgentRow>) {
    for (name, agent) in now {
        match before.get(name) {
            None => tracing::info!(target: "audit", event = "agent_added", agent = name, "an agent was added"),
            Some(old) if old.joined != agent.joined => {
                tracing::info!(target: "audit", event = "agent_joined", agent = name, "an agent has joined");
            }
            Some(old) if old.hosts != agent.hosts => {
                let hosts = agent.hosts.join(" ");
                tracing::info!(target: "audit", event = "agent_hosts", agent = name, hosts, "an agent's hosts have changed");
            }
            Some(_) => {}
        }
    }
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        tracing::info!(target: "audit", event = "agent_removed", agent = name, "an agent was removed");
    }
}
