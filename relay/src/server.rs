//! The relay as a value: start it, read its addresses, shut it down.

mod certificates;
mod error;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hookward_core::address::AddressSet;
use hookward_core::clock::Clock;
use hookward_core::ip_sets::NamedSets;
use hookward_core::limits::DOCTOR_BYTES_PER_SECOND;
use hookward_core::names::AgentName;
use hookward_core::rate::ByteMeter;
use hookward_core::secret::Secret;
use hookward_core::text::printable;
use hookward_gate::engine::GateState;
use hookward_observe::audit::{Actor, AuditLog};
use hookward_runtime::body_memory::BodyMemory;
use hookward_runtime::offload::Offload;
use hookward_runtime::process::{self, DirLock, LockError};
use hookward_runtime::reload::Reloads;
use hookward_tunnel::join_token::JoinToken;
use hookward_tunnel::transport::identity::Pin;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::certificates::{Acme, certificate_source, wanted_names};
pub use self::error::StartError;
use crate::admin::deliveries::{DeliveriesApi, agent_router};
use crate::admin::listeners::{AdminAddresses, BoundAdmin};
use crate::admin::overview::Overview;
use crate::admin::storage_probe::StorageProbe;
use crate::certs::acme::challenges::Challenges;
use crate::certs::acme::preflight::Preflight;
use crate::certs::acme::status::AcmeStatus;
use crate::certs::acme::task::AcmeParts;
use crate::certs::resolver::CertificateResolver;
use crate::certs::review::Finding;
use crate::certs::source::CertificateWatch;
use crate::data_dir;
use crate::delivery::{Deliveries, DeliveryParts};
use crate::edge::EdgeListener;
use crate::edge::authority::Ports;
use crate::edge::baseline::BaselinePolicy;
use crate::edge::listener::EdgeEntry;
use crate::edge::sole_client::SoleClient;
use crate::edge::state::EdgeState;
use crate::edge::tls::TlsAcceptors;
use crate::fetch::client::{Fetcher, client_tls};
use crate::fetch::ip_sets::IpSetUpdater;
use crate::fetch::keys::KeyCache;
use crate::forward::RequestIds;
use crate::observe::acts;
use crate::observe::{Observer, Subscription};
use crate::overload::connections::ConnectionTable;
use crate::overload::per_client::PerClientLimiter;
use crate::sessions::context::{PoliciesInForce, SessionContext};
use crate::sessions::failed_joins::FailedJoins;
use crate::sessions::{AgentAcceptor, AgentListener, Registry, revision};
use crate::settings::Settings;
use crate::settings::watch::{self as settings_watch, SettingsReader};
use crate::storage::agents::TakenHost;
use crate::storage::deliveries::{DELIVERIES_FILE, DeliveryStore};
use crate::storage::{CommitStats, STATE_FILE, Store};

/// A running relay.
pub struct Relay {
    edge: EdgeListener,
    agents: AgentListener,
    context: Arc<SessionContext>,
    store: Store,
    clock: Clock,
    drain_edge: CancellationToken,
    stop_agents: CancellationToken,
    pin: Pin,
    join_address: String,
    self_signed: Option<PathBuf>,
    budget: BodyMemory,
    observer: Arc<Observer>,
    /// Tracker of tasks beside the listeners: updates of address sets, reloads, key fetches.
    tasks: TaskTracker,
    lists: IpSetUpdater,
    deliveries: Deliveries,
    addresses: AdminAddresses,
    drain_requested: CancellationToken,
    _lock: DirLock,
}

impl Relay {
    /// Starts a relay: binds both ports and serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running then.
    pub fn start(settings: Settings, clock: Clock) -> Result<Self, StartError> {
        let data_dir = |source| StartError::DataDir {
            path: settings.data_dir.clone(),
            source,
        };
        process::make_private_dir(&settings.data_dir).map_err(data_dir)?;

        let word = format!(
            "process {}, listening on {}",
            std::process::id(),
            settings.listen
        );

        let lock =
            DirLock::take(&settings.data_dir, LOCK_FILE, &word).map_err(|error| match error {
                LockError::Locked(by) => StartError::InUse {
                    path: settings.data_dir.clone(),
                    by: printable(&by),
                },
                LockError::File(source) => data_dir(source),
            })?;

        data_dir::clean_up(&settings.data_dir);
        let audit = AuditLog::start(&settings.audit, PROGRAM, clock.clone())?;
        let (store, identity) = data_dir::open(&settings.data_dir, settings.reset, &clock)?;
        let pin = identity.pin;
        let source = certificate_source(&settings, &store.given_hosts()?);
        let reserved_hosts = Arc::new(ArcSwap::from_pointee(settings.hosts.clone()));
        let wanted = wanted_names(&store, &settings, Arc::clone(&reserved_hosts));
        let (challenges, acme_status) = (Challenges::default(), AcmeStatus::default());
        // Subscribed before the files are read, so that no change in between is lost.
        let certificate_reloads = Reloads::new(&source.files()).map_err(StartError::Signal)?;
        let loaded = source.load(&wanted(), &clock)?;
        loaded.findings.iter().for_each(Finding::log);
        let self_signed = source.self_signed().filter(|_| settings.acme.is_none());
        let resolver = Arc::new(CertificateResolver::new(loaded.pair)?);
        let certificates =
            CertificateWatch::new(source, Arc::clone(&resolver), wanted.clone(), clock.clone())
                .recorded_in(audit.clone());

        let tls = TlsAcceptors::new(
            Arc::clone(&resolver),
            challenges.clone(),
            identity.certificate.clone(),
            identity.key.clone_key(),
        )?;
        let address = settings.listen;
        let listen = |source| StartError::Listen { address, source };
        let (listener, tunnel_listen) =
            bind_both(address, settings.tunnel_listen).map_err(listen)?;
        let listener_port = listener.local_addr().map_err(listen)?.port();
        let public_port = settings.public_port.unwrap_or(listener_port);

        let acme = settings.acme.clone().map(|acme| {
            let preflight = Preflight {
                domain: settings.domain.clone(),
                https_port: public_port,
                has_dns_hook: acme.dns_hook.is_some(),
                has_http: acme.http_listen.is_some(),
            };
            let parts = AcmeParts {
                tls: client_tls(acme.ca.as_deref())?,
                settings: acme,
                data_dir: settings.data_dir.clone(),
                resolver: Arc::clone(&resolver),
                challenges,
                wanted,
                clock: clock.clone(),
                audit: audit.clone(),
                status: acme_status.clone(),
            };
            Acme::prepare(parts, preflight)
        });
        let acme = acme.transpose()?;

        let admin = BoundAdmin::bind(&settings.admin, &settings.data_dir)?;
        let domain = settings.domain.clone();
        let tasks = TaskTracker::new();
        let fetcher = Fetcher::new(settings.fetch.clone(), settings.limits.fetch_timeout)?;
        let lists = IpSetUpdater::load(&store);
        let trusted_proxies = AddressSet::new(&settings.trusted_proxies);

        // Subscribed before the file is read, so that no change in between is lost. Without a
        // baseline policy, SIGHUP changes nothing.
        let policy_file = settings.baseline_policy.as_deref();
        let reloads = Reloads::new(policy_file.as_slice()).map_err(StartError::Signal)?;
        let hangups = Reloads::new(&[]).map_err(StartError::Signal)?;
        let baseline = BaselinePolicy::load(settings.baseline_policy.as_deref(), &clock, &lists)?;
        let deliveries = DeliveryStore::open(
            &settings.data_dir.join(DELIVERIES_FILE),
            clock.clone(),
            settings.delivery.store_limits(&settings.limits),
        )?;

        let registry = Registry::default();
        let owned = store.host_owners()?.into_iter();
        let owned = owned.map(|(host, owner)| (host, Some(owner)));
        let reserved = settings.hosts.keys().map(|host| (host.clone(), None));
        registry.replace_known_hosts(owned.chain(reserved).collect());

        let (drain_edge, stop_agents) = (CancellationToken::new(), CancellationToken::new());
        let budget = BodyMemory::new(settings.limits.body_memory);
        let started = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pin": pin.to_string(),
            "baseline_policy": baseline.summary(),
            "settings": settings.summary(),
        });
        let observer = Arc::new(Observer::new(clock.clone(), audit.clone()));
        let deliveries = Deliveries::new(DeliveryParts {
            store: deliveries,
            registry: registry.clone(),
            clock: clock.clone(),
            limits: settings.limits.clone(),
            ids: RequestIds::new()?,
            observer: Arc::clone(&observer),
            settings: settings.delivery.clone(),
            memory: budget.clone(),
            tasks: tasks.clone(),
            stop: stop_agents.clone(),
        });
        let deliveries_api = agent_router(DeliveriesApi {
            deliveries: deliveries.clone(),
            registry: registry.clone(),
            observer: Arc::clone(&observer),
        });
        let (revision, agents_revision) = watch::channel(0);
        tasks.spawn(revision::watch(
            store.clone(),
            revision,
            stop_agents.clone(),
        ));
        let host = Arc::new(SessionContext {
            registry: registry.clone(),
            store: store.clone(),
            agents_revision,
            failed_joins: FailedJoins::default(),
            clock: clock.clone(),
            limits: settings.limits.clone(),
            stored_for: settings
                .delivery
                .enabled
                .then_some(settings.delivery.max_age),
            deliveries_api,
            domain: settings.domain,
            reserved_hosts,
            public_port,
            ip_sets: lists.clone(),
            trusted_proxies: trusted_proxies.clone(),
            in_force: PoliciesInForce::default(),
            observer: Arc::clone(&observer),
        });
        let acceptor = Arc::new(AgentAcceptor::new(
            Arc::clone(&host),
            drain_edge.clone(),
            stop_agents.clone(),
        ));

        let agents = AgentListener::bind(
            tunnel_listen,
            identity,
            Arc::clone(&acceptor),
            stop_agents.clone(),
        )?;
        let tunnel_port = settings
            .public_port
            .unwrap_or_else(|| agents.address().port());

        let join_address = settings
            .tunnel_address
            .unwrap_or_else(|| format!("{domain}:{tunnel_port}"));
        store.set_tunnel_address(&join_address)?;
        store.set_domain(&domain)?;

        let edge_state = Arc::new(EdgeState {
            registry,
            clock: clock.clone(),
            baseline_state: Arc::new(GateState::new(lists.sets.clone(), trusted_proxies.clone())),
            trusted_proxies,
            forwarded: settings.forwarded,
            proxy_protocol: settings.proxy_protocol,
            baseline: baseline.clone(),
            keys: KeyCache::new(fetcher.clone(), tasks.clone()),
            fetcher: fetcher.clone(),
            deliveries: deliveries.clone(),
            diagnoses: Arc::new(ByteMeter::new(DOCTOR_BYTES_PER_SECOND)),
            observer: Arc::clone(&observer),
            sole_client: SoleClient::default(),
            proxy_warned: Mutex::default(),
            offload: Offload::default(),
            body_memory: budget.clone(),
            connections: ConnectionTable::new(settings.limits.max_connections),
            connections_refused: AtomicU64::new(0),
            exhausted: Mutex::default(),
            requests_per_client: PerClientLimiter::default(),
            ports: Ports {
                listener: listener_port,
                public: public_port,
            },
            draining: drain_edge.clone(),
            last_call: CancellationToken::new(),
            cut_off: CancellationToken::new(),
            ids: RequestIds::new()?,
            limits: settings.limits,
        });

        deliveries.resume();
        if let Some(acme) = acme {
            acme.spawn(&edge_state, &tasks, &stop_agents);
        }
        tasks.spawn(certificates.run(certificate_reloads, stop_agents.clone()));
        tasks.spawn(acts::record_stored(
            store.clone(),
            Arc::clone(&observer),
            stop_agents.clone(),
        ));
        tasks.spawn(reopen_audit(audit.clone(), hangups, stop_agents.clone()));

        let (counted, stop_counts) = (Arc::clone(&observer), stop_agents.clone());
        tasks.spawn(async move { counted.log().write_counts(stop_counts).await });
        let edge = EdgeListener::start(
            listener,
            EdgeEntry {
                tls,
                agents: Arc::clone(&acceptor),
            },
            Arc::clone(&edge_state),
            drain_edge.clone(),
        )
        .map_err(listen)?;

        tasks.spawn(lists.clone().keep_fresh(
            fetcher,
            store.clone(),
            clock.clone(),
            stop_agents.clone(),
        ));

        if let Some(path) = settings.baseline_policy {
            tasks.spawn(baseline.watch(
                path,
                clock.clone(),
                lists.clone(),
                reloads,
                audit.clone(),
                stop_agents.clone(),
            ));
        }

        let addresses = admin
            .as_ref()
            .map(BoundAdmin::addresses)
            .unwrap_or_default();
        let drain_requested = CancellationToken::new();
        if let Some(admin) = admin {
            let overview = Overview {
                edge: edge_state,
                agents: Arc::clone(&acceptor),
                store: store.clone(),
                certificates: resolver,
                acme: acme_status,
                ip_sets: lists.clone(),
                clock: clock.clone(),
                data_dir: settings.data_dir,
                edge_address: edge.address(),
                tunnel_address: agents.address(),
                pin: pin.to_string(),
                started: (clock.now(), Instant::now()),
                storage_probe: StorageProbe::new(),
                stop: drain_requested.clone(),
            };
            admin.serve(overview, &tasks, &stop_agents);
        }

        audit.act("started", Actor::current_user(), started);

        Ok(Self {
            edge,
            agents,
            context: host,
            store,
            clock,
            drain_edge,
            stop_agents,
            pin,
            join_address,
            self_signed,
            budget,
            observer,
            tasks,
            lists,
            deliveries,
            addresses,
            drain_requested,
            _lock: lock,
        })
    }

    /// Returns the address of the HTTPS listener.
    #[must_use]
    pub const fn edge_address(&self) -> SocketAddr {
        self.edge.address()
    }

    /// Returns the address of the agents' listener.
    #[must_use]
    pub const fn tunnel_address(&self) -> SocketAddr {
        self.agents.address()
    }

    /// Returns the addresses of the admin API and of monitoring.
    #[must_use]
    pub const fn admin_addresses(&self) -> AdminAddresses {
        self.addresses
    }

    /// Rereads the settings on SIGHUP. `running` are those of the start.
    ///
    /// # Errors
    /// [`StartError::Signal`].
    pub(crate) fn watch_settings(
        &self,
        running: Settings,
        read: SettingsReader,
    ) -> Result<(), StartError> {
        let hangups = Reloads::new(&[]).map_err(StartError::Signal)?;
        let (audit, stop) = (self.observer.audit().clone(), self.stop_agents.clone());
        let context = Arc::clone(&self.context);
        self.tasks.spawn(settings_watch::watch(
            running, read, context, hangups, audit, stop,
        ));
        Ok(())
    }

    /// Resolves when the admin API requests the relay's end.
    pub async fn drain_requested(&self) {
        self.drain_requested.cancelled().await;
    }

    /// Returns the pin of the relay's key.
    #[must_use]
    pub const fn pin(&self) -> Pin {
        self.pin
    }

    /// Returns the path of the self-signed certificate that clients must trust, if there is one.
    #[must_use]
    pub fn self_signed(&self) -> Option<&std::path::Path> {
        self.self_signed.as_deref()
    }

    /// Returns the store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Subscribes to the relay's events from now on.
    #[must_use]
    pub fn subscribe(&self) -> Subscription {
        self.observer.subscribe()
    }

    /// Returns the measurements of the commits of each database, by the name of its file.
    #[must_use]
    pub fn commits(&self) -> [(&'static str, CommitStats); 2] {
        [
            (STATE_FILE, self.store.commits()),
            (DELIVERIES_FILE, self.deliveries.store().commits()),
        ]
    }

    /// Returns the number of stored webhooks that are not yet delivered.
    #[must_use]
    pub fn pending_deliveries(&self) -> u64 {
        self.deliveries.store().counts(None).pending
    }

    /// Returns the number of stored webhooks that were given up.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.deliveries.store().counts(None).dead
    }

    /// Returns the number of body bytes in memory.
    #[must_use]
    pub fn buffered_bytes(&self) -> u64 {
        self.budget.used()
    }

    /// Adds an agent and creates a join token for it.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn add_agent(&self, name: &AgentName) -> Result<JoinToken, StartError> {
        let secret = Secret::generate()?;
        if let Some(TakenHost { host, from }) =
            self.store.add_agent(name, &secret, self.clock.now())?
        {
            tracing::info!(%host, from, agent = %name, "the host with the agent's name moved from its previous owner to the agent");
        }

        Ok(JoinToken {
            relay: self.join_address.clone(),
            pin: self.pin,
            secret,
        })
    }

    /// Stops accepting requests, drains those in flight for up to `patience`, then ends the agents'
    /// sessions.
    pub async fn shutdown(self, patience: Duration) {
        let audit = self.observer.audit().clone();
        audit.act("draining", Actor::program(), json!({}));
        self.drain_edge.cancel();
        self.edge.join(patience).await;
        self.stop_agents.cancel();
        self.agents.join().await;
        self.tasks.close();
        self.tasks.wait().await;
        audit.act("stopped", Actor::program(), json!({}));
        audit.close().await;
    }

    /// Returns the named address sets in use.
    #[must_use]
    pub const fn address_sets(&self) -> &NamedSets {
        &self.lists.sets
    }
}

/// Opens the audit log again after SIGHUP, until `stop` is cancelled.
async fn reopen_audit(audit: AuditLog, mut hangups: Reloads, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = hangups.next() => {}
            () = stop.cancelled() => return,
        }
        audit.act("reload", Actor::program(), json!({ "cause": "SIGHUP" }));
        audit.reopen();
    }
}

/// Binds the edge's TCP port, and returns the address for the tunnel's UDP port. Both have the same
/// number, because agents fall back to TCP where UDP is blocked.
fn bind_both(listen: SocketAddr, tunnel: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    /// Number of attempts: another program may use the UDP port of the number that the system
    /// chose.
    const BIND_ATTEMPTS: usize = 32;

    let mut tries = 0;
    loop {
        let listener = EdgeListener::bind(listen)?;
        if tunnel.port() != 0 {
            return Ok((listener, tunnel));
        }

        let same = SocketAddr::new(tunnel.ip(), listener.local_addr()?.port());
        tries += 1;

        if listen.port() != 0 || tries == BIND_ATTEMPTS || std::net::UdpSocket::bind(same).is_ok() {
            return Ok((listener, same));
        }
    }
}

/// Name of the program in syslog.
const PROGRAM: &str = "hookward-relay";

/// Lock file of a data directory in use; it names the owner.
const LOCK_FILE: &str = "relay.lock";
