//! Counters and histograms of the agent's work. No label has a value that a sender can choose.

use std::time::Duration;

use hookward_core::reason::{Check, Code};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::events::RequestEvent;

/// Metrics of requests.
pub(crate) struct AgentMetrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<DurationLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    tunnel: String,
    verdict: &'static str,
    check: &'static str,
    code: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    tunnel: String,
    verdict: &'static str,
}

/// Upper bounds of durations, in seconds: the same as the relay's.
const DURATIONS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

impl AgentMetrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
        }
    }

    /// Registers all metrics. The format appends `_total` to the names of counters.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "hookward_agent_requests",
            "Requests by tunnel, verdict, check, error code and class of status",
            self.requests.clone(),
        );
        registry.register(
            "hookward_agent_request_duration_seconds",
            "Time from the head of a request to the head of the application's response",
            self.duration.clone(),
        );
    }

    pub(super) fn request(&self, request: &RequestEvent) {
        let (outcome, tunnel) = (&request.outcome, request.host.to_string());
        let labels = RequestLabels {
            tunnel,
            verdict: outcome.verdict(),
            check: outcome.check().map_or("", Check::as_str),
            code: outcome.code().map_or("", Code::as_str),
            status: outcome.status().map_or("", class),
        };
        self.requests.get_or_create(&labels).inc();
        self.observe(labels.tunnel, labels.verdict, request.took);
    }

    fn observe(&self, tunnel: String, verdict: &'static str, took: Duration) {
        let labels = DurationLabels { tunnel, verdict };
        let duration = self.duration.get_or_create(&labels);
        duration.observe(took.as_secs_f64());
    }
}

/// Returns the class of a status. Applications may use any status, but no more series.
fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}
