//! Reads the state of the running relay.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use data_encoding::HEXLOWER;
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::ip_sets::{self, SetOrigin};
use hookward_core::names::{AgentName, HostName};
use hookward_observe::api::access::Caller;
use hookward_observe::audit::Actor;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::status::{
    AddressSetStatus, AgentStatus, AuditLogStatus, CertificateStatus, ClientStatus,
    ConnectionsStatus, HeldDeliveries, LimitStatus, RefusalStatus, RelayStatus, SessionStatus,
    StorageStatus, TunnelStatus,
};
use super::storage_probe::StorageProbe;
use crate::certs::acme::status::AcmeStatus;
use crate::certs::resolver::CertificateResolver;
use crate::certs::review::dns_names;
use crate::edge::state::EdgeState;
use crate::fetch::ip_sets::IpSetUpdater;
use crate::sessions::active::ActiveSession;
use crate::sessions::{AgentAcceptor, TunnelEndpoint};
use crate::storage::agents::AgentRow;
use crate::storage::deliveries::DELIVERIES_FILE;
use crate::storage::{CommitStats, STATE_FILE, StorageError, Store};

/// The running relay, as its private API shows it.
pub(crate) struct Overview {
    pub edge: Arc<EdgeState>,
    pub agents: Arc<AgentAcceptor>,
    pub store: Store,
    pub certificates: Arc<CertificateResolver>,
    pub acme: AcmeStatus,
    pub ip_sets: IpSetUpdater,
    pub clock: Clock,
    pub data_dir: PathBuf,
    pub edge_address: SocketAddr,
    pub tunnel_address: SocketAddr,
    pub pin: String,
    pub started: (UnixMillis, Instant),
    pub storage_probe: StorageProbe,
    /// Cancelled by the API to stop the relay in order.
    pub stop: CancellationToken,
}

/// Number of clients that the API lists.
const TOP_CLIENTS: usize = 20;

impl Overview {
    /// Withdraws the credentials of an agent for a caller. Returns `false` if there is none of this
    /// name.
    pub(super) async fn revoke(
        &self,
        name: &AgentName,
        caller: Caller,
    ) -> Result<bool, StorageError> {
        let store = self.store.acting_as(Actor::api(caller));
        let (name, now) = (name.clone(), self.clock.now());
        store.run(move |store| store.revoke_agent(&name, now)).await
    }

    /// Removes an agent and frees its hosts for a caller. Returns `false` if there is none of this
    /// name.
    pub(super) async fn remove(
        &self,
        name: &AgentName,
        caller: Caller,
    ) -> Result<bool, StorageError> {
        let store = self.store.acting_as(Actor::api(caller));
        let (name, now) = (name.clone(), self.clock.now());
        store.run(move |store| store.remove_agent(&name, now)).await
    }

    /// Stops the relay in order for a caller.
    pub(super) fn drain(&self, caller: Caller) {
        let audit = self.edge.observer.audit();
        audit.act("drain_requested", Actor::api(caller), json!({}));
        tracing::info!(event = "drain_requested", %caller, "the admin API stops the relay");
        self.stop.cancel();
    }

    /// Returns the state as a whole.
    pub(crate) async fn status(self: &Arc<Self>) -> Result<RelayStatus, StorageError> {
        let (is_ready, checks) = self.health().await;
        let (limits, storage) = self.read_system().await;
        let metrics = self.edge.observer.metrics();
        let (started, since) = self.started;
        Ok(RelayStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            domain: self.agents.host.domain.to_string(),
            edge: self.edge_address.to_string(),
            tunnel: self.tunnel_address.to_string(),
            pin: self.pin.clone(),
            started_ms: started.0,
            uptime_s: since.elapsed().as_secs(),
            is_ready,
            checks,
            requests_in_flight: self.in_flight(),
            requests: metrics
                .verdicts()
                .map(|(name, n)| (name.to_owned(), n))
                .collect(),
            agents: self.agents().await?,
            limits,
            certificates: self.certificates(),
            storage,
            deliveries: self.deliveries(),
            audit: self.audit(),
        })
    }

    fn deliveries(&self) -> Vec<HeldDeliveries> {
        let tunnels = self.edge.deliveries.store().tunnels().into_iter();
        let held = tunnels.filter(|tunnel| tunnel.held.count() > 0 || tunnel.paused);
        held.map(|tunnel| HeldDeliveries {
            tunnel: tunnel.host.to_string(),
            pending: tunnel.held.pending,
            dead: tunnel.held.dead,
            bytes: tunnel.held.bytes,
            is_paused: tunnel.paused,
        })
        .collect()
    }

    /// Returns limits and storage on a thread that may block, because they read files.
    pub(super) async fn read_system(self: &Arc<Self>) -> (Vec<LimitStatus>, Vec<StorageStatus>) {
        let overview = Arc::clone(self);
        let reading = spawn_blocking(move || (overview.limits(), overview.storage()));
        // It fails only while the runtime stops.
        reading.await.unwrap_or_default()
    }

    /// Returns the agents, by name.
    pub(crate) async fn agents(&self) -> Result<Vec<AgentStatus>, StorageError> {
        let rows = self.store.run(Store::list_agents).await?;
        let sessions = self.edge.registry.sessions();
        Ok(rows
            .into_iter()
            .map(|row| agent(row, &sessions, self.clock.now()))
            .collect())
    }

    /// Returns the sessions, oldest first.
    pub(crate) fn sessions(&self) -> Vec<SessionStatus> {
        let sessions = self.edge.registry.sessions();
        sessions
            .iter()
            .map(|session| session_status(session))
            .collect()
    }

    pub(crate) fn in_flight(&self) -> u64 {
        let sessions = self.edge.registry.sessions();
        sessions
            .iter()
            .map(|session| session.in_flight() as u64)
            .sum()
    }

    /// Returns the tunnels, by host.
    pub(crate) async fn tunnels(&self) -> Result<Vec<TunnelStatus>, StorageError> {
        let rows = self.store.run(Store::list_agents).await?;
        let hosts = rows.iter().map(|row| (row.name.as_str(), &row.hosts));
        Ok(self.tunnels_of(hosts))
    }

    /// Returns the tunnels, by host, with the hosts that each agent owns.
    pub(super) fn tunnels_of<'a>(
        &self,
        agents: impl Iterator<Item = (&'a str, &'a Vec<String>)>,
    ) -> Vec<TunnelStatus> {
        let owned = |(name, hosts): (&'a str, &'a Vec<String>)| {
            hosts.iter().map(move |host| (host.as_str(), name))
        };
        let owners: BTreeMap<_, _> = agents.flat_map(owned).collect();
        let tunnels = self.edge.registry.tunnels();
        let status = |(host, endpoint): (&HostName, &TunnelEndpoint)| {
            let summary = self.agents.host.in_force.summary(host);
            let serving = endpoint.owner().map(|live| live.agent.name.to_string());
            let reserved = self.agents.host.reserved_hosts.load().get(host).cloned();
            TunnelStatus {
                host: host.to_string(),
                agent: serving
                    .or_else(|| reserved.map(|owner| owner.to_string()))
                    .or_else(|| owners.get(host.as_str()).map(|owner| (*owner).to_owned())),
                online: !endpoint.is_away(),
                sessions: endpoint.count() as u64,
                policy: summary.as_ref().map(|summary| summary.digest.clone()),
                lets_in: summary
                    .map(|summary| summary.lines.clone())
                    .unwrap_or_default(),
            }
        };
        tunnels.iter().map(status).collect()
    }

    pub(crate) fn connections(&self) -> ConnectionsStatus {
        let table = self.edge.connections.stats();
        let refused = self.edge.connections_refused.load(Ordering::Relaxed);
        ConnectionsStatus {
            unverified: table.unverified as u64,
            verified: table.verified as u64,
            evicted: table.evicted,
            refused,
            unauthenticated_agents: self.agents.unknown() as u64,
        }
    }

    /// Returns the limits with what is in use.
    pub(crate) fn limits(&self) -> Vec<LimitStatus> {
        let table = self.edge.connections.stats();
        let bodies = self.edge.body_memory.stats();
        let limits = &self.edge.limits;
        let limit = |name: &str, used: u64, limit: u64, unit: &str| LimitStatus {
            name: name.to_owned(),
            used,
            limit,
            unit: unit.to_owned(),
        };

        let connections = (table.unverified + table.verified) as u64;
        let agents = self.agents.unknown() as u64;
        let most = limits.max_unauthenticated_agents as u64;
        let mut all = vec![
            limit("max_connections", connections, table.limit as u64, ""),
            limit("max_unauthenticated_agents", agents, most, ""),
            limit("body_memory", bodies.used, bodies.total, "bytes"),
            limit("retry_memory", bodies.kept, bodies.kept_total, "bytes"),
            limit(
                "unverified_head_memory",
                table.head_bytes,
                table.head_limit,
                "bytes",
            ),
        ];
        if let Some((open, most)) = open_files() {
            all.push(limit("open_files", open, most, ""));
        }
        all
    }

    /// Returns the certificates in use, and those that could not be issued.
    pub(crate) fn certificates(&self) -> Vec<CertificateStatus> {
        let mut acme = self.acme.all();
        let mut all = Vec::new();
        for certified in self.certificates.in_use() {
            let first = certified.cert.first();
            let parsed = first.and_then(|der| Some((der, X509Certificate::from_der(der).ok()?.1)));
            let Some((der, certificate)) = parsed else {
                continue;
            };
            let names = dns_names(&certificate);
            let managed = names.iter().find_map(|name| acme.remove(name));
            let managed = managed.unwrap_or_default();
            all.push(CertificateStatus {
                names,
                issuer: certificate.issuer().to_string(),
                expires_s: Some(certificate.validity().not_after.timestamp()),
                sha256: HEXLOWER.encode(&Sha256::digest(der)),
                renewal_s: managed.renewal_s,
                failures: managed.failures,
                last_error: managed.last_error,
            });
        }
        let missing = acme.into_iter().map(|(name, managed)| CertificateStatus {
            names: vec![name],
            issuer: String::new(),
            expires_s: None,
            sha256: String::new(),
            renewal_s: None,
            failures: managed.failures,
            last_error: managed.last_error,
        });
        all.extend(missing);
        all
    }

    pub(crate) fn address_sets(&self) -> Vec<AddressSetStatus> {
        let used = self.ip_sets.wanted();
        let status = |set: &ip_sets::NamedSet| {
            let active = self.ip_sets.sets.get(&set.name)?;
            let fetched_ms = match active.origin {
                SetOrigin::Fetched(at) => Some(at.0),
                SetOrigin::BuiltIn(_) | SetOrigin::Nowhere => None,
            };
            Some(AddressSetStatus {
                name: set.name.clone(),
                ranges: active.count as u64,
                fetched_ms,
                is_used: used.contains(&set.name.as_str()),
            })
        };
        ip_sets::all().iter().filter_map(status).collect()
    }

    pub(crate) fn storage(&self) -> Vec<StorageStatus> {
        let commits = [
            (STATE_FILE, self.store.commits()),
            (DELIVERIES_FILE, self.edge.deliveries.store().commits()),
        ];
        commits
            .map(|(file, stats)| self.storage_of(file, stats))
            .into()
    }

    fn storage_of(&self, file: &str, stats: CommitStats) -> StorageStatus {
        let path = self.data_dir.join(file);
        StorageStatus {
            file: file.to_owned(),
            commits: stats.commits,
            changes: stats.requests,
            failures: stats.failures,
            total_ms: stats.total.as_secs_f64() * 1000.0,
            longest_ms: stats.longest.as_secs_f64() * 1000.0,
            size_bytes: std::fs::metadata(path).map_or(0, |file| file.len()),
        }
    }

    pub(crate) fn audit(&self) -> Option<AuditLogStatus> {
        let status = self.edge.observer.audit().status()?;
        Some(AuditLogStatus {
            last: status.head.to_string(),
            bytes: status.bytes,
            lost: status.lost,
            failures: status.failures,
            failure: status.failure,
        })
    }

    pub(crate) fn refusals(&self) -> Vec<RefusalStatus> {
        let counts = self.edge.observer.metrics().refusals();
        counts
            .map(|(check, count)| RefusalStatus {
                check: check.as_str().to_owned(),
                count,
            })
            .collect()
    }

    /// Returns the most active clients of this minute and the one before.
    pub(crate) fn clients(&self) -> Vec<ClientStatus> {
        let (top, others) = self.edge.observer.top_clients(TOP_CLIENTS);
        let mut clients: Vec<_> = top
            .into_iter()
            .map(|(client, count)| ClientStatus {
                client: Some(client.to_string()),
                requests: count.requests,
                refused: count.refused,
            })
            .collect();
        if others.requests > 0 {
            clients.push(ClientStatus {
                client: None,
                requests: others.requests,
                refused: others.refused,
            });
        }
        clients
    }
}

fn agent(row: AgentRow, sessions: &[Arc<ActiveSession>], now: UnixMillis) -> AgentStatus {
    let name = row.name.clone();
    let own = || {
        sessions
            .iter()
            .filter(|session| session.agent.name.as_str() == name)
    };
    let (newest, count) = (own().next_back(), own().count());
    let offline = AgentStatus::offline(row);
    let Some(newest) = newest else {
        return offline;
    };

    let identity = newest.identity();
    AgentStatus {
        online: true,
        address: Some(newest.session.peer().to_string()),
        last_seen_ms: Some(now.0),
        version: Some(identity.version.clone()),
        transport: Some(newest.session.transport().to_string()),
        rtt_ms: newest.session.path_stats().map(|path| path.rtt_ms),
        clock_offset_ms: identity.clock_offset_ms,
        sessions: count as u64,
        ..offline
    }
}

fn session_status(session: &ActiveSession) -> SessionStatus {
    let identity = session.identity();
    SessionStatus {
        number: session.number(),
        agent: session.agent.name.to_string(),
        instance: hookward_core::text::printable(&identity.connection.instance),
        link: identity.connection.index,
        address: session.session.peer().to_string(),
        transport: session.session.transport().to_string(),
        version: identity.version.clone(),
        connected_ms: identity.connected.0,
        in_flight: session.in_flight() as u64,
        is_silent: session.is_silent(),
        path: session.session.path_stats(),
    }
}

/// Returns the number of open files and its maximum.
fn open_files() -> Option<(u64, u64)> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    let (soft, _) = hookward_runtime::process::file_limit().ok()?;
    Some((open as u64, soft))
}
