//! Lines of the program's log about requests: one for each, with the client, the target, and the check that refused.
//!
//! Paths have no query, because queries carry tokens; text from senders is escaped. Senders cannot
//! fill the log: it has up to 20 requests a second that reached no application, and counts the
//! rest.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookward_core::quota::Quota;
use hookward_core::reason::{Check, Code};
use hookward_core::text::{Escaped, shown_path};
use hookward_runtime::interval::every;
use http::StatusCode;
use tokio_util::sync::CancellationToken;

use crate::observe::millis;
use crate::observe::outcome::{RequestFacts, RequestOutcome, Verdict};

/// The log of requests. Each event has its own quota, so that refused requests never hide failures.
/// Requests for unknown hosts have another quota.
#[derive(Default)]
pub(crate) struct RequestLog {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    quotas: Mutex<BTreeMap<&'static str, Quota<&'static str>>>,
}

/// Fields of a record. Absent ones are left out.
struct Record<'r> {
    facts: RequestFacts<'r>,
    event: &'static str,
    what: Option<&'static str>,
    refused_by: Option<&'static str>,
    status: Option<StatusCode>,
    check: Option<Check>,
    code: Option<Code>,
    reason: Option<&'r str>,
    ms: Option<u64>,
}

impl<'r> Record<'r> {
    fn of(facts: RequestFacts<'r>, outcome: &'r RequestOutcome) -> Self {
        let verdict = &outcome.verdict;
        let (what, refused_by) = match verdict {
            Verdict::Challenge(_) => (Some("challenge"), None),
            Verdict::Duplicate => (Some("duplicate"), None),
            Verdict::Stored(_) => (Some("stored"), None),
            Verdict::RefusedByAgent { .. } => (None, Some("agent")),
            _ => (None, None),
        };
        let is_refusal = matches!(verdict, Verdict::Refused(_));
        let is_answer = what.is_some();

        Self {
            facts,
            event: verdict.event(),
            what,
            refused_by,
            status: outcome.status,
            check: verdict.check().filter(|_| is_refusal),
            code: verdict.code().filter(|_| !is_refusal),
            reason: verdict.recorded_reason().filter(|_| !is_answer),
            ms: matches!(verdict, Verdict::Forwarded(_) | Verdict::Aborted)
                .then(|| millis(outcome.took)),
        }
    }
}

/// Logs a record at a level, which tracing wants as a constant.
macro_rules! log {
    ($level:ident, $record:expr) => {{
        let record = $record;
        tracing::$level!(
            target: "requests",
            event = record.event,
            what = record.what,
            refused_by = record.refused_by,
            id = %record.facts.id,
            trace = record.facts.trace.map(tracing::field::display),
            host = if record.facts.host.is_empty() { "-" } else { record.facts.host },
            method = %Escaped(record.facts.method.as_str().as_bytes()),
            path = &*shown_path(record.facts.target),
            client = %record.facts.client,
            status = record.status.map(|status| status.as_u16()),
            check = record.check.map(Check::as_str),
            code = record.code.map(Code::as_str),
            reason = record.reason,
            ms = record.ms,
        );
    }};
}
impl RequestLog {
    /// Logs the outcome of a request.
    pub(crate) fn request(&self, facts: RequestFacts<'_>, outcome: &RequestOutcome) {
        if let Some(refusal) = &outcome.observed
            && self.take("observed", refusal.check.as_str())
        {
            let record = Record {
                event: "observed",
                status: Some(refusal.status),
                check: Some(refusal.check),
                reason: Some(refusal.recorded_reason()),
                ..Record::of(facts, outcome)
            };
            log!(info, record);
        }

        let record = Record::of(facts, outcome);
        match &outcome.verdict {
            // The agent shows each of them.
            Verdict::Forwarded(_) | Verdict::Aborted => log!(debug, record),
            Verdict::Failed(failure) => {
                if self.take("failed", failure.code.as_str()) {
                    log!(warn, record);
                }
            }
            Verdict::Stored(_) => log!(debug, record),
            Verdict::Challenge(_) | Verdict::Duplicate => {
                if self.take("answered", record.what.unwrap_or_default()) {
                    log!(info, record);
                }
            }
            Verdict::Refused(refusal) => {
                let quota = match refusal.check {
                    Check::Host => "refused_host",
                    _ => "refused",
                };
                if self.take(quota, refusal.check.as_str()) {
                    log!(info, record);
                }
            }
            Verdict::RefusedByAgent { .. } => {
                if self.take("refused", "agent") {
                    log!(info, record);
                }
            }
            Verdict::Overloaded => {
                if self.take("overloaded", "client") {
                    log!(info, record);
                }
            }
        }
    }

    /// Logs a connection that failed to authenticate as an agent.
    pub(crate) fn agent_failed(&self, kind: &'static str, reason: &str) {
        if self.take("agent_failed", kind) {
            tracing::info!(target: "requests", event = "agent_failed", kind, reason, "the connection ended before it authenticated as an agent");
        }
    }

    /// Logs the counts every second, until `stop` is cancelled.
    pub(crate) async fn write_counts(&self, stop: CancellationToken) {
        let mut due = every(SUMMARY_INTERVAL);

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
                    tracing::info!(target: "requests", event = "more", of = event, kind, count, "requests counted only");
                }
            }
        }
    }

    /// Returns `true` if this second has room for a line of this event, and counts it otherwise.
    pub(super) fn take(&self, event: &'static str, kind: &'static str) -> bool {
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
