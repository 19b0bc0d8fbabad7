//! Counters and histograms of the agent's work. No label has a value that a sender can choose.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use hookward_core::reason::{Check, Code};
use hookward_observe::metrics::{VerdictLabels, durations, status_class};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::events::{RequestEvent, RequestResult};

/// Metrics of requests.
pub(crate) struct AgentMetrics {
    requests: Family<ExchangeLabels, Counter>,
    duration: Family<VerdictLabels, Histogram>,
    /// Series of each tunnel, by its host.
    // A std lock: it guards a map, and nothing waits while it is held.
    answered: RwLock<HashMap<Arc<str>, Arc<AnsweredSeries>>>,
}

/// Series of the usual requests of a tunnel: answered by the application, with success.
#[derive(Default)]
struct AnsweredSeries {
    count: OnceLock<Counter>,
    duration: OnceLock<Histogram>,
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
            answered: RwLock::default(),
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
        let outcome = &request.outcome;
        let count = || {
            self.requests.get_or_create_owned(&ExchangeLabels {
                tunnel: Arc::clone(&request.host),
                verdict: outcome.verdict(),
                check: outcome.check().map_or("", Check::as_str),
                code: outcome.code().map_or("", Code::as_str),
                status: outcome.status().map_or("", status_class),
            })
        };
        let duration = || {
            self.duration.get_or_create_owned(&VerdictLabels {
                tunnel: Arc::clone(&request.host),
                verdict: outcome.verdict(),
            })
        };

        let took = request.took.as_secs_f64();
        if matches!(
            outcome,
            RequestResult::Answered {
                status: 200..300,
                ..
            }
        ) {
            let series = self.answered(&request.host);
            series.count.get_or_init(count).inc();
            series.duration.get_or_init(duration).observe(took);
        } else {
            count().inc();
            duration().observe(took);
        }
    }

    fn answered(&self, host: &Arc<str>) -> Arc<AnsweredSeries> {
        let known = self.answered.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(host) {
            return Arc::clone(series);
        }

        drop(known);
        let mut all = self
            .answered
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(Arc::clone(host)).or_default())
    }
}
