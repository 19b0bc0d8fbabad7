//! The agent as a value: start it, replace policies, shut it down.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::diagnostics::{Diagnostic, Diagnostics};
use hookward_core::limits::{AGENT_BODY_MEMORY, DOCTOR_BYTES_PER_SECOND};
use hookward_core::rate::ByteMeter;
use hookward_gate::engine::{Gate, GateState, Side};
use hookward_gate::policy::Policy;
use hookward_runtime::body_memory::BodyMemory;
use hookward_runtime::offload::{Offload, OffloadQueue};
use hookward_tunnel::transport::Transport;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::status::AgentView;
use crate::config::state_dir::StateDir;
use crate::events::EventSink;
use crate::exchange::delivery_log::DeliveryLog;
use crate::exchange::{ExchangeHandler, InFlight, Pairing, PendingHeads, RefusalSummary};
use crate::inspector::InspectorView;
use crate::inspector::capture::Capture;
use crate::inspector::policy::InspectedPolicy;
use crate::observe::AgentObserver;
use crate::relay_link;
use crate::relay_link::context::OpenedTunnels;
use crate::relay_link::policy_sync::PolicyOffer;
use crate::relay_link::status::LinkStatus;
use crate::relay_link::{
    ConnectionError, LinkContext, LinkSettings, LinkTunnel, OpenedTunnel, RelayEndpoint,
};
use crate::upstream::application::Application;
use crate::upstream::header_case::HeaderCaseCache;
use crate::upstream::pool::ConnectionPool;

/// Settings of an agent.
pub struct AgentSettings {
    /// Relays to connect to.
    pub relays: Vec<RelayEndpoint>,
    /// Settings of the connections to relays.
    pub link: LinkSettings,
    /// Tunnels to open.
    pub tunnels: Vec<TunnelSettings>,
    /// Time for requests in flight when the agent stops.
    pub drain: Duration,
    /// Directory that keeps renewed credentials; `None` for a relay in this process.
    pub state: Option<StateDir>,
    /// File of completed deliveries.
    pub delivery_log: Option<PathBuf>,
    /// Capture of requests.
    pub capture: Capture,
}

/// One tunnel of an agent.
pub struct TunnelSettings {
    /// Requested public host.
    pub host: Option<String>,
    /// Policy of the tunnel.
    pub policy: Policy,
    /// Application behind the tunnel.
    pub application: Application,
    /// Receiver of a secret that a provider sends in its challenge; only while pairing.
    pub pairing: Option<Pairing>,
}

/// A running agent.
pub struct Agent {
    /// `None` once its end was awaited.
    running: Option<JoinHandle<Result<(), ConnectionError>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    policies: Vec<watch::Sender<Arc<PolicyOffer>>>,
    clock: Clock,
    in_flight: InFlight,
    context: Arc<LinkContext>,
    body_memory: BodyMemory,
    started: (UnixMillis, Instant),
}

/// Resources that all tunnels of an agent share.
struct SharedResources {
    pooled: bool,
    clock: Clock,
    events: EventSink,
    body_memory: BodyMemory,
    in_flight: InFlight,
    diagnoses: Arc<ByteMeter>,
    offload: Offload,
    deliveries: DeliveryLog,
    capture: Capture,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl SharedResources {
    /// Creates the handler of one tunnel.
    fn handler(&self, application: Application, pairing: Option<Pairing>) -> Arc<ExchangeHandler> {
        let pool = ConnectionPool::new(
            application,
            self.events.clone(),
            self.tasks.clone(),
            self.stop.clone(),
        );
        Arc::new(ExchangeHandler {
            state: Arc::new(GateState::default()),
            pairing,
            pooled: self.pooled,
            clock: self.clock.clone(),
            deliveries: self.deliveries.clone(),
            capture: self.capture.clone(),
            tasks: self.tasks.clone(),
            pool,
            diagnoses: Arc::clone(&self.diagnoses),
            offload: self.offload.clone(),
            checks: OffloadQueue::default(),
            header_case: HeaderCaseCache::default(),
            events: self.events.clone(),
            body_memory: self.body_memory.clone(),
            in_flight: self.in_flight.clone(),
            refused: RefusalSummary::default(),
        })
    }
}

/// Compiles a policy, for the relay and for the agent's own gate.
fn policy_offer(
    policy: &Policy,
    capture: &Capture,
    clock: &Clock,
) -> Result<Arc<PolicyOffer>, Diagnostics> {
    let gate = Gate::compile(policy, Side::Agent, clock.now()).map_err(|mistakes| {
        Diagnostics(
            mistakes
                .into_iter()
                .map(|what| Diagnostic::new("policy", what))
                .collect(),
        )
    })?;
    let inspected = InspectedPolicy::new(policy, capture.redacted(), clock.now());
    Ok(Arc::new(PolicyOffer::new(
        policy.for_relay(),
        gate,
        inspected,
    )))
}

/// Opens the log of deliveries. Without one, the agent works all the same.
fn delivery_log(path: Option<&Path>, clock: &Clock) -> DeliveryLog {
    let Some(path) = path else {
        return DeliveryLog::default();
    };
    DeliveryLog::open(path, clock.clone()).unwrap_or_else(|error| {
        tracing::warn!(%error, "deliveries are not recorded: a restart may repeat some");
        DeliveryLog::default()
    })
}

/// Returns a unique name for this instance of the program.
fn instance() -> String {
    let mut bytes = [0; 12];
    // Without randomness, process id and time are unique enough.
    if getrandom::fill(&mut bytes).is_err() {
        return format!("{}-{}", std::process::id(), Clock::System.now().0);
    }
    HEXLOWER.encode(&bytes)
}

impl Agent {
    /// Starts an agent. Calls `on_open` when a relay opens a tunnel that had no connection, or when
    /// another transport carries it; calls `on_worked` with the transport of a working connection.
    ///
    /// # Errors
    /// All reasons why a policy is unusable.
    pub fn start(
        settings: AgentSettings,
        clock: Clock,
        events: EventSink,
        on_open: impl Fn(OpenedTunnel) + Send + Sync + 'static,
        on_worked: impl Fn(Transport) + Send + Sync + 'static,
    ) -> Result<Self, Diagnostics> {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let in_flight = InFlight::default();
        let resources = SharedResources {
            pooled: settings.link.pool,
            clock: clock.clone(),
            events: events.clone(),
            body_memory: BodyMemory::new(AGENT_BODY_MEMORY),
            in_flight: in_flight.clone(),
            diagnoses: Arc::new(ByteMeter::new(DOCTOR_BYTES_PER_SECOND)),
            offload: Offload::default(),
            deliveries: delivery_log(settings.delivery_log.as_deref(), &clock),
            capture: settings.capture,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };

        let (mut policies, mut tunnels) = (Vec::new(), Vec::new());
        for tunnel in settings.tunnels {
            let (sender, wanted) =
                watch::channel(policy_offer(&tunnel.policy, &resources.capture, &clock)?);
            let handler = resources.handler(tunnel.application, tunnel.pairing);
            tasks.spawn(Arc::clone(&handler).report_counts(stop.clone()));
            policies.push(sender);
            tunnels.push(LinkTunnel::new(tunnel.host, wanted, handler));
        }

        let relays = settings.relays.iter();
        let calls = relays.map(|relay| (relay.address.clone(), Arc::default()));
        let shared = LinkContext {
            tunnels,
            calls: calls.collect(),
            state: settings.state,
            link: settings.link,
            events,
            clock: clock.clone(),
            drain: settings.drain,
            on_open: Box::new(on_open),
            on_transport: Box::new(on_worked),
            instance: instance(),
            generations: AtomicU64::new(1),
            status: LinkStatus::default(),
            opened: OpenedTunnels::default(),
            heads: PendingHeads::default(),
            tasks: TaskTracker::new(),
        };

        let context = Arc::new(shared);
        let running = relay_link::run(settings.relays, Arc::clone(&context), stop.clone());
        let running = Some(tokio::spawn(running));
        Ok(Self {
            running,
            stop,
            tasks,
            policies,
            started: (clock.now(), Instant::now()),
            clock,
            in_flight,
            context,
            body_memory: resources.body_memory,
        })
    }

    /// Returns the agent as its API shows it.
    pub(crate) fn view(
        &self,
        observer: Arc<AgentObserver>,
        inspector: Option<InspectorView>,
    ) -> AgentView {
        AgentView {
            context: Arc::downgrade(&self.context),
            body_memory: self.body_memory.clone(),
            in_flight: self.in_flight.clone(),
            observer,
            inspector,
            clock: self.clock.clone(),
            started: self.started,
        }
    }

    /// Offers a new policy for a tunnel to the relays. It is in force on both sides once a relay accepts
    /// it. Until then, or if the relay refuses it, the old policy remains in force.
    ///
    /// # Errors
    /// All reasons why the policy is unusable.
    pub fn replace_policy(&self, tunnel: usize, policy: &Policy) -> Result<(), Diagnostics> {
        let (Some(wanted), Some(known)) =
            (self.policies.get(tunnel), self.context.tunnels.get(tunnel))
        else {
            return Ok(());
        };
        let offer = policy_offer(policy, &known.handler.capture, &self.clock)?;
        // An agent that has ended ignores it.
        let _ = wanted.send(offer);
        Ok(())
    }

    /// Waits until the agent ends by itself, because a relay refused it.
    ///
    /// # Errors
    /// The relay's refusal.
    pub async fn ended(&mut self) -> Result<(), ConnectionError> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let ended = running.await;
        self.running = None;
        ended.unwrap_or_else(|panic| Err(ConnectionError::Ended(panic.to_string())))
    }

    /// Returns the count of requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.clone()
    }

    /// Stops: accepts no new requests, drains those in flight, and closes the tunnel.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Some(running) = self.running {
            let _ = running.await;
        }
        // The handlers keep idle connections to the application open.
        drop(self.context);
        self.tasks.close();
        self.tasks.wait().await;
    }
}
