//! One event for every request, for the relay's log: who, what, and for a refusal the check.
//!
//! Paths are shown without the query, where tokens stand; texts of strangers are escaped. A
//! stranger can't fill the log: requests that did not reach an application are written one by one
//! up to 20 a second, the rest as counts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookward_core::quota::Quota;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::text::{Escaped, shown_path};
use hookward_tunnel::protocol::head::RequestId;
use http::{Method, StatusCode};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// The log of requests. Each event has a quota of its own, so that strangers hide nothing of what
/// fails, and requests for hosts that no tunnel has another.
#[derive(Default)]
pub(crate) struct AuditLog {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    quotas: Mutex<BTreeMap<&'static str, Quota<&'static str>>>,
}

/// Facts about a request in an audit record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'r> {
    pub id: RequestId,
    /// Public host, or empty.
    pub host: &'r str,
    pub method: &'r Method,
    /// Path and query; only the path is shown.
    pub target: &'r [u8],
    /// Client address.
    pub client: IpAddr,
}

impl AuditLog {
    /// A request that a check refused.
    pub(crate) fn refused(&self, seen: Seen<'_>, refusal: &Refusal, observed: bool) {
        let event = if observed { "observed" } else { "refused" };
        let quota = if refusal.check == Check::Host {
            "refused_host"
        } else {
            event
        };
        if !self.take(quota, refusal.check.as_str()) {
            return;
        }

        tracing::info!(
            target: "audit",
            event,
            id = %seen.id,
            host = seen.host,
            method = %Escaped(seen.method.as_str().as_bytes()),
            path = shown_path(seen.target),
            client = %seen.client,
            status = refusal.status.as_u16(),
            check = refusal.check.as_str(),
            reason = refusal.reason,
        );
    }

    /// A request that was let through and failed on its way.
    pub(crate) fn failed(&self, seen: Seen<'_>, code: Code, reason: &str) {
        if !self.take("failed", code.as_str()) {
            return;
        }

        tracing::warn!(
            target: "audit",
            event = "failed",
            id = %seen.id,
            host = seen.host,
            method = %Escaped(seen.method.as_str().as_bytes()),
            path = shown_path(seen.target),
            client = %seen.client,
            code = code.as_str(),
            reason,
        );
    }

    /// A request that was forwarded and answered. At level `debug`: the agent shows each of them.
    pub(crate) fn forwarded(&self, seen: Seen<'_>, status: StatusCode, took: Duration) {
        tracing::debug!(
            target: "audit",
            event = "forwarded",
            id = %seen.id,
            host = seen.host,
            method = %Escaped(seen.method.as_str().as_bytes()),
            path = shown_path(seen.target),
            client = %seen.client,
            status = status.as_u16(),
            ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        );
    }

    /// A request that the relay has answered itself, and not refused: a challenge, a delivery that
    /// came before.
    pub(crate) fn answered(&self, seen: Seen<'_>, what: &'static str, status: StatusCode) {
        if !self.take("answered", what) {
            return;
        }

        tracing::info!(
            target: "audit",
            event = "answered",
            what,
            id = %seen.id,
            host = seen.host,
            method = %Escaped(seen.method.as_str().as_bytes()),
            path = shown_path(seen.target),
            client = %seen.client,
            status = status.as_u16(),
        );
    }

    /// A connection to the agents' door that failed before it was an agent's.
    pub(crate) fn agent_failed(&self, kind: &'static str, reason: &str) {
        if self.take("agent_failed", kind) {
            tracing::info!(target: "audit", event = "agent_failed", kind, reason, "a connection was no agent's");
        }
    }

    /// Writes what was only counted, every second, until `stop` is cancelled.
    pub(crate) async fn write_counts(&self, stop: CancellationToken) {
        let mut due = interval(SUMMARY_INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);

        while !stop.is_cancelled() {
            tokio::select! {
                _ = due.tick() => {}
                () = stop.cancelled() => {}
            }

            let counted: Vec<_> = self
                .lock()
                .iter_mut()
                .map(|(event, quota)| (*event, quota.take_counted()))
                .collect();
            for (event, kinds) in counted {
                for (kind, count) in kinds {
                    tracing::info!(target: "audit", event = "more", of = event, kind, count, "requests counted only");
                }
            }
        }
    }

    fn take(&self, event: &'static str, kind: &'static str) -> bool {
        self.lock()
            .entry(event)
            .or_insert_with(|| Quota::new(RECORDS_PER_SECOND))
            .take(kind)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Quota<&'static str>>> {
        self.quotas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines a second for requests that did not reach an application, as on the agent's screen.
const RECORDS_PER_SECOND: usize = 20;

/// Interval between two summaries.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);
