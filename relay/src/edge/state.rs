//! State for requests: the edge, which all connections share, and the connection itself.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::address::AddressSet;
use hookward_core::clock::Clock;
use hookward_core::limits::Limits;
use hookward_core::rate::ByteMeter;
use hookward_gate::engine::GateState;
use hookward_runtime::body_memory::BodyMemory;
use hookward_runtime::offload::Offload;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delivery::Deliveries;
use crate::edge::authority::Ports;
use crate::edge::baseline::BaselinePolicy;
use crate::edge::client_address::ForwardedField;
use crate::edge::header_case::RecordedCase;
use crate::edge::sole_client::SoleClient;
use crate::fetch::client::Fetcher;
use crate::fetch::keys::KeyCache;
use crate::forward::RequestIds;
use crate::observe::Observer;
use crate::overload::activity::ConnectionActivity;
use crate::overload::connections::{ConnectionSlot, ConnectionTable};
use crate::overload::per_client::{ClientSlot, PerClientLimiter};
use crate::overload::write_timeout::UnreadBody;
use crate::sessions::registry::Registry;

/// State that all connections of the edge share.
pub(crate) struct EdgeState {
    /// Registry of hosts and sessions.
    pub registry: Registry,
    /// Clock.
    pub clock: Clock,
    pub limits: Limits,
    /// Networks whose statement about the client address is trusted.
    pub trusted_proxies: AddressSet,
    /// Header field of that statement.
    pub forwarded: ForwardedField,
    /// `true` if connections of trusted proxies begin with the PROXY protocol.
    pub proxy_protocol: bool,
    pub body_memory: BodyMemory,
    /// Table of all connections.
    pub connections: Arc<ConnectionTable>,
    /// Number of connections that were refused.
    pub connections_refused: AtomicU64,
    /// Time at which `accept` last failed for lack of resources.
    pub exhausted: Mutex<Option<Instant>>,
    /// Requests in progress, by client address.
    pub requests_per_client: PerClientLimiter,
    /// Ports that a host may carry.
    pub ports: Ports,
    /// Cancelled when the relay starts to drain.
    pub draining: CancellationToken,
    /// Cancelled shortly before the drain ends: requests without a response get a 502.
    pub last_call: CancellationToken,
    /// Cancelled when the drain ends.
    pub cut_off: CancellationToken,
    pub ids: RequestIds,
    /// The operator's baseline policy.
    pub baseline: BaselinePolicy,
    /// State of the baseline policy's gate.
    pub baseline_state: Arc<GateState>,
    /// Public keys that providers publish.
    pub keys: KeyCache,
    /// Fetches the confirmation URL of a subscription.
    pub fetcher: Fetcher,
    /// Stored deliveries, and claims.
    pub deliveries: Deliveries,
    /// CPU cost of signature diagnoses.
    pub diagnoses: Arc<ByteMeter>,
    /// Observer of every request.
    pub observer: Arc<Observer>,
    /// The only client so far, if there is only one.
    pub sole_client: SoleClient,
    /// Time of the last warning of an undeclared proxy.
    pub proxy_warned: Mutex<Option<Instant>>,
    /// Threads for checks of large bodies.
    pub offload: Offload,
}

impl EdgeState {
    /// Warns of an undeclared proxy in the operator's own network.
    pub(crate) fn unknown_proxy(&self, peer: IpAddr) {
        /// Interval between warnings.
        const WARN_INTERVAL: Duration = Duration::from_secs(300);

        let mut warned = self
            .proxy_warned
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            *warned = Some(Instant::now());
            drop(warned);
            tracing::warn!(
                %peer,
                "a proxy that is not trusted names the address of a sender: all senders behind it count as one; \
                 if it is yours, start the relay with --trusted-proxy {peer}"
            );
        }
    }

    /// Records that `accept` failed for lack of resources.
    pub(crate) fn note_exhausted(&self) {
        *self
            .exhausted
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns `true` if `accept` failed for lack of resources in this time.
    pub(crate) fn was_exhausted(&self, within: Duration) -> bool {
        let exhausted = self
            .exhausted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        exhausted.is_some_and(|at| at.elapsed() < within)
    }

    /// Acquires a slot for a request of this peer. Trusted proxies have no maximum, because they
    /// carry many senders.
    pub(crate) fn acquire_client_slot(&self, peer: IpAddr) -> Option<ClientSlot> {
        let most = if self.trusted_proxies.contains(peer) {
            usize::MAX
        } else {
            self.limits.max_requests_per_client
        };
        self.requests_per_client.try_acquire(peer, most)
    }
}

/// Peer of a connection.
pub(crate) struct Peer {
    pub address: IpAddr,
    /// Server name (SNI) of the TLS handshake.
    pub sni: Option<String>,
    /// Marks a body that is left unread on the socket.
    pub unread: UnreadBody,
    /// Slot of the connection in the connection table.
    pub slot: Arc<ConnectionSlot>,
}

pub(crate) struct ConnectionContext {
    /// State that all connections share.
    pub edge: Arc<EdgeState>,
    /// Peer of the connection.
    pub peer: Peer,
    /// Recorded bytes of heads, over HTTP/1.1.
    pub recorded: Option<RecordedCase>,
    /// Tracker of tasks that outlive a request: upgraded connections.
    pub tasks: TaskTracker,
    /// Activity of the connection.
    pub activity: Arc<ConnectionActivity>,
}
