//! A connection in use: handles its messages, and drains it when another connection replaces it or
//! the agent stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::relay_link::AgentMessage;
use hookward_core::limits::CONTROL_BYTES;
use hookward_core::secret::SecretDigest;
use hookward_tunnel::protocol::control::RelayMessage;
use hookward_tunnel::transport::{ControlReader, MessageReader, MessageWriter};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::{Event, EventSink};
use crate::exchange::{self, SessionTerms};
use crate::relay_link::calls::PendingCalls;
use crate::relay_link::dialer::Dialed;
use crate::relay_link::outbox::Outbox;
use crate::relay_link::policy_sync::PolicyOffer;
use crate::relay_link::{ConnectionError, LinkContext, RelayState, report_refusals};

/// Timeout for the relay's acknowledgement of a drain.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Connection that serves the tunnels.
pub(crate) struct ActiveLink {
    pub(crate) found: Dialed,
    pub(crate) outbox: Outbox,
    pub(crate) reader: ControlReader,
    pub(crate) terms: Arc<SessionTerms>,
    pub(crate) exchanges: TaskTracker,
    pub(crate) since: Instant,
    /// Credential by which the relay knows the connection.
    pub(crate) credential: SecretDigest,
    pub(crate) renewal: Renewal,
    /// Calls of the relay's API that wait for their answers.
    pub(crate) calls: PendingCalls,
    /// Policy that was sent to the relay and is not yet answered, with its tunnel.
    pub(crate) pending_policy: Option<(usize, Arc<PolicyOffer>)>,
    /// `true` once the relay announced its drain. It closes the connection after its last request.
    pub(crate) relay_draining: bool,
}

/// State of the renewal of a connection's credential.
pub(crate) enum Renewal {
    None,
    /// The relay requests a renewal; this is the new credential.
    Requested(SecretDigest),
    /// The credential was sent to the relay, which has not answered yet.
    Sent(SecretDigest),
}

impl ActiveLink {
    /// Prepares the renewal of the credential, which the relay requests.
    pub(crate) fn request_renewal(&mut self, at: &RelayState, events: &EventSink) {
        match at.credential.replacement(&self.credential) {
            Ok(next) => self.renewal = Renewal::Requested(next.digest()),
            // The relay requests it again.
            Err(error) => events.emit(Event::Warning(format!(
                "the credential at {} can't be renewed before it expires: {error}",
                at.relay.address
            ))),
        }
    }

    /// Ends a connection without failing a request: the relay stops sending requests, those in flight
    /// finish, and the connection closes. Once `stop` is cancelled, it takes up to `shared.drain`.
    pub(crate) async fn retire(mut self, shared: &LinkContext, stop: CancellationToken) {
        if self.relay_draining {
            tokio::select! {
                () = self.drain(&shared.events) => return self.close().await,
                () = stop.cancelled() => {}
            }
        }

        let sent = matches!(
            timeout(DRAIN_TIMEOUT, self.send_drain(&shared.events)).await,
            Ok(Ok(true))
        );
        let session = self.found.session.clone();

        let ending = async {
            if sent {
                // The relay closes the connection after reading all responses. Requests that it
                // sent before the drain message still run.
                while let Ok(exchange) = session.accept().await {
                    take(exchange, &self.terms, &self.exchanges);
                }
            } else {
                self.exchanges.close();
                tokio::select! {
                    () = self.exchanges.wait() => {}
                    _ = session.closed() => {}
                }
            }
        };

        let stopping = async {
            stop.cancelled().await;
            sleep(shared.drain).await;
        };
        tokio::select! {
            () = ending => {}
            () = stopping => {}
        }
        self.close().await;
    }

    /// Announces the drain, and waits for the relay's acknowledgement. Returns `false` if the control
    /// stream is unusable.
    async fn send_drain(&mut self, events: &EventSink) -> Result<bool, ConnectionError> {
        if !self.outbox.is_ready() {
            return Ok(false);
        }

        let silent = ConnectionError::Silent {
            address: self.found.session.peer().to_string(),
            transport: self.found.session.transport(),
        };
        self.outbox.send(AgentMessage::Drain, silent);
        self.outbox.sent().await?;
        loop {
            tokio::select! {
                exchange = self.found.session.accept() => take(exchange?, &self.terms, &self.exchanges),
                message = self.reader.receive::<RelayMessage>(CONTROL_BYTES) => {
                    match message? {
                        RelayMessage::DrainAck => return Ok(true),
                        RelayMessage::Refusals { requests, counts } => report_refusals(events, &self.terms.hosts, requests, counts),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Waits for a draining relay, which has requests until its last sender is done, and closes the
    /// connection itself.
    async fn drain(&mut self, events: &EventSink) {
        loop {
            tokio::select! {
                exchange = self.found.session.accept() => match exchange {
                    Ok(exchange) => take(exchange, &self.terms, &self.exchanges),
                    Err(_) => return,
                },
                said = self.reader.receive::<RelayMessage>(CONTROL_BYTES) => match said {
                    Ok(RelayMessage::Refusals { requests, counts }) => report_refusals(events, &self.terms.hosts, requests, counts),
                    // Other messages no longer matter.
                    Ok(_) => {}
                    Err(_) => return,
                },
            }
        }
    }

    async fn close(&mut self) {
        self.exchanges.close();
        self.found.session.close("the agent has left");
        if let Some(endpoint) = &self.found.endpoint {
            let _ = timeout(DRAIN_TIMEOUT, endpoint.wait_idle()).await;
        }
    }
}

/// Runs an exchange in its own task.
pub(crate) fn take(
    (writer, reader): (MessageWriter, MessageReader),
    terms: &Arc<SessionTerms>,
    exchanges: &TaskTracker,
) {
    let terms = Arc::clone(terms);
    // Boxed, because the runtime moves a future several times before it runs.
    exchanges.spawn(Box::pin(async move {
        exchange::exchange(writer, reader, &terms).await
    }));
}
