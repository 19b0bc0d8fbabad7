//! State of the running agent, and the form in which the API shows it. It holds no secret: URLs have
//! no token.

use std::sync::{Arc, Weak};
use std::time::Instant;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_runtime::body_memory::BodyMemory;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::exchange::InFlight;
use crate::inspector::InspectorView;
use crate::observe::AgentObserver;
use crate::relay_link::LinkContext;
use crate::relay_link::status::LinkState;
use crate::upstream::health::HealthStatus;

/// The running agent, for its API.
pub(crate) struct AgentView {
    /// Gone once the agent has ended, because its connections end with it.
    pub context: Weak<LinkContext>,
    pub body_memory: BodyMemory,
    pub in_flight: InFlight,
    pub observer: Arc<AgentObserver>,
    /// `None` if nothing is captured.
    pub inspector: Option<InspectorView>,
    pub clock: Clock,
    pub started: (UnixMillis, Instant),
}

/// State of the agent as a whole.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ProcessStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub process: u32,
    /// Start of the process, in milliseconds since 1970.
    pub started_ms: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// `true` if a connection to a relay serves the tunnels.
    pub is_ready: bool,
    /// Number of requests in flight.
    pub requests_in_flight: u64,
    /// Memory of request bodies, in bytes.
    pub body_memory_bytes: u64,
    /// Connections to relays.
    pub connections: Vec<ConnectionStatus>,
    /// Tunnels.
    pub tunnels: Vec<ServedTunnel>,
    /// Last record of the audit log as `SEQ:HASH`; absent if it is off.
    pub audit_last: Option<String>,
    /// Reason why the audit log fails.
    pub audit_failure: Option<String>,
}

/// A connection to a relay.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConnectionStatus {
    /// Address of the relay.
    pub relay: String,
    /// Number of the connection's link.
    pub link: u64,
    /// Transport: `quic` or `tcp`.
    pub transport: String,
    /// Round-trip time, in milliseconds; over QUIC.
    pub rtt_ms: Option<f64>,
    /// `true` while another instance of the agent gets the requests.
    pub is_standby: bool,
    /// `true` while the relay drains.
    pub is_draining: bool,
}

/// A tunnel.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ServedTunnel {
    /// Public host.
    pub host: String,
    /// Public URL, without path and token.
    pub url: String,
    /// Application behind the tunnel.
    pub application: String,
    /// State of the application: `healthy` (or not yet known), `unreachable` or `unresponsive`.
    pub health: String,
    /// Number of requests since the start.
    pub requests: u64,
    /// Requests a second in the last minute.
    pub rate_1m: f64,
    /// Median time until the application's response, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of that time, in milliseconds.
    pub p99_ms: f64,
}

impl AgentView {
    /// Returns the state as a whole.
    pub(super) fn status(&self) -> ProcessStatus {
        let (started, since) = self.started;
        let audit = self.observer.audit().status();
        ProcessStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            started_ms: started.0,
            uptime_s: since.elapsed().as_secs(),
            is_ready: self.is_ready(),
            requests_in_flight: self.in_flight.count() as u64,
            body_memory_bytes: self.body_memory.used(),
            connections: self.links().into_iter().map(connection).collect(),
            tunnels: self.tunnels(),
            audit_last: audit.as_ref().map(|audit| audit.head.to_string()),
            audit_failure: audit.and_then(|audit| audit.failure),
        }
    }

    /// Returns `true` if a connection serves the tunnels.
    pub(super) fn is_ready(&self) -> bool {
        !self.links().is_empty()
    }

    /// Returns the reasons why the applications are not healthy.
    pub(super) fn application_problems(&self) -> Vec<String> {
        let unhealthy = self.tunnels().into_iter();
        let unhealthy = unhealthy.filter(|tunnel| tunnel.health != HEALTHY);
        unhealthy
            .map(|tunnel| format!("{} is {}", tunnel.application, tunnel.health))
            .collect()
    }

    pub(crate) fn links(&self) -> Vec<LinkState> {
        let context = self.context.upgrade();
        context.map_or_else(Vec::new, |context| context.status.links())
    }

    pub(super) fn tunnels(&self) -> Vec<ServedTunnel> {
        let context = self.context.upgrade();
        let health = |application: &str| {
            let mut tunnels = context.iter().flat_map(|context| &context.tunnels);
            let own =
                tunnels.find(|tunnel| tunnel.handler.pool.application().to_string() == application);
            own.map_or(HEALTHY, |tunnel| {
                match *tunnel.handler.pool.health_status().borrow() {
                    HealthStatus::Healthy => HEALTHY,
                    HealthStatus::Unreachable => "unreachable",
                    HealthStatus::Unresponsive => "unresponsive",
                }
            })
        };
        let millis = |share, activity: &crate::observe::activity::TunnelActivity| {
            activity.percentile(share).as_secs_f64() * 1000.0
        };
        let tunnels = self.observer.tunnels().into_iter();
        tunnels
            .map(|(host, tunnel)| ServedTunnel {
                host,
                url: tunnel.base_url,
                health: health(&tunnel.application).to_owned(),
                application: tunnel.application,
                requests: tunnel.activity.requests(),
                rate_1m: tunnel.activity.rate(1),
                p50_ms: millis(0.5, &tunnel.activity),
                p99_ms: millis(0.99, &tunnel.activity),
            })
            .collect()
    }
}

/// State of an application that works, or is not yet known.
pub(super) const HEALTHY: &str = "healthy";

fn connection(link: LinkState) -> ConnectionStatus {
    ConnectionStatus {
        relay: link.relay,
        link: link.number as u64,
        transport: link.transport.to_string(),
        rtt_ms: link.path.map(|path| path.rtt_ms),
        is_standby: link.is_standby,
        is_draining: link.is_draining,
    }
}
