//! Records administrative acts that other processes stored with their changes.

use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_observe::audit::Actor;
use hookward_runtime::interval::every;
use serde::Serialize;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

use crate::observe::Observer;
use crate::storage::Store;
use crate::storage::acts::PendingAct;

/// Fields of a stored act.
#[derive(Serialize)]
struct ActFields<'a> {
    agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    /// Time of the act, which may be before the relay's start.
    at_ms: UnixMillis,
}

/// Records stored acts until `stop` is cancelled.
pub(crate) async fn record_stored(store: Store, observer: Arc<Observer>, stop: CancellationToken) {
    let mut due = every(REVIEW);
    loop {
        let is_last = tokio::select! {
            _ = due.tick() => false,
            () = stop.cancelled() => true,
        };

        // Request handling reports read errors, and the acts stay in the file.
        if let Ok(acts) = store.run(Store::pending_acts).await
            && !acts.is_empty()
        {
            acts.iter().for_each(|act| record(act, &observer));
            let _ = store.run(move |store| store.forget_acts(&acts)).await;
        }
        if is_last {
            return;
        }
    }
}

/// Interval between two reads of the state file.
const REVIEW: Duration = Duration::from_secs(3);

fn record(act: &PendingAct, observer: &Observer) {
    let PendingAct { agent, actor, .. } = act;
    tracing::info!(event = act.event, agent, %actor, "administrative act");
    let fields = ActFields {
        agent,
        details: act.details.as_deref(),
        at_ms: act.at,
    };
    let event = match act.event.as_str() {
        "agent_added" => "agent_added",
        "agent_removed" => "agent_removed",
        _ => "act",
    };
    observer.audit().act(event, Actor::clone(actor), fields);
}
