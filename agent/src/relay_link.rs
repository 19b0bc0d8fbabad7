//! The connections to the relays: dialled, kept, and opened again when they break.
//!
//! Every relay gets some links ([`mod@link`]), each of which keeps one connection; [`dialer`] finds
//! the way (QUIC, or TLS over TCP, or through a [`proxy`]), [`backoff`] says when the next attempt
//! is due, `opening` is how a connection begins, `serving` is one in use and ends it in order,
//! `search` says when another one is looked for meanwhile, `sleep_watch` when the machine was
//! asleep, [`status`] sums up for the user what the lines do, and [`policy_sync`] knows which policy a
//! relay has. All connections of one run of the program serve the same tunnels; losing one loses
//! nothing.

mod active;
pub(crate) mod backoff;
pub(crate) mod dialer;
mod failover;
mod handshake;
pub(crate) mod link;
pub(crate) mod policy_sync;
pub(crate) mod proxy;
pub(crate) mod status;
mod suspend;

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use hookward_core::clock::Clock;
use hookward_core::limits::GREETING_BYTES;
use hookward_core::names::AgentName;
use hookward_core::reason::Check;
use hookward_core::secret::Secret;
use hookward_core::text::printable;
use hookward_gate::engine::Gate;
use hookward_tunnel::protocol::control::{RefusedReason, RefusedRequest, RelayMessage};
use hookward_tunnel::transport::identity::Pin;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::quic::EndpointError;
use hookward_tunnel::transport::{SessionError, StreamError, Transport};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::dialer::Dialer;
use self::link::RelayLink;
use self::policy_sync::{PolicyOffer, PolicySync};
use self::proxy::Proxies;
use self::status::LinkStatus;
use crate::events::{Event, EventSink};
use crate::exchange::started::StartedRequests;
use crate::exchange::{ExchangeHandler, PendingHeads};

/// Message of an agent to the relay, with its policy.
pub(crate) type AgentMessage =
    hookward_tunnel::protocol::control::AgentMessage<hookward_gate::policy::Policy>;

/// For the relay's answer to a join.
const JOIN: Duration = Duration::from_secs(10);
/// For the relay to hear that a join is done.
const JOINED: Duration = Duration::from_secs(2);
/// Most connections to one relay, however many addresses its name has.
const MAX_LINKS: usize = 8;
/// Maximum age of a refusal in a relay's report: a relay sends it within a second, if the line
/// allows.
const MAX_AGE: Duration = Duration::from_secs(60);
/// Connections to each address of a relay: a second one, so that losing one loses nothing.
const LINKS_PER_ADDRESS: usize = 2;
/// Connections to a relay that are enough, unless it has more addresses.
const DEFAULT_MAX_LINKS: usize = 4;

/// Address of a relay, and the agent's credential there.
#[derive(Clone)]
pub struct RelayEndpoint {
    /// Host and port of the relay.
    pub address: String,
    /// Pin of the relay's key.
    pub pin: Pin,
    /// Credential of the agent there.
    pub credential: Secret,
}

/// Which transports may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportMode {
    /// QUIC first, TLS over TCP where it does not get through, and back again.
    #[default]
    Auto,
    /// Only this transport.
    Only(Transport),
}

impl TransportMode {
    /// Returns `true` if the mode allows this transport.
    #[must_use]
    pub fn allows(self, transport: Transport) -> bool {
        match self {
            Self::Auto => true,
            Self::Only(only) => only == transport,
        }
    }
}

/// Settings of the connections to relays.
#[derive(Clone, Default)]
pub struct LinkSettings {
    /// Allowed transports.
    pub transport: TransportMode,
    /// Transport that worked last.
    pub last_transport: Option<Transport>,
    /// Connections to each relay; `None`: as many as it has addresses, and at least two.
    pub connections: Option<usize>,
    /// `true` if the tunnels are shared with other agents that set this, too.
    pub pool: bool,
    /// When a connection counts as dead.
    pub liveness: Liveness,
    /// Proxies for TLS over TCP.
    pub proxies: Proxies,
    /// Time until the first search for a better connection; `None` for 15 s.
    pub probe_after: Option<Duration>,
}

/// The tunnel that a relay opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedTunnel {
    /// Which of the agent's tunnels it is, by its position.
    pub tunnel: usize,
    /// Public host of the tunnel.
    pub host: String,
    /// The port of the public URL.
    pub port: u16,
    /// Address of the relay.
    pub relay: String,
    /// Transport of the connection.
    pub transport: Transport,
}

/// Reason why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The relay's name has no address.
    #[error("the relay {address} can't be found: {source}")]
    Resolve {
        /// Address as written.
        address: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The UDP socket or TLS settings failed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The relay does not answer.
    #[error("the relay {address} does not answer over {}", over(*.transport))]
    Silent {
        /// Address as written.
        address: String,
        /// Transport that timed out.
        transport: Transport,
    },
    /// A connection to it can't be made.
    #[error("the relay {address} can't be reached over TCP: {source}")]
    Connect {
        /// Address as written.
        address: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The proxy on the way to it.
    /// An HTTP proxy refused, or could not be reached.
    #[error("the proxy {proxy}: {what}")]
    Proxy {
        /// Address of the proxy.
        proxy: String,
        /// Description of the failure.
        what: String,
    },
    /// No transport gets through.
    #[error("{0}; and {1}")]
    Both(Box<Self>, Box<Self>),
    /// The settings of TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The relay does not take a new policy of a tunnel, which has another one.
    #[error("the relay does not take a new policy; the old one stays in force")]
    PolicyKept,
    /// Somebody else answers at the relay's address.
    #[error(
        "whoever answers at {0} is not the relay that this agent has joined: its key is another. If the relay was \
         set up anew, join it again with a new token; if not, somebody is in between"
    )]
    WrongKey(String),
    /// Another kind of server answers at the relay's address.
    #[error(
        "whoever answers at {0} over TLS is no relay: it does not know the tunnel's protocol. Another server has the \
         port, or a proxy that opens TLS is in between"
    )]
    NoRelay(String),
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The control stream broke.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// The task that keeps the tunnel is gone, by a mistake of this program.
    #[error("the tunnel's task ended: {0}")]
    Ended(String),
    /// The relay said no.
    #[error("the relay refused: {message}")]
    Refused {
        /// Reason, as a stable code.
        reason: RefusedReason,
        /// Reason, as text.
        message: String,
    },
}

const fn over(transport: Transport) -> &'static str {
    match transport {
        Transport::Quic => "QUIC; is UDP let through to it?",
        Transport::Tcp => "TCP",
    }
}

impl ConnectionError {
    /// Returns `true` if dialing again can't help.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if !matches!(reason, RefusedReason::Unavailable | RefusedReason::Other))
    }
}

/// Exchanges the secret of a join token for this credential. Gives the agent's name.
///
/// # Errors
/// [`ConnectionError`].
pub async fn join(
    relay: &RelayEndpoint,
    link: &LinkSettings,
    secret: Secret,
) -> Result<String, ConnectionError> {
    let tasks = TaskTracker::new();
    let dialler = Dialer::new(relay, link, tasks.clone())?;
    // First a way, then the question: two that race must not both use the token up.
    let (found, ()) = dialler.connect_once(|_| async { Ok(()) }).await?;
    let credential_digest = HEXLOWER.encode(relay.credential.digest().as_bytes());

    let asking = async {
        let mut control = found.session.open_control().await?;
        control
            .send(&AgentMessage::Join {
                secret,
                credential_digest,
            })
            .await?;

        match control.receive(GREETING_BYTES).await? {
            RelayMessage::Joined { agent } if AgentName::parse(&agent).is_some() => Ok(agent),
            other => Err(unexpected(other)),
        }
    };

    let (address, transport) = (relay.address.clone(), found.session.transport());
    let joined = timeout(JOIN, asking)
        .await
        .unwrap_or(Err(ConnectionError::Silent { address, transport }));
    found.session.close("joined");

    if let Some(endpoint) = found.endpoint {
        let _ = timeout(JOINED, endpoint.wait_idle()).await;
    }

    joined
}

/// One of the agent's tunnels.
pub(crate) struct LinkTunnel {
    /// The public host to ask for.
    pub host: Option<String>,
    /// The policies; a new one may come at any time.
    pub wanted: watch::Receiver<Arc<PolicyOffer>>,
    /// Handler of its exchanges.
    pub handler: Arc<ExchangeHandler>,
}

/// State that all links share.
pub(crate) struct LinkContext {
    /// The tunnels, all of which every connection serves.
    pub tunnels: Vec<LinkTunnel>,
    /// Settings of the connections.
    pub link: LinkSettings,
    /// Sink of events.
    pub events: EventSink,
    /// The time of day.
    pub clock: Clock,
    /// For exchanges to end when the agent is stopped.
    pub drain: Duration,
    /// Called when the first connection has opened a tunnel at a relay.
    pub on_open: Box<dyn Fn(OpenedTunnel) + Send + Sync>,
    /// Called when a connection was good, with what carried it.
    pub on_transport: Box<dyn Fn(Transport) + Send + Sync>,
    /// Which run of the program this is.
    pub instance: String,
    /// Status of all links.
    pub status: LinkStatus,
    /// Places for heads that have not ended.
    pub heads: PendingHeads,
    /// Owns what drives connections, and those that are being retired.
    pub tasks: TaskTracker,
}

/// One relay, as all lines to it know it.
pub(crate) struct RelayState {
    pub relay: RelayEndpoint,
    /// Finds a way to it.
    pub dialer: Dialer,
    /// Which policies it has, one for each tunnel.
    pub policies: Vec<PolicySync>,
    /// The gates by which this side judges what comes from it, one for each tunnel.
    pub gates: Vec<Arc<ArcSwap<Gate>>>,
    /// Requests of it that were begun.
    started: Arc<StartedRequests>,
    /// Tunnels whose hosts this relay refused, by position.
    // A std mutex: it guards a small set, and nothing waits while it is held.
    without_host: Mutex<BTreeSet<usize>>,
    /// Addresses that its name had last.
    addresses: AtomicUsize,
    more_addresses: Notify,
}

impl RelayState {
    /// Records that the relay refused the host of a tunnel. Reports it once, if other tunnels stay
    /// open.
    fn note_host_refused(&self, tunnel: usize, message: &str, shared: &LinkContext) {
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
    fn note_host_opened(&self, tunnel: usize) {
        self.without_host().remove(&tunnel);
    }

    /// Returns `true` if the relay refused the host of this tunnel the last time.
    fn is_without_host(&self, tunnel: usize) -> bool {
        self.without_host().contains(&tunnel)
    }

    fn without_host(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        self.without_host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how many addresses the relay's name has.
    pub(crate) fn note_addresses(&self, count: usize) {
        if self.addresses.swap(count, Ordering::Relaxed) != count {
            self.more_addresses.notify_one();
        }
    }
}

/// Keeps the connections to all relays until `stop` is cancelled.
///
/// # Errors
/// What the last relay said, when dialling again will not change it.
pub(crate) async fn run(
    relays: Vec<RelayEndpoint>,
    shared: Arc<LinkContext>,
    stop: CancellationToken,
) -> Result<(), ConnectionError> {
    let mut kept = JoinSet::new();
    let several = relays.len() > 1;

    for relay in relays {
        let dialler = Dialer::new(&relay, &shared.link, shared.tasks.clone())?;
        let policies = shared
            .tunnels
            .iter()
            .map(|tunnel| PolicySync::new(tunnel.wanted.clone()))
            .collect();
        let first =
            |tunnel: &LinkTunnel| Arc::new(ArcSwap::new(Arc::clone(&tunnel.wanted.borrow().gate)));
        let gates = shared.tunnels.iter().map(first).collect();

        let (addresses, more_addresses) = (AtomicUsize::new(1), Notify::new());
        let at = Arc::new(RelayState {
            relay,
            dialer: dialler,
            policies,
            gates,
            started: Arc::default(),
            without_host: Mutex::default(),
            addresses,
            more_addresses,
        });

        let (shared, stop) = (Arc::clone(&shared), stop.child_token());
        kept.spawn(async move { (at.relay.address.clone(), run_relay(at, shared, stop).await) });
    }

    let mut outcome = Ok(());
    while let Some(ended) = kept.join_next().await {
        let (relay, ended) = ended.unwrap_or_else(|panic| {
            (
                String::new(),
                Err(ConnectionError::Ended(panic.to_string())),
            )
        });

        if let Err(error) = ended {
            if several && !kept.is_empty() {
                shared.events.emit(Event::RelayDisconnected {
                    relay,
                    reason: error.to_string(),
                    permanent: true,
                });
            }

            outcome = Err(error);
        } else {
            outcome = Ok(());
        }
    }

    shared.tasks.close();
    let _ = timeout(shared.drain, shared.tasks.wait()).await;
    outcome
}

/// Keeps the lines to one relay. A final refusal ends them all.
async fn run_relay(
    at: Arc<RelayState>,
    shared: Arc<LinkContext>,
    stop: CancellationToken,
) -> Result<(), ConnectionError> {
    let mut lines = JoinSet::new();
    let mut slots = 0;

    loop {
        while slots < wanted(&shared.link, at.addresses.load(Ordering::Relaxed)) {
            let line = RelayLink::new(Arc::clone(&at), Arc::clone(&shared), slots);
            lines.spawn(line.keep(stop.clone()));
            slots += 1;
        }

        tokio::select! {
            () = at.more_addresses.notified() => {}
            ended = lines.join_next() => match ended {
                None => return Ok(()),
                Some(Ok(Ok(()))) => {}
                Some(ended) => {
                    stop.cancel();
                    while lines.join_next().await.is_some() {}
                    return ended.unwrap_or_else(|panic| Err(ConnectionError::Ended(panic.to_string())));
                }
            }
        }
    }
}

/// Lines to a relay with so many addresses.
fn wanted(link: &LinkSettings, addresses: usize) -> usize {
    let preset = (addresses * LINKS_PER_ADDRESS)
        .min(DEFAULT_MAX_LINKS)
        .max(addresses);
    link.connections.unwrap_or(preset).clamp(1, MAX_LINKS)
}

fn kept(message: &str) -> Event {
    Event::Warning(format!(
        "the relay does not take the new policy; THE OLD ONE STAYS IN FORCE: {}",
        printable(message)
    ))
}

fn unexpected(message: RelayMessage) -> ConnectionError {
    match message {
        RelayMessage::Refused { reason, message } => refused(reason, &message),
        _ => StreamError::Protocol("the relay answered something else than was asked".to_owned())
            .into(),
    }
}

fn refused(reason: RefusedReason, message: &str) -> ConnectionError {
    ConnectionError::Refused {
        reason,
        message: printable(message),
    }
}

/// Says what the relay has refused.
fn report_refusals(reporter: &EventSink, told: Vec<RefusedRequest>, counted: Vec<(Check, u64)>) {
    for refused in told {
        // A relay that was taken over may send any age.
        let ago = Duration::from_millis(refused.age_ms).min(MAX_AGE);
        reporter.emit_at(ago, Event::Refused(Box::new(printable_fields(refused))));
    }

    if !counted.is_empty() {
        reporter.emit(Event::RefusedSummary(counted));
    }
}

/// The relay has escaped what strangers sent; a relay that was taken over may not have.
fn printable_fields(refused: RefusedRequest) -> RefusedRequest {
    RefusedRequest {
        id: printable(&refused.id),
        host: printable(&refused.host),
        method: printable(&refused.method),
        path: printable(&refused.path),
        client: printable(&refused.client),
        reason: printable(&refused.reason),
        ..refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_a_line_and_no_relay_fewer_than_two() {
        let preset = LinkSettings::default();
        let counts: Vec<_> = (1..=10)
            .map(|addresses| wanted(&preset, addresses))
            .collect();
        assert_eq!(counts, [2, 4, 4, 4, 5, 6, 7, 8, 8, 8]);

        let one = LinkSettings {
            connections: Some(1),
            ..preset
        };
        assert_eq!(wanted(&one, 3), 1);
    }
}
