//! Start of a connection: the agent authenticates, and opens all its tunnels.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::relay_link::AgentMessage;
use hookward_core::limits::{CONTROL_BYTES, GREETING_BYTES};
use hookward_core::names::{HostName, origin_of};
use hookward_core::secret::SecretDigest;
use hookward_core::text::printable;
use hookward_tunnel::protocol::control::{ConnectionId, Deadlines, RefusedReason, RelayMessage};
use hookward_tunnel::transport::{ControlStream, Session, StreamError};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::exchange::{SessionTerms, TunnelBinding};
use crate::relay_link::active::{ActiveLink, Renewal};
use crate::relay_link::calls::PendingCalls;
use crate::relay_link::dialer::Dialed;
use crate::relay_link::outbox::Outbox;
use crate::relay_link::policy_sync::{Applied, PolicyOffer};
use crate::relay_link::status::LinkId;
use crate::relay_link::{
    ConnectionError, LinkContext, OpenedTunnel, RelayState, kept, refused, report_refusals,
    unexpected,
};

/// Connection whose relay has accepted the greeting.
pub(crate) struct Welcomed {
    control: ControlStream,
    /// Credential of the greeting.
    credential: SecretDigest,
    deadlines: Deadlines,
    /// `true` if the session survives a refused host.
    outlives_refused_hosts: bool,
}

/// Greeting in progress.
pub(crate) type Handshake = Pin<Box<dyn Future<Output = Result<Welcomed, ConnectionError>> + Send>>;

/// Returns the message that opens a tunnel, or replaces its policy.
pub(crate) fn open_message(host: Option<String>, offer: &PolicyOffer) -> AgentMessage {
    AgentMessage::Open {
        host,
        policy: offer.policy.clone(),
        revision: offer.revision,
    }
}

/// Sends the greeting of a connection. `lost` means that the link's previous connection was lost.
pub(crate) async fn greet(
    session: Session,
    at: Arc<RelayState>,
    shared: Arc<LinkContext>,
    slot: usize,
    lost: bool,
) -> Result<Welcomed, ConnectionError> {
    let mut control = session.open_control().await?;
    let credential = at.credential.current();
    let digest = credential.digest();
    let hello = AgentMessage::Hello {
        credential,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connection: ConnectionId {
            instance: shared.instance.clone(),
            index: u32::try_from(slot).unwrap_or(u32::MAX),
            generation: shared.generations.fetch_add(1, Ordering::Relaxed),
        },
        pool: shared.link.pool,
        lost,
        time_ms: shared.clock.now().0,
        captures_refused: shared.captures_refused(),
    };
    control.send(&hello).await?;

    match control.receive(GREETING_BYTES).await? {
        RelayMessage::Welcome {
            agent,
            version,
            deadlines,
            outlives_refused_hosts,
            ..
        } => {
            tracing::debug!(
                agent = printable(&agent),
                version = printable(&version),
                "welcome"
            );
            session.serve();
            if let Err(error) = at.credential.accepted(&digest) {
                tracing::warn!(%error, "the renewed credential is stored beside the old one only");
            }

            Ok(Welcomed {
                control,
                credential: digest,
                deadlines,
                outlives_refused_hosts,
            })
        }
        RelayMessage::Refused {
            reason: RefusedReason::Credential,
            ..
        } if at.credential.fall_back(&digest) => Err(ConnectionError::CredentialReplaced),
        other => Err(unexpected(other)),
    }
}

/// Opens all tunnels on a connection.
pub(crate) async fn open(
    at: &RelayState,
    shared: &LinkContext,
    id: &LinkId,
    found: Dialed,
    greeted: Welcomed,
) -> Result<ActiveLink, ConnectionError> {
    let transport = found.session.transport();
    let silent = || ConnectionError::Silent {
        address: at.relay.address.clone(),
        transport,
    };

    let Welcomed {
        mut control,
        credential,
        deadlines,
        outlives_refused_hosts,
    } = greeted;

    at.note_addresses(found.addresses);
    let opening = async {
        let (mut hosts, mut opened) = (Vec::new(), Vec::new());
        let (mut relay_leaves, mut stands_by, mut renews) = (false, false, false);
        let mut host_refused = None;

        'tunnels: for (number, (tunnel, policies)) in
            shared.tunnels.iter().zip(&at.policies).enumerate()
        {
            let offer = policies.best();
            control
                .send(&open_message(tunnel.host.clone(), &offer))
                .await?;

            let (host, port, stored_for_ms) = loop {
                match control.receive(CONTROL_BYTES).await? {
                    RelayMessage::Opened {
                        host,
                        port,
                        digest,
                        stored_for_ms,
                    } => {
                        offer.compare_digest(digest.as_deref(), &at.relay.address, &shared.events);
                        break (host, port, stored_for_ms);
                    }
                    // The relay refused a new policy: the tunnel keeps the previous one.
                    RelayMessage::Refused {
                        reason: RefusedReason::Policy,
                        message,
                    } if policies.refuse(&offer) => {
                        shared.events.emit(kept(&message));
                        return Err(ConnectionError::PolicyKept);
                    }
                    RelayMessage::Refused {
                        reason: RefusedReason::Host,
                        message,
                    } if outlives_refused_hosts => {
                        at.note_host_refused(number, &message, shared);
                        host_refused = Some(message);
                        continue 'tunnels;
                    }
                    // Tunnels opened before this one are in use already.
                    RelayMessage::Refusals { requests, counts } => {
                        report_refusals(&shared.events, &hosts, requests, counts)
                    }
                    RelayMessage::Draining => relay_leaves = true,
                    RelayMessage::RenewCredential => renews = true,
                    RelayMessage::Standby { standby } => stands_by = standby,
                    RelayMessage::Unknown => {}
                    other => return Err(unexpected(other)),
                }
            };
            let host = HostName::parse(&host).ok_or_else(|| {
                StreamError::Protocol("the relay opened something that is not a host".to_owned())
            })?;

            let origin = origin_of(host.as_str(), port);
            let gate = at.gates.get(number).cloned();
            let gate = gate.unwrap_or_else(|| Arc::new(offer.tunnel_gate()));

            if policies.accept(&offer) != Applied::Stale {
                offer.put_in_force(&gate, shared.clock.now());
            }

            at.note_host_opened(number);
            hosts.push(TunnelBinding {
                tunnel: number,
                host: host.as_str().into(),
                origin: origin.into(),
                gate,
                handler: Arc::clone(&tunnel.handler),
            });

            let relay = at.relay.address.clone();
            opened.push(OpenedTunnel {
                tunnel: number,
                host: host.to_string(),
                port,
                relay,
                transport,
                stored_for: stored_for_ms.map(Duration::from_millis),
            });
        }

        match host_refused {
            Some(message) if hosts.is_empty() => Err(refused(RefusedReason::Host, &message)),
            _ => Ok((hosts, opened, relay_leaves, stands_by, renews)),
        }
    };
    let (hosts, opened, relay_leaves, stands_by, renews) = timeout(OPEN, opening)
        .await
        .unwrap_or_else(|_| Err(silent()))?;

    shared.opened.add(&hosts);
    shared
        .status
        .open(id.clone(), transport, &opened, &*shared.on_open);
    shared
        .status
        .note_session(id.clone(), found.session.clone());
    shared.status.set_standby(id, stands_by, &shared.events);

    if relay_leaves {
        shared.status.set_draining(id, &shared.events);
    }

    at.dialer.prefer(transport);
    (shared.on_transport)(transport);
    let terms = Arc::new(SessionTerms::new(
        found.session.clone(),
        deadlines,
        hosts,
        Arc::clone(&at.started),
        shared.heads.clone(),
    ));
    let exchanges = TaskTracker::new();

    let (writer, reader) = control.split();
    let mut active = ActiveLink {
        found,
        outbox: Outbox::new(writer),
        reader,
        terms,
        exchanges,
        since: Instant::now(),
        calls: PendingCalls::default(),
        credential,
        renewal: Renewal::None,
        pending_policy: None,
        relay_draining: relay_leaves,
    };
    if renews {
        active.request_renewal(at, &shared.events);
    }
    Ok(active)
}

/// Timeout for opening the tunnels: a policy may have 3 MiB, and the link may be slow.
const OPEN: Duration = Duration::from_secs(60);
