//! Log of requests: one event for each, with the client, the target, and the check that refused.
//!
//! Paths have no query, because queries carry tokens; text from senders is escaped. Senders cannot
//! fill the log: it has up to 20 requests a second that reached no application, and counts the
//! rest.

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

/// The log of requests. Each event has its own quota, so that refused requests never hide failures.
/// Requests for unknown hosts have another quota.
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
    /// Logs a request that a check refused.
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

    /// Logs a request that the agent's gate refused. The agent has logged the reason.
    pub(crate) fn refused_by_agent(&self, seen: Seen<'_>, code: Code, status: StatusCode) {
        if !self.take("refused", "agent") {
            return;
        }

        tracing::info!(
            target: "audit",
            event = "refused",
            refused_by = "agent",
            id = %seen.id,
            host = seen.host,
            method = %Escaped(seen.method.as_str().as_bytes()),
            path = shown_path(seen.target),
            client = %seen.client,
            status = status.as_u16(),
            code = code.as_str(),
        );
    }

    /// Logs a permitted request that failed.
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

    /// Logs a forwarded request with its response, at level `debug`: the agent shows each of them.
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

    /// Logs a request that the relay answered itself without refusing it: a challenge or a
    /// duplicate.
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

    /// Logs a connection that failed to authenticate as an agent.
    pub(crate) fn agent_failed(&self, kind: &'static str, reason: &str) {
        if self.take("agent_failed", kind) {
            tracing::info!(target: "audit", event = "agent_failed", kind, reason, "the connection ended before it authenticated as an agent");
        }
    }

    /// Logs the counts every second, until `stop` is cancelled.
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

/// Maximum number of records a second for requests that reached no application, as on the agent's
/// screen.
const RECORDS_PER_SECOND: usize = 20;
/// Interval between two summaries.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);
