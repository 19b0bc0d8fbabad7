//! Serves one authenticated agent: opens its tunnels, sends it events, and checks its credential
//! regularly.

mod open;

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sessions::AgentMessage;
use hookward_core::limits::CONTROL_BYTES;
use hookward_core::names::HostName;
use hookward_core::secret::SecretDigest;
use hookward_tunnel::protocol::control::{RefusedReason, RelayMessage};
use hookward_tunnel::transport::{Session, SessionError, StreamError};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use self::open::{OpenRefused, choose_host, open};
use crate::observe::RelayEventKind;
use crate::observe::owner_events::OwnerEvents;
use crate::sessions::active::ActiveSession;
use crate::sessions::context::SessionContext;
use crate::sessions::handshake::Authenticated;
use crate::sessions::registry::Registry;
use crate::storage::Store;

/// Guard that removes a session from the registry when it ends.
struct RegisteredTunnels<'h> {
    registry: &'h Registry,
    live: &'h ActiveSession,
}

impl Drop for RegisteredTunnels<'_> {
    fn drop(&mut self) {
        self.registry.leave(self.live);
    }
}

/// Serves the agent until it leaves or is refused, or `stop` is cancelled.
pub(crate) async fn serve(
    session: Session,
    admitted: Authenticated,
    host: &SessionContext,
    drain: CancellationToken,
    stop: CancellationToken,
) {
    let Authenticated {
        agent,
        credential,
        run,
        mut control,
    } = admitted;
    let name = agent.name.clone();
    let refusals = OwnerEvents::new(host.limits.refusal_events_per_second);
    let live = ActiveSession::new(agent, run, session.clone(), refusals);

    tracing::info!(agent = %name, peer = %session.peer(), transport = %session.transport(), "agent connected");
    host.observer.publish(|| RelayEventKind::AgentConnected {
        agent: name.to_string(),
    });
    let Some(_place) = host.registry.place(live.agent.id) else {
        tracing::warn!(agent = %name, "connection refused: the agent has the maximum number of connections");
        session.close("too many connections");
        return;
    };

    // The agents connect elsewhere now. One that lost its other connection is needed for the last
    // requests.
    if drain.is_cancelled() && host.registry.has_another(&live) {
        let message = "the relay is about to stop".to_owned();
        let refused = RelayMessage::Refused {
            reason: RefusedReason::Unavailable,
            message,
        };

        let telling = async {
            if control.send(&refused).await.is_ok() {
                control.finish().await;
            }
        };
        let _ = timeout(host.limits.agent_handshake_timeout, telling).await;

        session.close("the relay is about to stop");
        return;
    }

    session.trust();
    let registered = RegisteredTunnels {
        registry: &host.registry,
        live: &live,
    };
    let mut review = interval(REVIEW_INTERVAL);
    review.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let mut listen = interval(LISTEN);
    listen.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut received, mut last_received) = (session.received(), Instant::now());
    let (mut told_to_leave, mut left) = (false, false);
    let (mut opened, mut stands_by) = (BTreeSet::new(), false);
    let mut room = pin!(live.response_backlog.run_eviction());

    let reason = loop {
        let outcome = tokio::select! {
            message = control.receive(CONTROL_BYTES) => match message {
                Ok(message) => {
                    left |= matches!(message, AgentMessage::Drain);
                    on_message(message, &live, host, &mut opened).await
                }
                Err(StreamError::Protocol(what)) => break what,
                // The stream only knows that the connection ended; the connection knows why.
                Err(error) => match timeout(LISTEN, session.closed()).await {
                    Ok(SessionError::ClosedByPeer(reason)) => break format!("it has closed the connection: {reason}"),
                    Ok(lost) => break lost.to_string(),
                    Err(_) => break error.to_string(),
                },
            },
            message = live.owner_events.next_message() => Ok(Some(message)),
            _ = review.tick() => reviewed(&credential, &live, host, &mut opened).await,
            _ = listen.tick() => {
                let now = session.received();
                if now != received {
                    (received, last_received) = (now, Instant::now());
                }
                live.set_silent(last_received.elapsed() > host.liveness().quiet_after());
                let answers = live.response_backlog.count_evicted();
                if answers > 0 {
                    tracing::warn!(agent = %name, answers, "evicted responses of slow readers");
                }
                let other = !left && opened.iter().any(|name: &HostName| !host.registry.is_active(name.as_str(), &live));
                let changed = std::mem::replace(&mut stands_by, other) != other;
                Ok(changed.then_some(RelayMessage::Standby { standby: other }))
            }
            // Requests to the agent have ended, and all its messages were processed.
            never = &mut room => match never {},
            () = live.idle(), if left => break "it left".to_owned(),
            () = drain.cancelled(), if !told_to_leave => {
                told_to_leave = true;
                Ok(Some(RelayMessage::Draining))
            }
            () = stop.cancelled() => {
                session.close("the relay is stopping");
                break "the relay is stopping".to_owned();
            }
        };

        let answer = match outcome {
            Ok(None) => continue,
            Ok(Some(answer)) => answer,
            // The agent's other tunnels stay open.
            Err(OpenRefused(reason @ RefusedReason::Host, message)) => {
                RelayMessage::Refused { reason, message }
            }
            Err(OpenRefused(reason, message)) => {
                let refused = RelayMessage::Refused {
                    reason,
                    message: message.clone(),
                };
                let telling = async {
                    if control.send(&refused).await.is_ok() {
                        control.finish().await;
                    }
                };
                let _ = timeout(host.limits.agent_handshake_timeout, telling).await;

                session.close("refused");
                break message;
            }
        };

        // An agent that does not read is treated as gone.
        match timeout(host.limits.agent_handshake_timeout, control.send(&answer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => break error.to_string(),
            Err(_) => break "the agent does not listen".to_owned(),
        }
    };
    session.close(&reason);

    drop(registered);
    tracing::info!(agent = %name, reason, "agent left");
    host.observer.publish(|| RelayEventKind::AgentDisconnected {
        agent: name.to_string(),
        reason: reason.to_string(),
    });
    tracing::debug!(agent = %name, datagrams_per_send = session.datagrams_per_send(), "statistics of the agent's connection");
}

/// Interval of credential checks: the maximum time until a removed agent is disconnected.
const REVIEW_INTERVAL: Duration = Duration::from_secs(3);

/// Interval of checks for silence and takeover.
const LISTEN: Duration = Duration::from_secs(1);

/// Checks in the store that the credential is valid and the agent still owns its hosts, because
/// `hookward-relay agent` works in another process.
async fn reviewed(
    credential: &SecretDigest,
    live: &Arc<ActiveSession>,
    host: &SessionContext,
    opened: &mut BTreeSet<HostName>,
) -> Result<Option<RelayMessage>, OpenRefused> {
    let (wanted, agent) = (credential.clone(), live.agent.id);
    let hosts: Vec<_> = opened
        .iter()
        .filter(|name| !host.reserved_hosts.contains_key(*name))
        .cloned()
        .collect();

    let review = move |store: &Store| {
        Ok((
            store.authenticate(&wanted)?,
            store.lost_host(&hosts, agent)?,
        ))
    };

    match host.store.run(review).await {
        Ok((None, _)) => Err(OpenRefused(
            RefusedReason::Credential,
            "the agent's credential was withdrawn".to_owned(),
        )),
        Ok((Some(_), Some((name, owner)))) => {
            host.registry.give_up(&name, live);
            opened.remove(&name);
            tracing::info!(agent = %live.agent.name, host = %name, owner, "the host moved to another agent");

            let message = format!("{name} belongs to the agent {owner} now");
            Ok(Some(RelayMessage::HostLost {
                host: name.to_string(),
                message,
            }))
        }
        // A temporary failure of the store does not end a tunnel.
        Ok((Some(_), None)) | Err(_) => Ok(None),
    }
}

/// Handles a message of the agent, and records the hosts that it `opened`.
async fn on_message(
    message: AgentMessage,
    live: &Arc<ActiveSession>,
    host: &SessionContext,
    opened: &mut BTreeSet<HostName>,
) -> Result<Option<RelayMessage>, OpenRefused> {
    match message {
        AgentMessage::Open {
            host: wanted,
            policy,
            revision,
        } => {
            let name = choose_host(wanted.as_deref(), &live.agent.name, host)?;
            let answer = open(name.clone(), policy, revision, live, host).await?;
            opened.insert(name);
            Ok(Some(answer))
        }
        AgentMessage::UpstreamHealth { host: name, down } => {
            host.registry.set_down(&name, live, down);
            Ok(None)
        }
        AgentMessage::Drain => {
            host.registry.leave(live);
            Ok(Some(RelayMessage::DrainAck))
        }
        AgentMessage::Hello { .. } | AgentMessage::Join { .. } | AgentMessage::Unknown => Ok(None),
    }
}
