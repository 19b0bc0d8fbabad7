//! Records administrative acts that other processes stored with their changes.

use std::sync::Arc;
use std::time::Duration;

use hookward_runtime::interval::every;
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::observe::Observer;
use crate::storage::Store;
use crate::storage::acts::PendingAct;

/// Fields of a stored act.
#[derive(Serialize)]
struct ActFields<'a> {
    /// Number of the act. A crash can leave two records with the same one.
    act: i64,
    agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
    /// Time of the act, which may be before the relay's start.
    at: String,
}

/// Records stored acts until `stop` is cancelled. An act stays in the state file until the audit log has
/// written its record.
pub(crate) async fn record_stored(store: Store, observer: Arc<Observer>, stop: CancellationToken) {
    let mut due = every(REVIEW);
    // The last act with a record, and the number of records that the log must have then.
    let mut recorded: Option<(i64, u64)> = None;
    loop {
        let is_last = tokio::select! {
            _ = due.tick() => false,
            () = stop.cancelled() => true,
        };

        let audit = observer.audit();
        if let Some((last, records)) = recorded
            && audit.has_written(records)
        {
            // After an error the act stays, and its record is not repeated.
            let _ = store.run(move |store| store.forget_acts(last)).await;
        }

        // Request handling reports read errors, and the acts stay in the file.
        let after = recorded.map_or(0, |(last, _)| last);
        if let Ok(acts) = store.run(move |store| store.pending_acts(after)).await
            && let Some(newest) = acts.last()
        {
            acts.iter().for_each(|act| record(act, &observer));
            recorded = Some((newest.id, audit.accepted()));
        }
        if is_last {
            return forget_written(&store, &observer, recorded).await;
        }
    }
}

/// Waits a moment for the records of the last acts, and forgets the acts. Those that stay are recorded
/// again at the next start.
async fn forget_written(store: &Store, observer: &Observer, recorded: Option<(i64, u64)>) {
    let Some((last, records)) = recorded else {
        return;
    };
    let written = async {
        while !observer.audit().has_written(records) {
            sleep(WRITE_CHECK).await;
        }
    };
    if timeout(WRITE_TIMEOUT, written).await.is_ok() {
        let _ = store.run(move |store| store.forget_acts(last)).await;
    }
}

/// Time for the last records.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Interval of checks for the last records.
const WRITE_CHECK: Duration = Duration::from_millis(20);

/// Interval between two reads of the state file.
const REVIEW: Duration = Duration::from_secs(3);

fn record(act: &PendingAct, observer: &Observer) {
    let PendingAct { agent, actor, .. } = act;
    tracing::info!(event = act.event, agent, %actor, "administrative act");
    let fields = ActFields {
        act: act.id,
        agent,
        details: act.details.as_deref(),
        at: act.at.to_rfc3339(),
    };
    let event = match act.event.as_str() {
        "agent_added" => "agent_added",
        "agent_removed" => "agent_removed",
        "agent_limited" => "agent_limited",
        "agent_revoked" => "agent_revoked",
        "credential_rotated" => "credential_rotated",
        "join_token_replaced" => "join_token_replaced",
        _ => "act",
    };
    observer.audit().act(event, actor.clone(), fields);
}
