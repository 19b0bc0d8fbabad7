//! Terms of a session that all its exchanges share, and the handler of one tunnel.

use super::RefusalSummary;
use crate::events::EventSink;
use crate::exchange::delivery_log::DeliveryLog;
use crate::exchange::started::StartedRequests;
use crate::exchange::tunnel_gate::TunnelGate;
use crate::inspector::capture::Capture;
use crate::upstream::header_case::HeaderCaseCache;
use crate::upstream::pool::ConnectionPool;
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::rate::ByteMeter;
use hookward_core::secret::Secret;
use hookward_gate::engine::GateState;
use hookward_runtime::body_memory::BodyMemory;
use hookward_runtime::offload::{Offload, OffloadQueue};
use hookward_tunnel::protocol::control::{Deadlines, RefusedContent, RefusedRequest};
use hookward_tunnel::transport::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Maximum number of unfinished heads of one connection; others wait in the transport's window.
pub(super) const PENDING_HEADS_PER_CONNECTION: usize = 128;

/// Maximum number of unfinished heads of all connections. A head has up to 96 KiB, so hostile
/// relays can use 32 MiB.
pub(super) const PENDING_HEADS: usize = 340;

/// Slots for unfinished heads of all connections; clones share them.
#[derive(Clone)]
pub(crate) struct PendingHeads(pub(super) Arc<Semaphore>);

impl Default for PendingHeads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PENDING_HEADS)))
    }
}

/// State that all exchanges of one tunnel share.
pub(crate) struct ExchangeHandler {
    /// State of the gate; empty on this side.
    pub state: Arc<GateState>,
    /// Receiver of a secret that a provider sends in its challenge; only while pairing.
    pub pairing: Option<Pairing>,
    /// The agent's own clock.
    pub clock: Clock,
    /// Deliveries that the application has begun or completed.
    pub deliveries: DeliveryLog,
    /// Capture of exchanges.
    pub capture: Capture,
    /// Tracker of attempts that go on without their relay.
    pub tasks: TaskTracker,
    /// Connections to the application.
    pub pool: ConnectionPool,
    /// `true` if other agents share the tunnel.
    pub pooled: bool,
    /// Cost of diagnoses of wrong signatures.
    pub diagnoses: Arc<ByteMeter>,
    /// Threads for checks of large bodies.
    pub offload: Offload,
    /// Queue of this tunnel's checks.
    pub checks: OffloadQueue,
    /// Case of header names.
    pub header_case: HeaderCaseCache,
    /// Sink of events.
    pub events: EventSink,
    /// Memory for bodies that checks must read.
    pub body_memory: BodyMemory,
    /// Requests in flight, of all tunnels.
    pub in_flight: InFlight,
    /// Refusals of the agent's own gate, which a hostile relay could cause without limit.
    pub refused: RefusalSummary,
}

/// Number of requests in flight; clones share it.
#[derive(Clone, Default)]
pub struct InFlight(Arc<AtomicUsize>);

/// Guard of a request in flight.
pub(super) struct InFlightGuard<'u>(&'u InFlight);

impl ExchangeHandler {
    /// Creates a handler whose application is at port 9 of this machine.
    #[cfg(test)]
    pub(crate) fn for_tests(events: EventSink) -> Self {
        use crate::upstream::application::{Address, Application};

        let pool = ConnectionPool::new(
            Application::plain(Address::Port(9)),
            events.clone(),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        Self {
            state: Arc::default(),
            pairing: None,
            clock: Clock::default(),
            deliveries: DeliveryLog::default(),
            capture: Capture::default(),
            tasks: TaskTracker::new(),
            pool,
            pooled: false,
            diagnoses: Arc::new(ByteMeter::new(0)),
            offload: Offload::default(),
            checks: OffloadQueue::default(),
            header_case: HeaderCaseCache::default(),
            events,
            body_memory: BodyMemory::new(0),
            in_flight: InFlight::default(),
            refused: RefusalSummary::default(),
        }
    }

    /// Reports summaries of refusals until `stop` is cancelled.
    pub(crate) async fn report_counts(self: Arc<Self>, stop: CancellationToken) {
        self.refused.report_counts(&self.events, &stop).await;
    }
}

impl InFlight {
    /// Number of requests in progress.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) -> InFlightGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self)
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Receiver of the secret that a provider sends in its challenge.
pub type Pairing = Box<dyn Fn(&Secret) -> std::io::Result<()> + Send + Sync>;

/// Terms of the session that an exchange belongs to.
pub(crate) struct SessionTerms {
    /// The session itself, for the measurements of its path.
    pub session: Session,
    /// Deadlines of the relay's settings.
    pub deadlines: Deadlines,
    /// Tunnels of the session; the agent refuses requests for other hosts.
    pub hosts: Vec<TunnelBinding>,
    /// Started requests of this relay, whose ids are its own.
    pub started: Arc<StartedRequests>,
    /// Slots for unfinished heads of this connection.
    pub heads: Semaphore,
    /// Slots for unfinished heads of all connections.
    pub all_heads: PendingHeads,
    /// `true` once a malformed request was reported.
    pub malformed: AtomicBool,
}

impl SessionTerms {
    /// Returns the agent's tunnel at this position, if it is open on this connection.
    #[must_use]
    pub(crate) fn at(&self, tunnel: usize) -> Option<&TunnelBinding> {
        self.hosts.iter().find(|at| at.tunnel == tunnel)
    }

    /// Creates the terms of one connection.
    #[must_use]
    pub(crate) fn new(
        session: Session,
        deadlines: Deadlines,
        hosts: Vec<TunnelBinding>,
        begun: Arc<StartedRequests>,
        all_heads: PendingHeads,
    ) -> Self {
        let (heads, malformed) = (
            Semaphore::new(PENDING_HEADS_PER_CONNECTION),
            AtomicBool::new(false),
        );
        Self {
            session,
            deadlines,
            hosts,
            started: begun,
            heads,
            all_heads,
            malformed,
        }
    }
}

/// A tunnel that is open.
#[derive(Clone)]
pub(crate) struct TunnelBinding {
    /// Position among the agent's tunnels.
    pub tunnel: usize,
    pub host: Arc<str>,
    /// Origin of its public URL.
    pub origin: Arc<str>,
    /// The agent's copy of the policy that is in force at this relay.
    pub gate: Arc<TunnelGate>,
    /// Handler of its exchanges.
    pub handler: Arc<ExchangeHandler>,
}

impl TunnelBinding {
    /// Captures a request that the relay refused `ago`.
    pub(crate) fn capture_refused(
        &self,
        refused: &RefusedRequest,
        ago: Duration,
        content: Option<RefusedContent>,
    ) {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        let at = UnixMillis(self.handler.clock.now().0.saturating_sub(ago));
        let tunnel = (&self.origin, &self.gate.policy());
        self.handler.capture.refused(refused, content, at, tunnel);
    }
}
