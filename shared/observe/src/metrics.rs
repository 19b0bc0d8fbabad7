//! Metrics in the Prometheus text format.
//!
//! A program registers counters and histograms that grow with its work, and [`Snapshot`]s of its
//! state, which are read at each scrape. A series of a snapshot ends with what it describes.

mod process;

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use self::process::ProcessSnapshot;

/// Content type of the text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Labels of durations: all words of fixed lists, but for the tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct VerdictLabels {
    /// Public host of the tunnel, or empty.
    pub tunnel: Arc<str>,
    /// End of the request.
    pub verdict: &'static str,
}

/// Upper bounds of durations, in seconds: from a local application to the longest default timeout.
const DURATIONS: [f64; 13] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// Creates a histogram of durations in seconds.
#[must_use]
pub fn durations() -> Histogram {
    Histogram::new(DURATIONS)
}

/// Returns the class of a status. Applications may use any status, but no more series.
#[must_use]
pub const fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}

/// Source of metrics that are read at each scrape.
pub trait Snapshot: Send + Sync + 'static {
    /// Returns the present families.
    fn families(&self) -> Vec<MetricFamily>;
}

/// Metrics of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricFamily {
    name: &'static str,
    help: &'static str,
    kind: MetricKind,
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricKind {
    Counter,
    Gauge,
}

/// A value with its labels.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl MetricFamily {
    /// Creates a gauge.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            kind: MetricKind::Gauge,
            samples: Vec::new(),
        }
    }

    /// Creates a counter. The format appends `_total` to its name.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            help,
            kind: MetricKind::Counter,
            samples: Vec::new(),
        }
    }

    /// Adds a value without labels.
    #[must_use]
    pub fn value(self, value: f64) -> Self {
        self.with(&[], value)
    }

    /// Adds a value with labels.
    #[must_use]
    pub fn with(mut self, labels: &[(&'static str, &str)], value: f64) -> Self {
        self.push(labels, value);
        self
    }

    /// Adds a value with labels.
    pub fn push(&mut self, labels: &[(&'static str, &str)], value: f64) {
        let labels = labels
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        self.samples.push(Sample { labels, value });
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        if self.samples.is_empty() {
            return Ok(());
        }
        let kind = match self.kind {
            MetricKind::Counter => MetricType::Counter,
            MetricKind::Gauge => MetricType::Gauge,
        };
        let mut metrics = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for Sample { labels, value } in &self.samples {
            let one = metrics.encode_family(labels)?;
            match (self.kind, whole(*value)) {
                (MetricKind::Counter, Some(whole)) => ConstCounter::new(whole).encode(one)?,
                (MetricKind::Counter, None) => ConstCounter::new(*value).encode(one)?,
                (MetricKind::Gauge, Some(whole)) => ConstGauge::new(whole).encode(one)?,
                (MetricKind::Gauge, None) => ConstGauge::new(*value).encode(one)?,
            }
        }
        Ok(())
    }
}

/// Returns a whole number, which needs no decimal point.
fn whole(value: f64) -> Option<u64> {
    /// First number that has no exact neighbour.
    const LIMIT: f64 = 9_007_199_254_740_992.0;

    let is_whole = (0.0..LIMIT).contains(&value) && value.fract() == 0.0;
    is_whole.then_some(value as u64)
}

/// Adapter of a snapshot for the registry.
struct SnapshotCollector<S>(S);

impl<S> fmt::Debug for SnapshotCollector<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotCollector")
    }
}

impl<S: Snapshot> Collector for SnapshotCollector<S> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let families = self.0.families();
        families
            .iter()
            .try_for_each(|family| family.encode(&mut encoder))
    }
}

/// Registers a snapshot.
pub fn register(registry: &mut Registry, snapshot: impl Snapshot) {
    registry.register_collector(Box::new(SnapshotCollector(snapshot)));
}

/// Returns all metrics as text.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_text::encode(&mut text, registry);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Snapshot for Fixed {
        fn families(&self) -> Vec<MetricFamily> {
            vec![
                MetricFamily::counter("test_events", "Events").with(&[("kind", "a\"\n")], 3.0),
                MetricFamily::gauge("test_size_bytes", "Size").value(1.5),
                MetricFamily::gauge("test_absent", "Nothing has a value"),
            ]
        }
    }

    #[test]
    fn a_snapshot_is_read_at_each_scrape() {
        let mut registry = Registry::default();
        register(&mut registry, Fixed);
        let text = text(&registry);
        assert!(
            text.contains("# TYPE test_events_total counter\n"),
            "{text}"
        );
        assert!(
            text.contains("test_events_total{kind=\"a\\\"\\n\"} 3\n"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE test_size_bytes gauge\ntest_size_bytes 1.5\n"),
            "{text}"
        );
        assert!(!text.contains("test_absent"), "{text}");
    }
}
