//! Counters and histograms of the relay's work. No label has a value that a stranger can choose: a
//! tunnel is one that an agent owns, a route is one of its policy, and all other labels are words of
//! fixed lists.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use hookward_core::reason::{Check, Code};
use hookward_observe::metrics::{VerdictLabels, durations, status_class};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::observe::outcome::{RequestFacts, RequestOutcome, Verdict};

/// Metrics of requests, connections and handshakes.
pub(crate) struct RelayMetrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<VerdictLabels, Histogram>,
    upstream: Family<TunnelLabels, Histogram>,
    request_bytes: Family<TunnelLabels, Counter>,
    response_bytes: Family<TunnelLabels, Counter>,
    tls_handshakes: Family<ResultLabels, Counter>,
    tls_duration: Histogram,
    agent_handshakes: Family<ResultLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    responses_evicted: AtomicU64,
    /// Series of each tunnel, by its host.
    // A std lock: it guards a map, and nothing waits while it is held.
    tunnels: RwLock<HashMap<Arc<str>, Arc<TunnelSeries>>>,
    /// Number of requests by each of [`VERDICTS`].
    verdicts: [AtomicU64; VERDICTS.len()],
    /// Number of refusals by each check.
    refusals: [AtomicU64; Check::ALL.len()],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    tunnel: Arc<str>,
    route: Arc<str>,
    verdict: &'static str,
    check: &'static str,
    code: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TunnelLabels {
    tunnel: Arc<str>,
}

/// Series of one tunnel. Requests find them with one lookup.
struct TunnelSeries {
    tunnel: Arc<str>,
    // As above.
    routes: RwLock<HashMap<Arc<str>, Arc<RouteSeries>>>,
    /// Duration of forwarded requests.
    forwarded: OnceLock<Histogram>,
    upstream: Histogram,
    request_bytes: Counter,
    response_bytes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    tunnel: Arc<str>,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Series of one route.
struct RouteSeries {
    route: Arc<str>,
    /// Number of the usual requests: forwarded, with success.
    succeeded: OnceLock<Counter>,
}

/// Maximum number of tunnels with series. Requests of further ones count for [`OTHER`].
const MAX_TUNNELS: usize = 4096;

/// Maximum number of routes with series in one tunnel. Agents choose names of routes, and may change
/// them. Requests of further routes count for [`OTHER`].
const MAX_ROUTES: usize = 64;

/// Label of what has no series of its own.
const OTHER: &str = "(other)";

impl TunnelSeries {
    /// Returns the series of a route.
    fn route(&self, name: &str) -> Arc<RouteSeries> {
        let known = self.routes.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(route) = known.get(name) {
            return Arc::clone(route);
        }

        drop(known);
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let name = match routes.len() < MAX_ROUTES {
            true => name,
            false => OTHER,
        };
        let series = routes.entry(Arc::from(name)).or_insert_with_key(|route| {
            Arc::new(RouteSeries {
                route: Arc::clone(route),
                succeeded: OnceLock::new(),
            })
        });
        Arc::clone(series)
    }
}

impl RelayMetrics {
    pub(crate) fn new() -> Self {
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(durations),
            upstream: Family::new_with_constructor(durations),
            request_bytes: Family::default(),
            response_bytes: Family::default(),
            tls_handshakes: Family::default(),
            tls_duration: durations(),
            agent_handshakes: Family::default(),
            attempts: Family::default(),
            responses_evicted: AtomicU64::new(0),
            tunnels: RwLock::default(),
            verdicts: [const { AtomicU64::new(0) }; VERDICTS.len()],
            refusals: [const { AtomicU64::new(0) }; Check::ALL.len()],
        }
    }

    /// Registers all metrics. The format appends `_total` to the names of counters.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "hookward_relay_requests",
            "Requests by tunnel, route, verdict, check, error code and class of status",
            self.requests.clone(),
        );
        registry.register(
            "hookward_relay_request_duration_seconds",
            "Time from the head of a request to the head of its response",
            self.duration.clone(),
        );
        registry.register(
            "hookward_relay_upstream_duration_seconds",
            "Time from the permit to the head of the application's response",
            self.upstream.clone(),
        );
        registry.register(
            "hookward_relay_request_body_bytes",
            "Size of request bodies of known length",
            self.request_bytes.clone(),
        );
        registry.register(
            "hookward_relay_response_body_bytes",
            "Size of response bodies of known length",
            self.response_bytes.clone(),
        );
        registry.register(
            "hookward_relay_tls_handshakes",
            "TLS handshakes of senders and of agents over TCP, by result",
            self.tls_handshakes.clone(),
        );
        registry.register(
            "hookward_relay_tls_handshake_duration_seconds",
            "Time of successful TLS handshakes",
            self.tls_duration.clone(),
        );
        registry.register(
            "hookward_relay_agent_handshakes",
            "Authentications of agents, by result",
            self.agent_handshakes.clone(),
        );
        registry.register(
            "hookward_relay_delivery_attempts",
            "Attempts of stored deliveries, by result",
            self.attempts.clone(),
        );
    }

    /// Counts an attempt of a stored delivery.
    pub(super) fn attempt(&self, tunnel: &str, result: &'static str) {
        let tunnel = Arc::clone(&self.tunnel(tunnel).tunnel);
        self.attempts
            .get_or_create(&AttemptLabels { tunnel, result })
            .inc();
    }

    /// Counts the outcome of a request.
    pub(super) fn request(&self, facts: RequestFacts<'_>, outcome: &RequestOutcome) {
        let verdict = &outcome.verdict;
        let series = self.tunnel(facts.tunnel.unwrap_or_default());
        let route = series.route(facts.permitted.map_or("", |permitted| &permitted.route));
        let labels = || RequestLabels {
            tunnel: Arc::clone(&series.tunnel),
            route: Arc::clone(&route.route),
            verdict: verdict.event(),
            check: verdict.check().map_or("", Check::as_str),
            code: verdict.code().map_or("", Code::as_str),
            status: outcome
                .status
                .map_or("", |status| status_class(status.as_u16())),
        };
        let durations = || {
            self.duration.get_or_create_owned(&VerdictLabels {
                tunnel: Arc::clone(&series.tunnel),
                verdict: verdict.event(),
            })
        };
        let took = outcome.took.as_secs_f64();

        if let Verdict::Forwarded(upstream) = verdict {
            let is_success = outcome.status.is_some_and(|status| status.is_success());
            match is_success {
                true => route
                    .succeeded
                    .get_or_init(|| self.requests.get_or_create_owned(&labels()))
                    .inc(),
                false => self.requests.get_or_create(&labels()).inc(),
            };
            series.forwarded.get_or_init(durations).observe(took);
            series.upstream.observe(upstream.took.as_secs_f64());
        } else {
            self.requests.get_or_create(&labels()).inc();
            durations().observe(took);
        }
        if facts.tunnel.is_some() {
            let sizes = outcome.sizes;
            series.request_bytes.inc_by(sizes.request.unwrap_or(0));
            series.response_bytes.inc_by(sizes.response.unwrap_or(0));
        }
        self.count_verdict(verdict);
    }

    fn count_verdict(&self, verdict: &Verdict) {
        let is_own = |(name, _): &(&&str, &AtomicU64)| **name == verdict.event();
        if let Some((_, count)) = VERDICTS.iter().zip(&self.verdicts).find(is_own) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if let Verdict::Refused(refusal) = verdict
            && let Some(count) = self.refusals.get(refusal.check as usize)
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the series of a tunnel.
    fn tunnel(&self, host: &str) -> Arc<TunnelSeries> {
        let known = self.tunnels.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.get(host) {
            return Arc::clone(series);
        }

        drop(known);
        let mut tunnels = self.tunnels.write().unwrap_or_else(PoisonError::into_inner);
        let host = match tunnels.len() < MAX_TUNNELS {
            true => host,
            false => OTHER,
        };
        let series = tunnels.entry(Arc::from(host)).or_insert_with_key(|host| {
            let labels = TunnelLabels {
                tunnel: Arc::clone(host),
            };
            Arc::new(TunnelSeries {
                upstream: self.upstream.get_or_create_owned(&labels),
                request_bytes: self.request_bytes.get_or_create_owned(&labels),
                response_bytes: self.response_bytes.get_or_create_owned(&labels),
                tunnel: labels.tunnel,
                routes: RwLock::default(),
                forwarded: OnceLock::new(),
            })
        });
        Arc::clone(series)
    }

    /// Records the time of a TLS handshake from the sender's first byte on.
    pub(crate) fn tls_handshake_took(&self, took: Duration) {
        self.tls_duration.observe(took.as_secs_f64());
    }

    /// Counts a TLS handshake.
    pub(crate) fn tls_handshake(&self, result: &'static str) {
        self.tls_handshakes
            .get_or_create(&ResultLabels { result })
            .inc();
    }

    /// Counts an authentication of an agent.
    pub(crate) fn agent_handshake(&self, result: &'static str) {
        self.agent_handshakes
            .get_or_create(&ResultLabels { result })
            .inc();
    }

    /// Counts responses that were evicted because their readers stalled.
    pub(crate) fn responses_evicted(&self, count: u64) {
        self.responses_evicted.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the number of evicted responses.
    pub(crate) fn evicted_responses(&self) -> u64 {
        self.responses_evicted.load(Ordering::Relaxed)
    }

    /// Returns the number of requests by each verdict since the start.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        VERDICTS.into_iter().zip(self.verdicts.iter().map(count))
    }

    /// Returns the number of refusals by each check since the start.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (Check, u64)> {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Check::ALL
            .iter()
            .copied()
            .zip(self.refusals.iter().map(count))
    }
}

/// Names of the verdicts, as in records.
const VERDICTS: [&str; 6] = [
    "forwarded",
    "stored",
    "answered",
    "refused",
    "failed",
    "aborted",
];

/// Result of a handshake that succeeded.
pub(crate) const OK: &str = "ok";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_tunnels_and_routes_are_limited() {
        let metrics = RelayMetrics::new();
        let series = metrics.tunnel("t");
        for n in 0..MAX_ROUTES {
            assert_eq!(*series.route(&n.to_string()).route, n.to_string());
        }
        assert_eq!(*series.route("one more").route, *OTHER);
        assert_eq!(*series.route("7").route, *"7");

        for n in 1..MAX_TUNNELS {
            assert_eq!(*metrics.tunnel(&n.to_string()).tunnel, n.to_string());
        }
        assert_eq!(*metrics.tunnel("one more").tunnel, *OTHER);
        assert_eq!(*metrics.tunnel("t").tunnel, *"t");
    }
}
