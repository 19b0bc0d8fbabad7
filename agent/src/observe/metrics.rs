//! Counters and histograms of the agent's work. No label has a value that a sender can choose.

use std::sync::Arc;

use hookward_core::reason::{Check, Code};
use hookward_observe::metrics::{VerdictLabels, durations, status_class};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::events::RequestEvent;

/// Metrics of requests.
pub(crate) struct AgentMetrics {
    requests: Family<ExchangeLabels, Counter>,
    duration: Family<VerdictLabels, Histogram>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExchangeLabels {
    tunnel: Arc<str>,
    verdict: &'static str,
    check: &'static str,
    code: &'static str,
    status: &'static str,
}

impl AgentMetrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(durations),
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
        let (outcome, tunnel) = (&request.outcome, Arc::clone(&request.host));
        let labels = ExchangeLabels {
            tunnel,
            verdict: outcome.verdict(),
            check: outcome.check().map_or("", Check::as_str),
            code: outcome.code().map_or("", Code::as_str),
            status: outcome.status().map_or("", status_class),
        };
        self.requests.get_or_create(&labels).inc();

        let labels = VerdictLabels {
            tunnel: labels.tunnel,
            verdict: labels.verdict,
        };
        let duration = self.duration.get_or_create(&labels);
        duration.observe(request.took.as_secs_f64());
    }
}
