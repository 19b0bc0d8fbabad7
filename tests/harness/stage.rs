//! A relay and an agent in this process, connected by a real tunnel, with a recording application.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hookward_agent::events::{self, Event};
use hookward_agent::{Address, Application as Upstream};
use hookward_agent::{Agent, AgentSettings, Capture, TunnelSettings};
use hookward_agent::{LinkSettings, OpenedTunnel, RelayEndpoint as RelayAddress, TransportMode};
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName};
use hookward_core::secret::Secret;
use hookward_gate::policy::file;
use hookward_gate::policy::{
    Accept, Delivery, DeliveryMode, Policy, Route, TokenCheck, TokenLocation,
};
use hookward_observe::audit::AuditSettings;
use hookward_relay::AdminSettings;
use hookward_relay::DeliverySettings;
use hookward_relay::FetchSettings;
use hookward_relay::ForwardedField;
use hookward_relay::Relay;
use hookward_relay::Settings;
use hookward_runtime::secrets::ProcessSecrets;
use hookward_tunnel::transport::Transport;
use ipnet::IpNet;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::link::{Link, Pass};
use crate::sender::Edge;
use crate::wait::{eventually, within};

/// Public host of every stage.
pub const HOST: &str = "hooks.example.test";
/// Webhook resource of the tests.
pub const PREFIX: &str = "/flexdeploy/webhooks/v1";

/// Settings of a stage.
pub struct Plan {
    pub policy: Policy,
    pub limits: Limits,
    pub trusted_proxies: Vec<IpNet>,
    pub forwarded: ForwardedField,
    pub proxy_protocol: bool,
    pub baseline: Option<PathBuf>,
    pub fetch: FetchSettings,
    pub admin: AdminSettings,
    pub audit: AuditSettings,
    pub delivery: DeliverySettings,
    pub clock: Clock,
    pub link: LinkSettings,
    /// Application, if it is not a local port in clear text.
    pub upstream: Option<Upstream>,
    /// `true` if a link that the test can block connects agent and relay.
    pub linked: bool,
    /// File for the secret that a provider sends.
    pub pairing: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            policy: open_policy(),
            limits: Limits::default(),
            trusted_proxies: Vec::new(),
            forwarded: ForwardedField::default(),
            proxy_protocol: false,
            baseline: None,
            fetch: FetchSettings::default(),
            admin: AdminSettings::off(),
            audit: AuditSettings::off(),
            delivery: DeliverySettings::default(),
            clock: Clock::System,
            link: LinkSettings::default(),
            upstream: None,
            linked: false,
            pairing: None,
        }
    }
}

impl Plan {
    /// Returns the default plan, over this transport only.
    pub fn over(transport: Transport) -> Self {
        let link = LinkSettings {
            transport: TransportMode::Only(transport),
            ..LinkSettings::default()
        };

        Self {
            link,
            ..Self::default()
        }
    }
}

/// Returns a policy that opens the webhook resource to anyone, for tests that are not about checks.
pub fn open_policy() -> Policy {
    let mut route = Route::new("test", vec![format!("{PREFIX}/**")]);
    route.accept.push(Accept {
        open: true,
        ..Accept::default()
    });
    Policy::new(vec![route])
}

/// Returns the check of a token in the parameter `token`.
pub fn token(secret: &str) -> TokenCheck {
    let secret = Secret::new(secret.as_bytes().to_vec()).unwrap();
    TokenCheck::new(
        TokenLocation::Query("token".into()),
        &[("env:TEST", secret.digest())],
    )
}

/// Reads a policy from TOML. Secrets come from files.
pub fn policy(text: &str) -> Policy {
    match file::read("test.toml", text, &ProcessSecrets, Clock::System.now()) {
        Ok(loaded) => unstored(loaded.policy),
        Err(problems) => panic!("{problems}"),
    }
}

/// Returns the policy without stored deliveries, where it does not name them.
fn unstored(mut policy: Policy) -> Policy {
    for route in &mut policy.routes {
        let is_preset = |delivery: &Delivery| delivery.mode == DeliveryMode::Preset;
        route.delivery = route
            .delivery
            .take()
            .filter(|delivery| !is_preset(delivery));
    }
    policy
}

/// Returns a policy that requires a provider's signature. The file of its secret is gone by then.
pub fn signed_policy(provider: &str, secret: &[u8], more: &str) -> Policy {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, secret).unwrap();
    policy(&format!(
        "[[route]]\npath = '{PREFIX}/**'\n[[route.accept]]\nverify = {{ provider = '{provider}', secret = 'file:{}'{more} }}",
        path.display(),
    ))
}

/// A running stage.
pub struct Stage {
    pub edge: Edge,
    pub clock: Clock,
    pub reports: Arc<Mutex<Vec<Event>>>,
    relay: Option<Relay>,
    agent: Option<Agent>,
    plan: Plan,
    application: SocketAddr,
    credential: Secret,
    opened: Arc<Mutex<Vec<OpenedTunnel>>>,
    tunnel: SocketAddr,
    /// Link between agent and relay, if the plan has one.
    pub link: Option<Link>,
    dir: TempDir,
}

impl Stage {
    /// Starts relay and agent, and waits for the tunnel.
    pub async fn start(application: SocketAddr, plan: Plan) -> Self {
        let mut stage = Self::without_agent(application, plan).await;
        stage.start_agent().await;
        stage
    }

    /// Starts a stage on a network that blocks UDP.
    pub async fn blocked(application: SocketAddr, plan: Plan) -> Self {
        let mut stage = Self::without_agent(application, plan).await;
        stage.link().udp(Pass::Nothing);
        stage.start_agent().await;
        stage
    }

    async fn without_agent(application: SocketAddr, plan: Plan) -> Self {
        let dir = TempDir::new().unwrap();
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let relay =
            Relay::start(settings(&plan, dir.path(), any, any), plan.clock.clone()).unwrap();
        let join = relay.add_agent(&agent_name()).unwrap();
        let credential = Secret::generate().unwrap();

        relay
            .store()
            .join(&join.secret, &credential.digest(), plan.clock.now())
            .unwrap()
            .unwrap();

        let edge = Edge {
            address: relay.edge_address(),
            host: HOST.to_owned(),
            roots: roots(relay.self_signed().unwrap()),
            clock: plan.clock.clone(),
        };

        let tunnel = relay.tunnel_address();
        let mut stage = Self {
            edge,
            clock: plan.clock.clone(),
            reports: Arc::default(),
            relay: Some(relay),
            agent: None,
            plan,
            application,
            credential,
            opened: Arc::default(),
            tunnel,
            link: None,
            dir,
        };
        if stage.plan.linked {
            stage.link = Some(Link::to(tunnel).await);
        }

        stage
    }

    /// Starts an agent for another application. Returns the previous agent, which keeps running.
    pub async fn start_second_agent(&mut self, application: SocketAddr) -> Agent {
        let (first, before) = (self.agent.take().unwrap(), self.application);
        self.application = application;
        self.start_agent().await;
        self.application = before;
        first
    }

    /// Sets `--pool` of agents that are started from now on.
    pub fn share(&mut self, pool: bool) {
        self.plan.link.pool = pool;
    }

    /// Starts the agent, and waits for its tunnel.
    pub async fn start_agent(&mut self) {
        let before = self.tunnels_opened();
        let (reporter, mut reports) = events::channel();
        let kept = Arc::clone(&self.reports);
        tokio::spawn(async move {
            while let Some(report) = reports.next().await {
                kept.lock().unwrap().push(report.event);
            }
        });

        let opened = Arc::clone(&self.opened);
        let settings = AgentSettings {
            relays: vec![RelayAddress::new(
                self.link
                    .as_ref()
                    .map_or(self.tunnel, |link| link.address)
                    .to_string(),
                self.relay.as_ref().unwrap().pin(),
                self.credential.clone(),
            )],
            link: self.plan.link.clone(),
            tunnels: vec![TunnelSettings {
                host: Some(HOST.to_owned()),
                policy: self.plan.policy.clone(),
                application: self.plan.upstream.clone().unwrap_or_else(|| {
                    Upstream::plain(Address::Host(self.application.to_string()))
                }),
                pairing: self
                    .plan
                    .pairing
                    .clone()
                    .map(|path| -> hookward_agent::Pairing {
                        Box::new(move |secret| std::fs::write(&path, secret.expose()))
                    }),
            }],
            drain: self.plan.limits.drain,
            state: None,
            delivery_log: Some(self.dir.path().join("delivered.db")),
            capture: Capture::default(),
        };

        let on_open = move |tunnel| opened.lock().unwrap().push(tunnel);
        let agent = Agent::start(settings, self.clock.clone(), reporter, on_open, |_| {});
        self.agent = Some(agent.unwrap_or_else(|problems| panic!("{problems}")));

        let opened = Arc::clone(&self.opened);
        eventually("the tunnel opens", || opened.lock().unwrap().len() > before).await;
    }

    /// Removes the agent, and starts another one under its name.
    pub async fn start_other_owner(&mut self) {
        let (relay, now) = (self.relay.as_ref().unwrap(), self.clock.now());
        relay.store().remove_agent(&agent_name(), now).unwrap();
        let join = relay.add_agent(&agent_name()).unwrap();
        let credential = Secret::generate().unwrap();
        let joined = relay.store().join(&join.secret, &credential.digest(), now);
        joined.unwrap().unwrap();
        self.credential = credential;
        self.start_agent().await;
    }

    /// Returns the link between agent and relay.
    pub fn link(&self) -> &Link {
        self.link.as_ref().unwrap()
    }

    /// Returns the transports of the opened tunnels, in order.
    pub fn transports(&self) -> Vec<Transport> {
        self.opened
            .lock()
            .unwrap()
            .iter()
            .map(|opened| opened.transport)
            .collect()
    }

    /// Returns the number of tunnels that the agent has opened.
    pub fn tunnels_opened(&self) -> usize {
        self.opened.lock().unwrap().len()
    }

    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().unwrap()
    }

    /// Stops the agent in order.
    pub async fn stop_agent(&mut self) {
        within("the agent stops", self.agent.take().unwrap().shutdown()).await;
    }

    /// Returns the relay's data directory.
    pub fn data_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the path of the deduplication file.
    pub fn deliveries(&self) -> PathBuf {
        self.dir.path().join("deliveries.db")
    }

    /// Offers a policy that may be invalid.
    pub fn try_policy(&self, policy: &Policy) -> Result<(), String> {
        self.agent
            .as_ref()
            .unwrap()
            .replace_policy(0, policy)
            .map_err(|problems| problems.to_string())
    }

    /// Offers another policy.
    pub fn replace_policy(&mut self, policy: Policy) {
        self.agent
            .as_ref()
            .unwrap()
            .replace_policy(0, &policy)
            .unwrap();
        self.plan.policy = policy;
    }

    /// Stops the relay in order.
    pub async fn stop_relay(&mut self) {
        let drain = self.plan.limits.drain;
        within(
            "the relay stops",
            self.relay.take().unwrap().shutdown(drain),
        )
        .await;
    }

    /// Starts the relay again, with the same ports and data.
    pub async fn start_relay(&mut self) {
        // quinn's driver releases the UDP port a moment after its endpoint is dropped.
        let mut started = None;
        eventually("the ports are free again", || {
            let settings = settings(&self.plan, self.dir.path(), self.edge.address, self.tunnel);
            started = Relay::start(settings, self.clock.clone()).ok();
            started.is_some()
        })
        .await;
        self.relay = started;
    }

    /// Waits for an event.
    pub async fn reported(&self, what: &str, wanted: impl Fn(&Event) -> bool) {
        eventually(what, || self.reports.lock().unwrap().iter().any(&wanted)).await;
    }
}

/// Several relays, and an agent that has joined all of them.
pub struct Fleet {
    pub relays: Vec<Member>,
    pub reports: Arc<Mutex<Vec<Event>>>,
    opened: Arc<Mutex<Vec<OpenedTunnel>>>,
    plan: Plan,
    agent: Option<Agent>,
}

/// A relay of a fleet.
pub struct Member {
    pub edge: Edge,
    relay: Option<Relay>,
    pub tunnel: SocketAddr,
    credential: Secret,
    _dir: TempDir,
}

impl Member {
    fn start(plan: &Plan) -> Self {
        let dir = TempDir::new().unwrap();
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let relay = Relay::start(settings(plan, dir.path(), any, any), plan.clock.clone()).unwrap();
        let join = relay.add_agent(&agent_name()).unwrap();
        let credential = Secret::generate().unwrap();

        relay
            .store()
            .join(&join.secret, &credential.digest(), plan.clock.now())
            .unwrap()
            .unwrap();

        let (address, roots) = (relay.edge_address(), roots(relay.self_signed().unwrap()));
        let edge = Edge {
            address,
            host: HOST.to_owned(),
            roots,
            clock: plan.clock.clone(),
        };

        Self {
            edge,
            tunnel: relay.tunnel_address(),
            relay: Some(relay),
            credential,
            _dir: dir,
        }
    }

    /// Stops it in order.
    pub async fn stop(&mut self, plan: &Plan) {
        within(
            "the relay stops",
            self.relay.take().unwrap().shutdown(plan.limits.drain),
        )
        .await;
    }
}

impl Fleet {
    /// Starts this number of relays and an agent for this application. Waits until all have opened
    /// the tunnel.
    pub async fn start(count: usize, application: SocketAddr, plan: Plan) -> Self {
        let relays: Vec<_> = (0..count).map(|_| Member::start(&plan)).collect();
        let (reporter, mut reports) = events::channel();
        let kept: Arc<Mutex<Vec<Event>>> = Arc::default();
        let opened: Arc<Mutex<Vec<OpenedTunnel>>> = Arc::default();
        let of_task = Arc::clone(&kept);

        tokio::spawn(async move {
            while let Some(report) = reports.next().await {
                of_task.lock().unwrap().push(report.event);
            }
        });

        let at = |member: &Member| {
            RelayAddress::new(
                member.tunnel.to_string(),
                member.relay.as_ref().unwrap().pin(),
                member.credential.clone(),
            )
        };

        let settings = AgentSettings {
            relays: relays.iter().map(at).collect(),
            link: plan.link.clone(),
            tunnels: vec![TunnelSettings {
                host: Some(HOST.to_owned()),
                policy: plan.policy.clone(),
                application: Upstream::plain(Address::Host(application.to_string())),
                pairing: None,
            }],
            drain: plan.limits.drain,
            state: None,
            delivery_log: None,
            capture: Capture::default(),
        };

        let noted = Arc::clone(&opened);
        let on_open = move |tunnel| noted.lock().unwrap().push(tunnel);
        let agent = Agent::start(settings, plan.clock.clone(), reporter, on_open, |_| {});
        let agent = Some(agent.unwrap_or_else(|problems| panic!("{problems}")));
        let fleet = Self {
            relays,
            reports: kept,
            opened,
            plan,
            agent,
        };

        eventually("all relays have opened the tunnel", || {
            fleet.opened_at().len() == count
        })
        .await;

        fleet
    }

    /// Returns the relays that have opened the tunnel.
    pub fn opened_at(&self) -> BTreeSet<String> {
        self.opened
            .lock()
            .unwrap()
            .iter()
            .map(|opened| opened.relay.clone())
            .collect()
    }

    /// Stops a relay in order.
    pub async fn stop(&mut self, number: usize) {
        self.relays[number].stop(&self.plan).await;
    }

    /// Stops the agent in order.
    pub async fn stop_agent(&mut self) {
        within("the agent stops", self.agent.take().unwrap().shutdown()).await;
    }
}

/// Returns the relay's refusal of the plan's agent.
pub async fn refused(plan: Plan) -> String {
    let dir = TempDir::new().unwrap();
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let relay = Relay::start(settings(&plan, dir.path(), any, any), plan.clock.clone()).unwrap();
    let join = relay.add_agent(&agent_name()).unwrap();
    let credential = Secret::generate().unwrap();

    relay
        .store()
        .join(&join.secret, &credential.digest(), plan.clock.now())
        .unwrap()
        .unwrap();

    let (reporter, _reports) = events::channel();
    let address = relay.tunnel_address().to_string();
    let settings = AgentSettings {
        relays: vec![RelayAddress::new(address, relay.pin(), credential)],
        link: plan.link,
        tunnels: vec![TunnelSettings {
            host: Some(HOST.to_owned()),
            policy: plan.policy,
            application: Upstream::plain(Address::Host("127.0.0.1:1".to_owned())),
            pairing: None,
        }],
        drain: plan.limits.drain,
        state: None,
        delivery_log: None,
        capture: Capture::default(),
    };
    let agent = Agent::start(settings, plan.clock, reporter, |_| {}, |_| {});

    let mut agent = agent.unwrap_or_else(|problems| panic!("{problems}"));
    let error = within("the relay refuses", agent.ended())
        .await
        .unwrap_err()
        .to_string();

    within("the agent stops", agent.shutdown()).await;
    within("the relay stops", relay.shutdown(plan.limits.drain)).await;
    error
}

fn agent_name() -> AgentName {
    AgentName::parse("flexdeploy").unwrap()
}

fn settings(plan: &Plan, dir: &Path, listen: SocketAddr, tunnel_listen: SocketAddr) -> Settings {
    Settings {
        admin: plan.admin.clone(),
        audit: plan.audit.clone(),
        delivery: plan.delivery.clone(),
        domain: HostName::parse("example.test").unwrap(),
        listen,
        tunnel_listen,
        public_port: None,
        tunnel_address: None,
        data_dir: dir.to_owned(),
        certificate: None,
        acme: None,
        trusted_proxies: plan.trusted_proxies.clone(),
        forwarded: plan.forwarded,
        proxy_protocol: plan.proxy_protocol,
        baseline_policy: plan.baseline.clone(),
        fetch: plan.fetch.clone(),
        hosts: BTreeMap::from([(HostName::parse(HOST).unwrap(), agent_name())]),
        reset: false,
        limits: plan.limits.clone(),
    }
}

/// Returns a store that trusts only this certificate.
pub fn roots(certificate: &Path) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(certificate).unwrap())
        .unwrap();
    roots
}

/// Returns a stage's clock, set to this second.
pub fn clock_at(seconds: u64) -> Clock {
    Clock::at(UnixMillis(seconds * 1000))
}
