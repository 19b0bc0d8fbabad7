//! The relay's state as metrics, read at each scrape.

use std::collections::BTreeMap;
use std::sync::Arc;

use hookward_observe::audit::KEPT_HASH_DIGITS;
use hookward_observe::metrics::{MetricFamily, Snapshot};

use super::overview::Overview;
use crate::sessions::active::ActiveSession;

/// The state of the relay for the registry.
pub(super) struct RelaySnapshot(pub Arc<Overview>);

impl Snapshot for RelaySnapshot {
    fn families(&self) -> Vec<MetricFamily> {
        let overview = &*self.0;
        let mut families = vec![
            MetricFamily::gauge(
                "hookward_relay_build_info",
                "Version of the relay; always 1",
            )
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
            MetricFamily::gauge(
                "hookward_relay_requests_in_flight",
                "Requests that agents handle now",
            )
            .value(overview.in_flight() as f64),
        ];
        families.extend(connections(overview));
        families.extend(resources(overview));
        families.extend(sessions(overview));
        families.extend(packets(overview));
        families.extend(tunnels(overview));
        families.extend(storage(overview));
        families.extend(deliveries(overview));
        families.extend(certificates(overview));
        families.extend(address_sets(overview));
        families.extend(audit(overview));
        families
    }
}

fn connections(overview: &Overview) -> Vec<MetricFamily> {
    let state = overview.connections();
    let evicted = overview.edge.body_memory.stats().evicted;
    let responses = overview.edge.observer.metrics().evicted_responses();
    vec![
        MetricFamily::gauge("hookward_relay_connections", "Open connections of senders")
            .with(&[("state", "unverified")], state.unverified as f64)
            .with(&[("state", "verified")], state.verified as f64),
        MetricFamily::counter(
            "hookward_relay_connections_refused",
            "Connections without a slot",
        )
        .value(state.refused as f64),
        MetricFamily::counter(
            "hookward_relay_evictions",
            "Connections, request bodies and responses that were ended to free a resource",
        )
        .with(&[("resource", "connection")], state.evicted as f64)
        .with(&[("resource", "body")], evicted as f64)
        .with(&[("resource", "response")], responses as f64),
    ]
}

/// Returns use and limit of each limited resource.
fn resources(overview: &Overview) -> Vec<MetricFamily> {
    let mut memory = [
        MetricFamily::gauge("hookward_relay_memory_used_bytes", "Use of a memory budget"),
        MetricFamily::gauge(
            "hookward_relay_memory_limit_bytes",
            "Size of a memory budget",
        ),
    ];
    let mut slots = [
        MetricFamily::gauge(
            "hookward_relay_slots_used",
            "Connections, agents and files that are open",
        ),
        MetricFamily::gauge("hookward_relay_slots_limit", "Maximum number of them"),
    ];
    for limit in overview.limits() {
        let [used, most] = match limit.unit.as_str() {
            "bytes" => &mut memory,
            _ => &mut slots,
        };
        let labels = [("resource", limit.name.as_str())];
        used.push(&labels, limit.used as f64);
        most.push(&labels, limit.limit as f64);
    }
    memory.into_iter().chain(slots).collect()
}

fn sessions(overview: &Overview) -> Vec<MetricFamily> {
    let mut count =
        MetricFamily::gauge("hookward_relay_sessions", "Sessions by agent and transport");
    let mut rtt = MetricFamily::gauge(
        "hookward_relay_session_rtt_seconds",
        "Smoothed round-trip time of a QUIC session",
    );
    let mut window = MetricFamily::gauge(
        "hookward_relay_session_congestion_window_bytes",
        "Congestion window of a QUIC session",
    );
    let mut offset = MetricFamily::gauge(
        "hookward_relay_agent_clock_offset_seconds",
        "Time by which an agent's clock is ahead of the relay's, measured when it connected",
    );

    let sessions = overview.edge.registry.sessions();
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for session in &sessions {
        let agent = session.agent.name.to_string();
        *counts
            .entry((agent, session.session.transport().to_string()))
            .or_default() += 1;
    }
    for ((agent, transport), number) in &counts {
        count.push(
            &[("agent", agent), ("transport", transport)],
            *number as f64,
        );
    }

    for (link, session) in newest_of_each_link(&sessions) {
        let link = link.to_string();
        let labels = [
            ("agent", session.agent.name.as_str()),
            ("link", link.as_str()),
        ];
        if let Some(path) = session.session.path_stats() {
            rtt.push(&labels, path.rtt_ms / 1000.0);
            window.push(&labels, path.congestion_window_bytes as f64);
        }
    }
    let newest: BTreeMap<_, _> = sessions
        .iter()
        .map(|session| (session.agent.name.as_str(), session))
        .collect();
    for (agent, session) in newest {
        if let Some(millis) = session.identity().clock_offset_ms {
            offset.push(&[("agent", agent)], millis as f64 / 1000.0);
        }
    }
    vec![count, rtt, window, offset]
}

fn packets(overview: &Overview) -> Vec<MetricFamily> {
    let mut sent = MetricFamily::counter(
        "hookward_relay_sent_packets",
        "Packets of all QUIC sessions of an agent",
    );
    let mut lost = MetricFamily::counter(
        "hookward_relay_lost_packets",
        "Lost packets of all QUIC sessions of an agent",
    );
    for (agent, packets) in overview.edge.registry.packets() {
        let labels = [("agent", agent.as_str())];
        sent.push(&labels, packets.sent as f64);
        lost.push(&labels, packets.lost as f64);
    }
    vec![sent, lost]
}

/// Returns the newest session of each agent and link number. Instances of a pool share numbers: the
/// newest instance is shown, so that restarts make no new series.
fn newest_of_each_link(sessions: &[Arc<ActiveSession>]) -> Vec<(u32, &Arc<ActiveSession>)> {
    let mut newest = BTreeMap::new();
    for session in sessions {
        let link = session.identity().connection.index.min(MAX_LINK);
        newest.insert((session.agent.name.as_str(), link), session);
    }
    newest
        .into_iter()
        .map(|((_, link), session)| (link, session))
        .collect()
}

/// Highest number of a link with a series of its own. Agents state the number.
const MAX_LINK: u32 = 15;

fn tunnels(overview: &Overview) -> Vec<MetricFamily> {
    let mut online = MetricFamily::gauge(
        "hookward_relay_tunnel_online",
        "1 while a session serves the tunnel of an agent that has been connected",
    );
    for (host, endpoint) in overview.edge.registry.tunnels() {
        // The settings may reserve a host for an agent that does not exist yet.
        let is_reserved = overview
            .agents
            .host
            .reserved_hosts
            .load()
            .contains_key(&host);
        if is_reserved && endpoint.gate.is_none() {
            continue;
        }
        let is_online = !endpoint.is_away();
        online.push(&[("tunnel", host.as_str())], f64::from(u8::from(is_online)));
    }
    vec![online]
}

fn storage(overview: &Overview) -> Vec<MetricFamily> {
    let mut commits = MetricFamily::counter("hookward_relay_storage_commits", "Commits");
    let mut seconds = MetricFamily::counter(
        "hookward_relay_storage_commit_seconds",
        "Time of all commits",
    );
    let mut changes =
        MetricFamily::counter("hookward_relay_storage_changes", "Changes in all commits");
    let mut failures =
        MetricFamily::counter("hookward_relay_storage_failures", "Failed transactions");
    let mut size = MetricFamily::gauge("hookward_relay_storage_size_bytes", "Size of the file");
    for file in overview.storage() {
        let labels = [("file", file.file.as_str())];
        commits.push(&labels, file.commits as f64);
        seconds.push(&labels, file.total_ms / 1000.0);
        changes.push(&labels, file.changes as f64);
        failures.push(&labels, file.failures as f64);
        size.push(&labels, file.size_bytes as f64);
    }
    vec![commits, seconds, changes, failures, size]
}

fn deliveries(overview: &Overview) -> Vec<MetricFamily> {
    let store = overview.edge.deliveries.store();
    let mut held = MetricFamily::gauge(
        "hookward_relay_deliveries",
        "Stored webhooks by state: pending, or dead letters",
    );
    let mut bytes = MetricFamily::gauge(
        "hookward_relay_deliveries_size_bytes",
        "Size of the stored webhooks",
    );
    let mut oldest = MetricFamily::gauge(
        "hookward_relay_deliveries_oldest_age_seconds",
        "Time since the receipt of the oldest pending webhook",
    );
    for tunnel in store.tunnels().into_iter().take(MAX_TUNNELS) {
        let host = &*tunnel.host;
        held.push(
            &[("tunnel", host), ("state", "pending")],
            tunnel.held.pending as f64,
        );
        held.push(
            &[("tunnel", host), ("state", "dead")],
            tunnel.held.dead as f64,
        );
        bytes.push(&[("tunnel", host)], tunnel.held.bytes as f64);
    }
    // A file that cannot be read has a metric of its own.
    for (host, age) in store
        .oldest()
        .unwrap_or_default()
        .into_iter()
        .take(MAX_TUNNELS)
    {
        oldest.push(&[("tunnel", host.as_str())], age.as_secs_f64());
    }
    let durability = MetricFamily::gauge(
        "hookward_relay_delivery_durability",
        "What a 202 guarantees; always 1",
    );
    vec![
        held,
        bytes,
        oldest,
        durability.with(&[("level", store.durability().as_str())], 1.0),
    ]
}

/// Maximum number of tunnels with series of their deliveries.
const MAX_TUNNELS: usize = 4096;

fn certificates(overview: &Overview) -> Vec<MetricFamily> {
    let mut expiry = MetricFamily::gauge(
        "hookward_relay_certificate_expiry_timestamp_seconds",
        "Expiry of a certificate of the edge, in seconds since 1970",
    );
    let mut failures = MetricFamily::gauge(
        "hookward_relay_certificate_failures",
        "Orders of a certificate at the ACME server that have failed in a row",
    );
    for certificate in overview.certificates() {
        let name = certificate.names.first().map_or("", String::as_str);
        if let Some(expires_s) = certificate.expires_s {
            expiry.push(&[("name", name)], expires_s as f64);
        }
        failures.push(&[("name", name)], f64::from(certificate.failures));
    }
    vec![expiry, failures]
}

fn address_sets(overview: &Overview) -> Vec<MetricFamily> {
    let mut fetched = MetricFamily::gauge(
        "hookward_relay_address_set_fetched_timestamp_seconds",
        "Time at which an address set in use was fetched, in seconds since 1970; 0 for the built-in copy",
    );
    let mut ranges = MetricFamily::gauge(
        "hookward_relay_address_set_ranges",
        "Ranges of an address set in use",
    );
    for set in overview
        .address_sets()
        .into_iter()
        .filter(|set| set.is_used)
    {
        let labels = [("set", set.name.as_str())];
        fetched.push(&labels, set.fetched_ms.unwrap_or_default() as f64 / 1000.0);
        ranges.push(&labels, set.ranges as f64);
    }
    vec![fetched, ranges]
}

fn audit(overview: &Overview) -> Vec<MetricFamily> {
    let Some(status) = overview.edge.observer.audit().status() else {
        return Vec::new();
    };
    let start = status.head.hash_text();
    let start = start.get(..KEPT_HASH_DIGITS).unwrap_or_default();
    let hash = u64::from_str_radix(start, 16).unwrap_or_default();
    vec![
        MetricFamily::gauge(
            "hookward_relay_audit_last_seq",
            "Number of the last audit record",
        )
        .value(status.head.seq as f64),
        // A number, because a label would be a new series at each scrape.
        MetricFamily::gauge(
            "hookward_relay_audit_last_hash",
            "First 48 bits of the SHA-256 of the last audit record",
        )
        .value(hash as f64),
        MetricFamily::counter("hookward_relay_audit_bytes", "Size of the audit records")
            .value(status.bytes as f64),
        MetricFamily::counter(
            "hookward_relay_audit_lost_records",
            "Audit records that were lost",
        )
        .value(status.lost as f64),
        MetricFamily::gauge(
            "hookward_relay_audit_failing",
            "1 while a sink of the audit log fails",
        )
        .value(f64::from(u8::from(status.failure.is_some()))),
    ]
}
