//! Forms of the relay's state in the admin API. They hold no secret.

use std::collections::BTreeMap;

use hookward_tunnel::transport::PathStats;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::storage::agents::AgentRow;

/// State of the relay as a whole.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct RelayStatus {
    /// Version of the program.
    pub version: String,
    /// Public domain.
    pub domain: String,
    /// Address of the HTTPS listener.
    pub edge: String,
    /// Address of the agents' listener.
    pub tunnel: String,
    /// Pin of the relay's key.
    pub pin: String,
    /// Start of the process, in milliseconds since 1970.
    pub started_ms: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// `true` if the relay accepts requests.
    pub is_ready: bool,
    /// Checks of the readiness.
    pub checks: Vec<HealthCheck>,
    /// Number of requests that agents handle now.
    pub requests_in_flight: u64,
    /// Requests since the start, by verdict.
    pub requests: BTreeMap<String, u64>,
    /// Agents.
    pub agents: Vec<AgentStatus>,
    /// Limits with what is in use.
    pub limits: Vec<LimitStatus>,
    /// Certificates of the edge.
    pub certificates: Vec<CertificateStatus>,
    /// Databases.
    pub storage: Vec<StorageStatus>,
    /// Stored webhooks, by tunnel.
    pub deliveries: Vec<HeldDeliveries>,
    /// Audit log; absent if it is off.
    pub audit: Option<AuditLogStatus>,
}

/// Stored webhooks of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct HeldDeliveries {
    /// Public host.
    pub tunnel: String,
    /// Number of webhooks that wait for the application.
    pub pending: u64,
    /// Number of dead letters.
    pub dead: u64,
    /// Size of both, in bytes.
    pub bytes: u64,
    /// `true` if the attempts are paused.
    pub is_paused: bool,
}

/// Check of a component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct HealthCheck {
    /// Name of the component.
    pub name: String,
    /// `true` if it works.
    pub is_ok: bool,
    /// Reason why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub(crate) struct AgentStatus {
    /// Name of the agent.
    pub name: String,
    /// `true` once it has exchanged a join token for a credential.
    pub joined: bool,
    /// `true` while a session is open.
    pub online: bool,
    /// Hosts that it owns.
    pub hosts: Vec<String>,
    /// Limits of its tunnels, as lines; none without limits.
    #[serde(default)]
    pub limits: Vec<String>,
    /// Number of its credentials. It has several for a while after a renewal.
    #[serde(default)]
    pub credentials: u64,
    /// Time at which its newest credential expires, in milliseconds since 1970.
    #[serde(default)]
    pub credential_expires_ms: Option<u64>,
    /// Address and port of the newest session, or of the last one.
    pub address: Option<String>,
    /// Last time at which it was connected, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// Version of its program.
    pub version: Option<String>,
    /// Transport of the newest session: `quic` or `tcp`.
    pub transport: Option<String>,
    /// Round-trip time of the newest QUIC session, in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Time by which the agent's clock is ahead of the relay's, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// Number of sessions.
    pub sessions: u64,
}

impl AgentStatus {
    /// Returns the state of an agent without a running relay.
    pub(crate) fn offline(row: AgentRow) -> Self {
        let seen = row.seen.as_ref();
        Self {
            online: false,
            address: seen.map(|seen| seen.address.clone()),
            last_seen_ms: seen.map(|seen| seen.at.0),
            version: seen.map(|seen| seen.version.clone()),
            transport: None,
            rtt_ms: None,
            clock_offset_ms: None,
            sessions: 0,
            name: row.name,
            joined: row.credentials > 0,
            credentials: row.credentials,
            limits: row.scope.lines(),
            credential_expires_ms: row.expires.map(|at| at.0),
            hosts: row.hosts,
        }
    }
}

/// A session of an agent.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct SessionStatus {
    /// Number of the session.
    pub number: u64,
    /// Name of the agent.
    pub agent: String,
    /// Instance of the agent's program.
    pub instance: String,
    /// Number of the connection's link in the instance.
    pub link: u32,
    /// Address and port of the agent.
    pub address: String,
    /// Transport: `quic` or `tcp`.
    pub transport: String,
    /// Version of the agent.
    pub version: String,
    /// Time at which it connected, in milliseconds since 1970.
    pub connected_ms: u64,
    /// Number of requests in flight.
    pub in_flight: u64,
    /// `true` while nothing arrives from the agent for longer than expected.
    pub is_silent: bool,
    /// Measurements of the path, over QUIC.
    #[schema(value_type = Option<Object>)]
    pub path: Option<PathStats>,
}

/// A tunnel with its policy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct TunnelStatus {
    /// Public host.
    pub host: String,
    /// Agent that serves it, or that owns it.
    pub agent: Option<String>,
    /// `true` while a session serves it.
    pub online: bool,
    /// Number of sessions.
    pub sessions: u64,
    /// Digest of the policy in force.
    pub policy: Option<String>,
    /// Requests that the policy lets in. Secrets are named, not shown.
    pub lets_in: Vec<String>,
}

/// Connections of senders.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ConnectionsStatus {
    /// Connections that have brought no permitted request.
    pub unverified: u64,
    /// Connections that have brought one.
    pub verified: u64,
    /// Connections that were closed to make room, since the start.
    pub evicted: u64,
    /// Connections that were refused, since the start.
    pub refused: u64,
    /// Connections that have not yet authenticated as an agent.
    pub unauthenticated_agents: u64,
}

/// A limit with what is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LimitStatus {
    /// Name of the limit: of the settings, where there is one.
    pub name: String,
    /// Present use.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// Unit: `bytes`, or empty for a number of things.
    pub unit: String,
}

/// A certificate of the edge.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct CertificateStatus {
    /// Names that it covers.
    pub names: Vec<String>,
    /// Issuer; empty if there is no certificate yet.
    pub issuer: String,
    /// Expiry, in seconds since 1970; absent if there is no certificate yet.
    pub expires_s: Option<i64>,
    /// SHA-256 of the certificate.
    pub sha256: String,
    /// Time of the next renewal, in seconds since 1970, of a certificate of the ACME server.
    pub renewal_s: Option<i64>,
    /// Number of orders in a row that have failed.
    pub failures: u32,
    /// Reason of the last failure.
    pub last_error: Option<String>,
}

/// A named set of client addresses.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct AddressSetStatus {
    /// Name of the set.
    pub name: String,
    /// Number of ranges.
    pub ranges: u64,
    /// Time at which the ranges were fetched, in milliseconds since 1970; absent for the built-in
    /// copy.
    pub fetched_ms: Option<u64>,
    /// `true` if a policy in force uses it.
    pub is_used: bool,
}

/// A database.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct StorageStatus {
    /// File in the data directory.
    pub file: String,
    /// Number of commits since the start.
    pub commits: u64,
    /// Number of changes in all commits.
    pub changes: u64,
    /// Number of failures.
    pub failures: u64,
    /// Time of all commits, in milliseconds.
    pub total_ms: f64,
    /// Time of the longest commit, in milliseconds.
    pub longest_ms: f64,
    /// Size of the file, in bytes.
    pub size_bytes: u64,
}

/// The audit log.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct AuditLogStatus {
    /// Last record as `SEQ:HASH`, for `audit verify --last`.
    pub last: String,
    /// Size of the records since the start, in bytes.
    pub bytes: u64,
    /// Number of records that were lost.
    pub lost: u64,
    /// Number of failures since the start.
    pub failures: u64,
    /// Reason of the present failure.
    pub failure: Option<String>,
}

/// Refusals of one check.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct RefusalStatus {
    /// Name of the check.
    pub check: String,
    /// Number of refusals since the start.
    pub count: u64,
}

/// Requests of one client.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct ClientStatus {
    /// Client address (IPv6: of its /64); absent for the sum of all clients that are not counted.
    pub client: Option<String>,
    /// Requests in this minute and the one before.
    pub requests: u64,
    /// Requests that were refused.
    pub refused: u64,
}
