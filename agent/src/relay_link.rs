//! Connections to relays: dialed, kept, and replaced when they fail.
//!
//! Every relay gets some links ([`mod@link`]), each of which keeps one connection. [`dialer`]
//! connects over QUIC, TLS over TCP, or a [`proxy`]; [`backoff`] schedules the attempts;
//! [`handshake`] greets the relay and opens the tunnels; [`active`] is a connection in use, and
//! [`outbox`] sends its messages, among them [`calls`] of the relay's API. [`renewal`] replaces the
//! agent's credential. [`failover`] schedules
//! searches for a better connection, and [`suspend`] detects that the machine was suspended. [`status`] summarises all links for the user, and [`policy_sync`] tracks
//! the policy of each relay. All connections of one instance serve the same tunnels, so losing one
//! of several loses nothing.

mod active;
pub(crate) mod backoff;
pub(crate) mod calls;
pub(crate) mod context;
pub(crate) mod dialer;
mod error;
mod failover;
mod handshake;
mod join;
pub(crate) mod link;
mod outbox;
pub(crate) mod policy_sync;
pub(crate) mod proxy;
mod renewal;
pub(crate) mod status;
mod suspend;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hookward_core::reason::Check;
use hookward_core::secret::Secret;
use hookward_core::text::printable;
use hookward_tunnel::protocol::control::{RefusedReason, RefusedRequest, RelayMessage};
use hookward_tunnel::transport::identity::Pin;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::{StreamError, Transport};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use self::context::{LinkContext, LinkTunnel, RelayState};
use self::dialer::Dialer;
pub use self::error::ConnectionError;
pub use self::join::join;
use self::link::RelayLink;
use self::proxy::Proxies;
use crate::config::state_dir::Credential;
use crate::events::{Event, EventSink};
use crate::exchange::TunnelBinding;

/// Message of an agent to the relay, with its policy.
pub(crate) type AgentMessage =
    hookward_tunnel::protocol::control::AgentMessage<hookward_gate::policy::Policy>;

/// Address of a relay, and the agent's credential there.
#[derive(Clone)]
pub struct RelayEndpoint {
    /// Host and port of the relay.
    pub address: String,
    /// Pin of the relay's key.
    pub pin: Pin,
    /// Pin of another key, while the relay changes its key.
    pub second_pin: Option<Pin>,
    /// Credential of the agent there.
    pub credential: Secret,
    /// Credential of a renewal that was interrupted.
    pub next_credential: Option<Secret>,
}

impl RelayEndpoint {
    /// Creates the endpoint of a relay with one key.
    #[must_use]
    pub const fn new(address: String, pin: Pin, credential: Secret) -> Self {
        Self {
            address,
            pin,
            second_pin: None,
            credential,
            next_credential: None,
        }
    }
}

impl From<Credential> for RelayEndpoint {
    fn from(stored: Credential) -> Self {
        Self {
            address: stored.relay,
            pin: stored.pin,
            second_pin: stored.second_pin,
            credential: stored.secret,
            next_credential: stored.next,
        }
    }
}

/// Allowed transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TransportMode {
    /// QUIC first, TLS over TCP while QUIC is blocked.
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
    /// Connections to each relay; `None` for one per address, and at least two.
    pub connections: Option<usize>,
    /// `true` if other agents with the same setting share the tunnels.
    pub pool: bool,
    /// Keep-alive settings.
    pub liveness: Liveness,
    /// Proxies for TLS over TCP.
    pub proxies: Proxies,
    /// Time until the first search for a better connection; `None` for 15 s.
    pub probe_after: Option<Duration>,
}

/// The tunnel that a relay opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedTunnel {
    /// Position among the agent's tunnels.
    pub tunnel: usize,
    /// Public host of the tunnel.
    pub host: String,
    /// Port in the public URL.
    pub port: u16,
    /// Address of the relay.
    pub relay: String,
    /// Transport of the connection.
    pub transport: Transport,
    /// Time for which the relay stores webhooks that the application does not accept; `None` if it
    /// stores none.
    pub stored_for: Option<Duration>,
}

/// Keeps the connections to all relays until `stop` is cancelled.
///
/// # Errors
/// The last relay's refusal, if dialing again cannot help.
pub(crate) async fn run(
    relays: Vec<RelayEndpoint>,
    shared: Arc<LinkContext>,
    stop: CancellationToken,
) -> Result<(), ConnectionError> {
    let mut kept = JoinSet::new();
    let several = relays.len() > 1;

    for relay in relays {
        let dialer = Dialer::new(&relay, &shared.link, shared.tasks.clone())?;
        let calls = shared.calls.get(&relay.address).cloned();
        let calls = calls.unwrap_or_default();
        let at = Arc::new(RelayState::new(
            relay,
            dialer,
            &shared.tunnels,
            calls,
            shared.state.clone(),
        ));

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

/// Keeps the links to one relay. A final refusal ends all of them.
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

/// Returns the number of links to a relay with this number of addresses.
fn wanted(link: &LinkSettings, addresses: usize) -> usize {
    let preset = (addresses * LINKS_PER_ADDRESS)
        .min(DEFAULT_MAX_LINKS)
        .max(addresses);
    link.connections.unwrap_or(preset).clamp(1, MAX_LINKS)
}

/// Maximum number of connections to one relay, regardless of its addresses.
const MAX_LINKS: usize = 8;

/// Number of connections to each address of a relay: a second one, so that losing one loses
/// nothing.
const LINKS_PER_ADDRESS: usize = 2;

/// Default maximum number of connections to a relay with few addresses.
const DEFAULT_MAX_LINKS: usize = 4;

fn kept(message: &str) -> Event {
    Event::Warning(format!(
        "the relay does not take the new policy; THE OLD ONE STAYS IN FORCE: {}",
        printable(message)
    ))
}

fn unexpected(message: RelayMessage) -> ConnectionError {
    match message {
        RelayMessage::Refused { reason, message } => refused(reason, &message),
        _ => StreamError::Protocol("the relay sent an unexpected reply".to_owned()).into(),
    }
}

fn refused(reason: RefusedReason, message: &str) -> ConnectionError {
    ConnectionError::Refused {
        reason,
        message: printable(message),
    }
}

/// Reports refusals of the relay.
fn report_refusals(
    events: &EventSink,
    tunnels: &[TunnelBinding],
    requests: Vec<RefusedRequest>,
    counts: Vec<(Check, u64)>,
) {
    for mut refused in requests {
        let content = refused.content.take();
        // A compromised relay may send any age.
        let ago = Duration::from_millis(refused.age_ms).min(MAX_AGE);
        let refused = printable_fields(refused);
        if let Some(tunnel) = tunnels.iter().find(|tunnel| *tunnel.host == *refused.host) {
            tunnel.capture_refused(&refused, ago, content);
        }
        events.emit_at(ago, Event::Refused(Box::new(refused)));
    }

    if !counts.is_empty() {
        events.emit(Event::RefusedSummary(counts));
    }
}

/// Maximum age of a refusal in a relay's report, which the relay sends within a second on a working
/// link.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The relay escapes text from senders; a compromised relay may not.
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
