//! The agent's state as metrics, read at each scrape.

use std::sync::Arc;

use hookward_core::limits::AGENT_BODY_MEMORY;
use hookward_observe::metrics::{MetricFamily, Snapshot};

use super::status::AgentView;

/// The state of the agent for the registry.
pub(super) struct AgentSnapshot(pub Arc<AgentView>);

impl Snapshot for AgentSnapshot {
    fn families(&self) -> Vec<MetricFamily> {
        let status = self.0.status();
        let mut families = vec![
            MetricFamily::gauge(
                "hookward_agent_build_info",
                "Version of the agent; always 1",
            )
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
            MetricFamily::gauge(
                "hookward_agent_ready",
                "1 while a connection serves the tunnels",
            )
            .value(flag(status.is_ready)),
            MetricFamily::gauge("hookward_agent_requests_in_flight", "Requests in flight")
                .value(status.requests_in_flight as f64),
            MetricFamily::gauge(
                "hookward_agent_body_memory_bytes",
                "Memory of request bodies that the agent checks",
            )
            .value(status.body_memory_bytes as f64),
            MetricFamily::gauge(
                "hookward_agent_body_memory_limit_bytes",
                "Maximum memory of request bodies",
            )
            .value(AGENT_BODY_MEMORY as f64),
        ];

        let mut up = MetricFamily::gauge("hookward_agent_connections", "Connections to relays");
        let mut rtt = MetricFamily::gauge(
            "hookward_agent_connection_rtt_seconds",
            "Smoothed round-trip time of a QUIC connection",
        );
        let mut lost = MetricFamily::counter(
            "hookward_agent_connection_lost_packets",
            "Lost packets of a QUIC connection",
        );
        for link in self.0.links() {
            let (transport, number) = (link.transport.to_string(), link.number.to_string());
            let labels = [("relay", link.relay.as_str()), ("link", number.as_str())];
            let [relay, link_number] = labels;
            up.push(&[relay, link_number, ("transport", &transport)], 1.0);
            if let Some(path) = link.path {
                rtt.push(&labels, path.rtt_ms / 1000.0);
                lost.push(&labels, path.lost_packets as f64);
            }
        }

        let mut healthy = MetricFamily::gauge(
            "hookward_agent_application_healthy",
            "1 while the application accepts connections and responds",
        );
        for tunnel in &status.tunnels {
            let labels = [("tunnel", tunnel.host.as_str())];
            healthy.push(&labels, flag(tunnel.health == "healthy"));
        }
        families.extend([up, rtt, lost, healthy]);
        families.extend(audit(&self.0));
        families
    }
}

fn audit(view: &AgentView) -> Vec<MetricFamily> {
    let Some(status) = view.observer.audit().status() else {
        return Vec::new();
    };
    vec![
        MetricFamily::gauge(
            "hookward_agent_audit_last_seq",
            "Number of the last audit record",
        )
        .value(status.head.seq as f64),
        MetricFamily::counter(
            "hookward_agent_audit_lost_records",
            "Audit records that were lost",
        )
        .value(status.lost as f64),
        MetricFamily::gauge(
            "hookward_agent_audit_failing",
            "1 while a sink of the audit log fails",
        )
        .value(flag(status.failure.is_some())),
    ]
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}
