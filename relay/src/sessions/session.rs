//! Serves one authenticated agent: opens its tunnels, sends it events, and checks its credential
//! regularly.

mod open;
mod review;

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sessions::AgentMessage;
use hookward_core::limits::CONTROL_BYTES;
use hookward_core::names::HostName;
use hookward_core::secret::SecretDigest;
use hookward_core::text::printable;
use hookward_gate::policy::Policy;
use hookward_observe::audit::{Actor, Causer, LimitedKind};
use hookward_runtime::interval::every;
use hookward_tunnel::protocol::control::{RefusedReason, RelayMessage};
use hookward_tunnel::transport::{ControlStream, Session, SessionError, StreamError};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::open::{OpenRefused, choose_host, open};
use self::review::CHANGED;
use super::calls::Calls;
use crate::delivery::Requester;
use crate::observe::RelayEventKind;
use crate::observe::owner_events::OwnerEvents;
use crate::sessions::active::ActiveSession;
use crate::sessions::context::SessionContext;
use crate::sessions::handshake::Authenticated;
use crate::sessions::registry::Registry;
use crate::storage::agents::{AgentScope, AgentSeen};

/// Guard that removes a session from the registry when it ends.
struct RegisteredTunnels<'c> {
    registry: &'c Registry,
    live: Arc<ActiveSession>,
}

impl Drop for RegisteredTunnels<'_> {
    fn drop(&mut self) {
        self.registry.remove(&self.live);
    }
}

/// Time to store the end of a session.
const SEEN_TIMEOUT: Duration = Duration::from_secs(1);

/// Stores time, address and version of the agent, for the administrator's list.
async fn note_seen(context: &SessionContext, live: &ActiveSession) {
    let seen = AgentSeen {
        at: context.clock.now(),
        address: live.session.peer().to_string(),
        version: live.version().to_owned(),
    };
    let agent = live.agent.id;
    let noted = context
        .store
        .run(move |store| store.note_seen(agent, &seen));
    if let Err(error) = noted.await {
        tracing::debug!(%error, "the time of the agent could not be stored");
    }
}

/// Returns the kind of a session's event. An agent that connects in a loop must not fill the disk.
const fn session_event(event: &'static str) -> LimitedKind {
    LimitedKind { event, reason: "" }
}

/// Serves the agent until it leaves or is refused, or `stop` is cancelled.
pub(crate) async fn serve(
    session: Session,
    admitted: Authenticated,
    context: &SessionContext,
    drain: CancellationToken,
    stop: CancellationToken,
) {
    let name = admitted.agent.name.clone();
    let mut serving = SessionLoop::new(session.clone(), admitted, context);
    let reason = serving.run(&drain, &stop).await;
    session.close(&reason);

    // If storage is slow, the list keeps the time of the start.
    let _ = timeout(SEEN_TIMEOUT, note_seen(context, &serving.live)).await;
    drop(serving);
    tracing::info!(event = "agent_disconnected", agent = %name, reason, "agent left");
    let details = || json!({ "agent": name.as_str(), "reason": printable(&reason) });
    let (peer, audit) = (session.peer().ip(), context.observer.audit());
    audit.limited(
        Causer::Agent,
        peer,
        session_event("agent_disconnected"),
        details,
    );
    context
        .observer
        .publish(|| RelayEventKind::AgentDisconnected {
            agent: name.to_string(),
            reason,
        });
    tracing::debug!(agent = %name, datagrams_per_send = session.datagrams_per_send(), "statistics of the agent's connection");
}

/// Role of a session among those of its tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SessionState {
    /// The session may get requests.
    Active,
    /// A newer instance of the agent gets the requests.
    Standby,
    /// The agent has announced its end. The session ends after its last request.
    Draining,
}

/// Outcome of a step: a message for the agent, or the end of the session with its reason.
type Step = ControlFlow<SessionEnd, Option<RelayMessage>>;

/// End of a session.
struct SessionEnd {
    reason: String,
    /// Refusal that the agent gets before the connection closes.
    refusal: Option<RelayMessage>,
}

impl SessionEnd {
    const fn new(reason: String) -> Self {
        Self {
            reason,
            refusal: None,
        }
    }

    fn refused(OpenRefused(reason, message): OpenRefused) -> Self {
        Self {
            reason: message.clone(),
            refusal: Some(RelayMessage::Refused { reason, message }),
        }
    }
}

/// Loop of one session. Each arm of [`SessionLoop::run`] calls one method, which returns a [`Step`].
pub(crate) struct SessionLoop<'c> {
    context: &'c SessionContext,
    session: Session,
    control: ControlStream,
    live: Arc<ActiveSession>,
    credential: SecretDigest,
    /// Limits of the tunnels that the agent may open.
    scope: AgentScope,
    state: SessionState,
    /// Time of the last request to renew the credential.
    renewal_requested: Option<Instant>,
    /// `true` until the agent has answered that request.
    is_renewal_open: bool,
    /// `true` once the agent was notified that the relay drains.
    is_drain_announced: bool,
    calls: Calls,
    /// Messages that follow the next one.
    outgoing: VecDeque<RelayMessage>,
    /// Hosts that the session has opened.
    opened: BTreeSet<HostName>,
    /// Bytes received at the last check, and the time of the last change.
    received: (u64, Instant),
}

impl<'c> SessionLoop<'c> {
    fn new(session: Session, admitted: Authenticated, context: &'c SessionContext) -> Self {
        let Authenticated {
            agent,
            scope,
            credential,
            identity,
            control,
        } = admitted;
        let events = OwnerEvents::new(
            context.limits.refusal_events_per_second,
            identity.captures_refused,
        );
        let requester = Requester::agent(Actor::agent(&agent.name), agent.id, session.peer().ip());

        Self {
            context,
            control,
            live: ActiveSession::new(agent, identity, session.clone(), events),
            credential,
            scope,
            state: SessionState::Active,
            renewal_requested: None,
            is_renewal_open: false,
            is_drain_announced: false,
            calls: Calls::new(context.deliveries_api.clone(), requester),
            outgoing: VecDeque::new(),
            opened: BTreeSet::new(),
            received: (session.received(), Instant::now()),
            session,
        }
    }

    /// Serves the session. Returns the reason of its end.
    async fn run(&mut self, drain: &CancellationToken, stop: &CancellationToken) -> String {
        let registry = &self.context.registry;
        let Some(_slot) = registry.place(self.live.agent.id) else {
            tracing::warn!(agent = %self.live.agent.name, "connection refused: the agent has the maximum number of connections");
            return "too many connections".to_owned();
        };

        // The agents connect elsewhere now. One that lost its other connection is needed for the
        // last requests.
        if drain.is_cancelled() && registry.has_another(&self.live) {
            let message = "the relay is about to stop".to_owned();
            let refusal = OpenRefused(RefusedReason::Unavailable, message);
            return self.end(SessionEnd::refused(refusal)).await;
        }

        self.session.trust();
        self.report_connected();
        let live = Arc::clone(&self.live);
        let (mut seen, mut is_seen) = (pin!(note_seen(self.context, &live)), false);
        registry.enter(&live);
        let _registered = RegisteredTunnels {
            registry,
            live: Arc::clone(&live),
        };
        let (mut reviews, mut checks) = (every(REVIEW_INTERVAL), every(CHECK_INTERVAL));
        let mut revision = self.context.agents_revision.clone();
        let mut eviction = pin!(live.response_backlog.run_eviction());

        loop {
            // Before the next message: an agent that always has one must not put it off.
            if revision.has_changed().unwrap_or_default() {
                revision.mark_unchanged();
                let review = self.review().await;
                match self.on_review(review) {
                    ControlFlow::Continue(message) => self.outgoing.extend(message),
                    ControlFlow::Break(end) => return self.end(end).await,
                }
            }

            let (session, control) = (&self.session, &mut self.control);
            let calls = &mut self.calls;
            let step = tokio::select! {
                message = control.receive(CONTROL_BYTES) => match message {
                    Ok(message) => self.on_message(message).await,
                    Err(error) => self.on_control_lost(error).await,
                },
                answer = calls.next() => ControlFlow::Continue(Some(answer)),
                () = std::future::ready(()), if !self.outgoing.is_empty() => {
                    ControlFlow::Continue(self.outgoing.pop_front())
                }
                event = live.owner_events.next_message() => ControlFlow::Continue(Some(event)),
                _ = reviews.tick() => {
                    let review = self.review().await;
                    self.on_review(review)
                }
                Ok(()) = revision.changed() => {
                    revision.mark_changed();
                    continue;
                }
                _ = checks.tick() => {
                    let received = session.received();
                    self.on_check(received, Instant::now())
                }
                never = &mut eviction => match never {},
                () = &mut seen, if !is_seen => {
                    is_seen = true;
                    continue;
                }
                // Requests to the agent have ended, and all its messages were processed.
                () = live.idle(), if self.state == SessionState::Draining => self.on_idle(),
                () = drain.cancelled(), if !self.is_drain_announced => self.on_relay_drain(),
                () = stop.cancelled() => self.on_stop(),
            };

            let message = match step {
                ControlFlow::Continue(None) => continue,
                ControlFlow::Continue(Some(message)) => message,
                ControlFlow::Break(end) => return self.end(end).await,
            };
            if let Err(end) = self.send(&message).await {
                return end.reason;
            }
        }
    }

    fn report_connected(&self) {
        let (name, session) = (&self.live.agent.name, &self.session);
        tracing::info!(
            event = "agent_connected", agent = %name, peer = %session.peer(),
            transport = %session.transport(), "agent connected"
        );
        let details = || {
            json!({
                "agent": name.as_str(),
                "address": session.peer().to_string(),
                "transport": session.transport().to_string(),
                "version": self.live.version(),
            })
        };
        let (peer, audit) = (session.peer().ip(), self.context.observer.audit());
        audit.limited(
            Causer::Agent,
            peer,
            session_event("agent_connected"),
            details,
        );
        self.context
            .observer
            .publish(|| RelayEventKind::AgentConnected {
                agent: name.to_string(),
            });
    }

    /// Handles a message of the agent.
    async fn on_message(&mut self, message: AgentMessage) -> Step {
        match message {
            AgentMessage::Open {
                host,
                policy,
                revision,
            } => {
                let opened = self.open(host.as_deref(), policy, revision).await;
                self.on_opened(opened)
            }
            AgentMessage::UpstreamHealth { host, down } => {
                self.context.registry.set_down(&host, &self.live, down);
                ControlFlow::Continue(None)
            }
            AgentMessage::Call { id, method, path } => {
                ControlFlow::Continue(self.calls.begin(id, &method, &path))
            }
            AgentMessage::Renew { credential_digest } => self.on_renew(&credential_digest).await,
            AgentMessage::Drain => self.on_agent_drain(),
            AgentMessage::Hello { .. } | AgentMessage::Join { .. } | AgentMessage::Unknown => {
                ControlFlow::Continue(None)
            }
        }
    }

    async fn open(
        &self,
        host: Option<&str>,
        policy: Policy,
        revision: u64,
    ) -> Result<(HostName, RelayMessage), OpenRefused> {
        let (live, scope, context) = (&self.live, &self.scope, self.context);
        let name = choose_host(host, &live.agent.name, scope, context)?;
        let opened = open(name.clone(), policy, revision, live, scope, context).await?;
        Ok((name, opened))
    }

    /// Records an opened host. Only a refused host leaves the agent's other tunnels open.
    fn on_opened(&mut self, opened: Result<(HostName, RelayMessage), OpenRefused>) -> Step {
        match opened {
            Ok((name, message)) => {
                self.opened.insert(name);
                ControlFlow::Continue(Some(message))
            }
            Err(OpenRefused(reason @ RefusedReason::Host, message)) => {
                ControlFlow::Continue(Some(RelayMessage::Refused { reason, message }))
            }
            Err(refused) => ControlFlow::Break(SessionEnd::refused(refused)),
        }
    }

    /// Handles the agent's announcement that it stops, or has replaced this connection.
    fn on_agent_drain(&mut self) -> Step {
        self.state = SessionState::Draining;
        self.context.registry.leave(&self.live);
        ControlFlow::Continue(Some(RelayMessage::DrainAck))
    }

    /// Handles the end of the control stream. The connection knows the cause, the stream only that
    /// it ended.
    async fn on_control_lost(&self, error: StreamError) -> Step {
        if let StreamError::Protocol(what) = error {
            return ControlFlow::Break(SessionEnd::new(what));
        }

        let reason = match timeout(CAUSE_TIMEOUT, self.session.closed()).await {
            Ok(SessionError::ClosedByPeer(reason)) => {
                format!("the agent closed the connection: {reason}")
            }
            Ok(lost) => lost.to_string(),
            Err(_) => error.to_string(),
        };
        ControlFlow::Break(SessionEnd::new(reason))
    }

    /// Checks for silence, evicted responses, and a takeover by a newer instance.
    fn on_check(&mut self, received: u64, now: Instant) -> Step {
        if received != self.received.0 {
            self.received = (received, now);
        }
        let silence = now.saturating_duration_since(self.received.1);
        self.live
            .set_silent(silence > self.context.liveness().quiet_after());

        let evicted = self.live.response_backlog.count_evicted();
        if evicted > 0 {
            self.context.observer.metrics().responses_evicted(evicted);
            tracing::warn!(agent = %self.live.agent.name, responses = evicted, "evicted responses of slow readers");
        }

        let registry = &self.context.registry;
        let has_lost = |name: &HostName| !registry.is_active(name.as_str(), &self.live);
        let state = match self.state {
            SessionState::Draining => return ControlFlow::Continue(None),
            _ if self.opened.iter().any(has_lost) => SessionState::Standby,
            _ => SessionState::Active,
        };
        if state == self.state {
            return ControlFlow::Continue(None);
        }

        self.state = state;
        let standby = state == SessionState::Standby;
        ControlFlow::Continue(Some(RelayMessage::Standby { standby }))
    }

    /// Announces to the agent that the relay drains.
    fn on_relay_drain(&mut self) -> Step {
        self.is_drain_announced = true;
        ControlFlow::Continue(Some(RelayMessage::Draining))
    }

    /// Ends the session after the last request of an agent that drains.
    fn on_idle(&self) -> Step {
        ControlFlow::Break(SessionEnd::new("the agent left".to_owned()))
    }

    fn on_stop(&self) -> Step {
        self.session.close("the relay is stopping");
        ControlFlow::Break(SessionEnd::new("the relay is stopping".to_owned()))
    }

    /// Sends a message. An agent that does not read is treated as gone.
    async fn send(&mut self, message: &RelayMessage) -> Result<(), SessionEnd> {
        let patience = self.context.limits.agent_handshake_timeout;
        let (credential, scope) = (self.credential.clone(), self.scope.clone());
        let ended = review::ended_by_change(self.context, credential, scope);
        let sent = tokio::select! {
            sent = timeout(patience, self.control.send(message)) => sent,
            // An agent that reads nothing must not delay its end.
            () = ended => return Err(SessionEnd::new(CHANGED.to_owned())),
        };
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(SessionEnd::new(error.to_string())),
            Err(_) => Err(SessionEnd::new(
                "the agent does not read its messages".to_owned(),
            )),
        }
    }

    /// Ends the session. Sends the refusal, if there is one, and waits until the agent has read it.
    async fn end(&mut self, end: SessionEnd) -> String {
        // It gets no request more, however long it takes to read the refusal.
        self.context.registry.leave(&self.live);
        if let Some(refusal) = end.refusal {
            let patience = match refusal {
                RelayMessage::Refused {
                    reason: RefusedReason::Credential,
                    ..
                } => REVOKED_TIMEOUT,
                _ => self.context.limits.agent_handshake_timeout,
            };
            let control = &mut self.control;
            let sending = async {
                if control.send(&refusal).await.is_ok() {
                    control.finish().await;
                }
            };
            let _ = timeout(patience, sending).await;
            self.session.close("refused");
        }

        end.reason
    }
}

/// Time for an agent whose credential has ended to read why. Its requests in flight end with it.
const REVOKED_TIMEOUT: Duration = Duration::from_millis(500);

/// Interval of credential checks, beside those after each change: credentials expire.
const REVIEW_INTERVAL: Duration = Duration::from_secs(3);

/// Interval of checks for silence and takeover.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time for the connection to report why its control stream ended.
const CAUSE_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
pub(crate) mod tests;
