//! Summary of refusals beyond those that are reported one by one.

use crate::events::{Event, EventSink};
use hookward_core::quota::Quota;
use hookward_core::reason::Check;
use hookward_runtime::interval::every;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Maximum number of refusals a second that the agent reports one by one; equal to the relay's.
pub(super) const REFUSALS_PER_SECOND: usize = 20;

/// Interval of the summaries of further refusals.
pub(super) const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);

/// Refusals of the agent's own gate: a bounded number a second one by one, the rest as counts.
pub(crate) struct RefusalSummary(
    // A std mutex: it guards a short list, and nothing waits while it is held.
    Mutex<Quota<Check>>,
);

impl Default for RefusalSummary {
    fn default() -> Self {
        Self(Mutex::new(Quota::new(REFUSALS_PER_SECOND)))
    }
}

impl RefusalSummary {
    pub(super) fn take(&self, check: Check) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(check)
    }

    /// Reports the counts every second, until `stop` is cancelled.
    pub(crate) async fn report_counts(&self, events: &EventSink, stop: &CancellationToken) {
        let mut due = every(SUMMARY_INTERVAL);

        while !stop.is_cancelled() {
            tokio::select! {
                _ = due.tick() => {}
                () = stop.cancelled() => {}
            }

            let counted = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take_counted();
            if !counted.is_empty() {
                events.emit(Event::RefusedSummary(counted));
            }
        }
    }
}
