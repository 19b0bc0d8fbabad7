//! Terms of a session that all its exchanges share, and the handler of one tunnel.

use super::RefusalSummary;
use crate::events::EventSink;
use crate::exchange::started::StartedRequests;
use crate::upstream::header_case::HeaderCaseCache;
use crate::upstream::pool::ConnectionPool;
use arc_swap::ArcSwap;
use hookward_core::clock::Clock;
use hookward_core::rate::ByteMeter;
use hookward_core::secret::Secret;
use hookward_gate::engine::{Gate, GateState};
use hookward_runtime::body_memory::BodyMemory;
use hookward_runtime::offload::{Offload, OffloadQueue};
use hookward_tunnel::protocol::control::Deadlines;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Most heads of a connection that have begun and not ended: others wait in the transport's window.
pub(super) const PENDING_HEADS_PER_CONNECTION: usize = 128;

/// Most of them of all connections: one head has up to 96 KiB, so relays that end none of them cost
/// 32 MiB.
pub(super) const PENDING_HEADS: usize = 340;

/// Places for heads that have not ended, of all connections; clones share them.
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
    /// Requests under way, of all tunnels.
    pub in_flight: InFlight,
    /// Refusals of the agent's own gate, which a hostile relay could cause without end.
    pub refused: RefusalSummary,
}

/// Requests under way; clones share the count.
#[derive(Clone, Default)]
pub struct InFlight(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub(super) struct InFlightGuard<'u>(&'u InFlight);

impl ExchangeHandler {
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

/// Takes the secret that a provider tells in its handshake.
pub type Pairing = Box<dyn Fn(&Secret) -> std::io::Result<()> + Send + Sync>;

/// Terms of the session that an exchange belongs to.
pub(crate) struct SessionTerms {
    /// Deadlines of the relay's settings.
    pub deadlines: Deadlines,
    /// The tunnels: requests for any other host are none of this agent's.
    pub hosts: Vec<TunnelBinding>,
    /// Requests that were begun, of this relay: their ids are its own.
    pub started: Arc<StartedRequests>,
    /// Places for heads that have not ended, of this connection.
    pub heads: Semaphore,
    /// Memory for unfinished heads of all connections.
    pub all_heads: PendingHeads,
    /// `true` once something that is no request has been reported.
    pub malformed: AtomicBool,
}

impl SessionTerms {
    /// The agent's tunnel of this position, if it is open on this connection.
    #[must_use]
    pub(crate) fn at(&self, tunnel: usize) -> Option<&TunnelBinding> {
        self.hosts.iter().find(|at| at.tunnel == tunnel)
    }

    /// The terms of one connection.
    #[must_use]
    pub(crate) fn new(
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
pub(crate) struct TunnelBinding {
    /// Which of the agent's tunnels it is, by its position.
    pub tunnel: usize,
    pub host: Arc<str>,
    /// Scheme and authority of its public URL.
    pub origin: Arc<str>,
    /// The agent's copy of the policy, as it is in force at this relay.
    pub gate: Arc<ArcSwap<Gate>>,
    /// Handler of its exchanges.
    pub handler: Arc<ExchangeHandler>,
}
