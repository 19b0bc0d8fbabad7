//! Accepts agents' connections of both transports: bounds unauthenticated ones in total and per
//! client, sets the deadline, and authenticates.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use hookward_core::limits::UNAUTHENTICATED_PER_CLIENT;
use hookward_observe::audit::Actor;
use hookward_tunnel::transport::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::observe::metrics;
use crate::overload::per_client::{ClientSlot, PerClientLimiter};
use crate::sessions::context::SessionContext;
use crate::sessions::handshake::{self, HandshakeError};
use crate::sessions::session;

/// Acceptor of agents. It owns the tasks of handshakes and sessions.
pub(crate) struct AgentAcceptor {
    /// State that sessions need.
    pub host: Arc<SessionContext>,
    unauthenticated: Arc<Semaphore>,
    per_client: PerClientLimiter,
    tasks: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
}

/// Slot of a connection whose peer is not yet authenticated.
pub(crate) struct UnauthenticatedSlot {
    /// Address of the peer.
    source: IpAddr,
    _of_client: ClientSlot,
    _of_all: OwnedSemaphorePermit,
}

impl AgentAcceptor {
    /// Creates an acceptor. Its sessions ask their agents to leave when `drain` is cancelled, and
    /// end when `stop` is.
    #[must_use]
    pub(crate) fn new(
        host: Arc<SessionContext>,
        drain: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        let unknown = Arc::new(Semaphore::new(host.limits.max_unauthenticated_agents));
        Self {
            host,
            unauthenticated: unknown,
            per_client: PerClientLimiter::default(),
            tasks: TaskTracker::new(),
            drain,
            stop,
        }
    }

    /// Returns the number of unauthenticated connections.
    #[must_use]
    pub(crate) fn unknown(&self) -> usize {
        self.host.limits.max_unauthenticated_agents - self.unauthenticated.available_permits()
    }

    /// Returns the tracker that owns the tasks.
    #[must_use]
    pub(crate) const fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Acquires a slot for an unauthenticated connection, or `None` if there are too many.
    pub(crate) fn acquire(&self, source: IpAddr) -> Option<UnauthenticatedSlot> {
        // A QUIC handshake validates the address, so spoofed packets cannot use up another client's
        // slots.
        let of_client = self
            .per_client
            .try_acquire(source, UNAUTHENTICATED_PER_CLIENT)?;
        Some(UnauthenticatedSlot {
            source,
            _of_client: of_client,
            _of_all: Arc::clone(&self.unauthenticated).try_acquire_owned().ok()?,
        })
    }

    /// Runs a connection in its own task: `connecting` opens it, then come authentication and
    /// session.
    pub(crate) fn accept<E>(
        self: &Arc<Self>,
        place: UnauthenticatedSlot,
        connecting: impl Future<Output = Result<Session, E>> + Send + 'static,
    ) where
        HandshakeError: From<E>,
        E: Send,
    {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let greeting = async {
                let session = connecting.await?;
                let admitted = handshake::authenticate(&session, &this.host, place.source).await?;
                Ok::<_, HandshakeError>((session, admitted))
            };
            let greeted = tokio::select! {
                greeted = timeout(this.host.limits.agent_handshake_timeout, greeting) => greeted,
                () = this.stop.cancelled() => return,
            };

            let source = place.source;
            drop(place);
            match greeted {
                Ok(Ok((session, admitted))) => {
                    this.host.observer.metrics().agent_handshake(metrics::OK);
                    session::serve(
                        session,
                        admitted,
                        &this.host,
                        this.drain.clone(),
                        this.stop.clone(),
                    )
                    .await;
                }
                Ok(Err(HandshakeError::Joined(agent))) => {
                    tracing::info!(event = "agent_joined", agent, "agent joined");
                    let details = serde_json::json!({ "agent": agent, "address": source });
                    let observer = &this.host.observer;
                    observer.metrics().agent_handshake("joined");
                    observer
                        .audit()
                        .act("agent_joined", Actor::agent(&agent), details);
                }
                // Agents try several transports at once and drop all but one.
                Ok(Err(error @ HandshakeError::Session(_))) => {
                    this.host.observer.metrics().agent_handshake("closed");
                    tracing::debug!(%error, "agent closed its connection during the handshake");
                }
                Ok(Err(error)) => {
                    let kind = match error {
                        HandshakeError::Refused(_) => "refused",
                        _ => "ended",
                    };
                    this.host
                        .observer
                        .agent_failed(source, kind, &error.to_string());
                }
                Err(_) => {
                    let reason = "the connection sent no greeting in time";
                    this.host.observer.agent_failed(source, "silent", reason);
                }
            }
        });
    }
}
