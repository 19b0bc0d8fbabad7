//! State that all links of an agent share, and state of one relay.

use super::calls::RelayCalls;
use super::dialer::Dialer;
use super::policy_sync::{PolicyOffer, PolicySync};
use super::renewal::RelayCredential;
use super::status::LinkStatus;
use super::{LinkSettings, OpenedTunnel, RelayEndpoint};
use crate::config::state_dir::StateDir;
use crate::events::{Event, EventSink};
use crate::exchange::started::StartedRequests;
use crate::exchange::{ExchangeHandler, PendingHeads};
use crate::exchange::{TunnelBinding, TunnelGate};
use hookward_core::clock::Clock;
use hookward_core::text::printable;
use hookward_tunnel::transport::Transport;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

/// One of the agent's tunnels.
pub(crate) struct LinkTunnel {
    /// Requested public host.
    pub host: Option<String>,
    /// Policies to use; a new one may arrive at any time.
    pub wanted: watch::Receiver<Arc<PolicyOffer>>,
    /// Handler of its exchanges.
    pub handler: Arc<ExchangeHandler>,
}

/// State that all links share.
pub(crate) struct LinkContext {
    /// Tunnels, all of which every connection serves.
    pub tunnels: Vec<LinkTunnel>,
    /// Settings of the connections.
    pub link: LinkSettings,
    /// Sink of events.
    pub events: EventSink,
    /// Clock.
    pub clock: Clock,
    /// Time for exchanges in flight when the agent stops.
    pub drain: Duration,
    /// Called when the first connection to a relay opens a tunnel.
    pub on_open: Box<dyn Fn(OpenedTunnel) + Send + Sync>,
    /// Called with the transport of a working connection.
    pub on_transport: Box<dyn Fn(Transport) + Send + Sync>,
    /// Name of this instance of the program.
    pub instance: String,
    /// Generation of the next connection.
    pub generations: AtomicU64,
    /// Status of all links.
    pub status: LinkStatus,
    /// Tunnels that were open at least once, by their hosts.
    pub opened: OpenedTunnels,
    /// Calls of each relay's API, by the relay's address.
    pub calls: BTreeMap<String, Arc<RelayCalls>>,
    /// Directory that keeps the credentials; `None` for a relay in this process.
    pub state: Option<StateDir>,
    /// Slots for unfinished heads.
    pub heads: PendingHeads,
    /// Tracker of connection drivers and of connections that drain.
    pub tasks: TaskTracker,
}

/// State of one relay, which all links to it share.
pub(crate) struct RelayState {
    pub relay: RelayEndpoint,
    /// Credential of the agent there.
    pub credential: RelayCredential,
    /// Dialer for this relay.
    pub dialer: Dialer,
    /// Calls of its API.
    pub(super) calls: Arc<RelayCalls>,
    /// Policies that it has, one for each tunnel.
    pub policies: Vec<PolicySync>,
    /// Gates that check its requests, one for each tunnel.
    pub gates: Vec<Arc<TunnelGate>>,
    /// Started requests of this relay.
    pub(super) started: Arc<StartedRequests>,
    /// Tunnels whose hosts this relay refused, by position.
    // A std mutex: it guards a small set, and nothing waits while it is held.
    pub(super) without_host: Mutex<BTreeSet<usize>>,
    /// Number of addresses that its name had last.
    pub(super) addresses: AtomicUsize,
    pub(super) more_addresses: Notify,
}

impl LinkTunnel {
    pub(crate) const fn new(
        host: Option<String>,
        wanted: watch::Receiver<Arc<PolicyOffer>>,
        handler: Arc<ExchangeHandler>,
    ) -> Self {
        Self {
            host,
            wanted,
            handler,
        }
    }
}

/// Tunnels that were open at least once, for requests of the agent's user.
#[derive(Default)]
pub(crate) struct OpenedTunnels(
    // A std mutex: it guards a small map, and nothing waits while it is held.
    Mutex<BTreeMap<Arc<str>, TunnelBinding>>,
);

impl OpenedTunnels {
    /// Records tunnels that a relay has opened.
    pub(super) fn add(&self, tunnels: &[TunnelBinding]) {
        let mut opened = self.lock();
        for tunnel in tunnels {
            opened.insert(Arc::clone(&tunnel.host), tunnel.clone());
        }
    }

    /// Returns the tunnel of a host.
    pub(crate) fn find(&self, host: &str) -> Option<TunnelBinding> {
        self.lock().get(host).cloned()
    }

    /// Returns all tunnels, by their hosts.
    pub(crate) fn all(&self) -> Vec<TunnelBinding> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, TunnelBinding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkContext {
    /// Returns `true` if the agent wants the requests that relays refuse.
    pub(super) fn captures_refused(&self) -> bool {
        let mut tunnels = self.tunnels.iter();
        tunnels.any(|tunnel| tunnel.handler.capture.captures_refused())
    }
}

impl RelayState {
    pub(super) fn new(
        relay: RelayEndpoint,
        dialer: Dialer,
        tunnels: &[LinkTunnel],
        calls: Arc<RelayCalls>,
        state: Option<StateDir>,
    ) -> Self {
        let gate = |tunnel: &LinkTunnel| Arc::new(tunnel.wanted.borrow().tunnel_gate());
        let policies = tunnels
            .iter()
            .map(|tunnel| PolicySync::new(tunnel.wanted.clone()));

        let (address, next) = (relay.address.clone(), relay.next_credential.clone());
        Self {
            credential: RelayCredential::new(address, relay.credential.clone(), next, state),
            relay,
            dialer,
            calls,
            policies: policies.collect(),
            gates: tunnels.iter().map(gate).collect(),
            started: Arc::default(),
            without_host: Mutex::default(),
            addresses: AtomicUsize::new(1),
            more_addresses: Notify::new(),
        }
    }

    /// Records that the relay refused the host of a tunnel. Reports it once, if other tunnels stay
    /// open.
    pub(super) fn note_host_refused(&self, tunnel: usize, message: &str, shared: &LinkContext) {
        let is_news = self.without_host().insert(tunnel);
        if is_news && shared.tunnels.len() > 1 {
            let what = format!(
                "{}: {}; the other tunnels stay open",
                self.relay.address,
                printable(message)
            );
            shared.events.emit(Event::Warning(what));
        }
    }

    /// Records that the relay opened the host of a tunnel.
    pub(super) fn note_host_opened(&self, tunnel: usize) {
        self.without_host().remove(&tunnel);
    }

    /// Returns `true` if the relay refused the host of this tunnel the last time.
    pub(super) fn is_without_host(&self, tunnel: usize) -> bool {
        self.without_host().contains(&tunnel)
    }

    fn without_host(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.without_host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the number of addresses of the relay's name.
    pub(crate) fn note_addresses(&self, count: usize) {
        if self.addresses.swap(count, Ordering::Relaxed) != count {
            self.more_addresses.notify_one();
        }
    }
}
