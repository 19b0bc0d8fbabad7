//! A connection that serves the tunnels: what it takes, and how it ends in order when another one
//! has taken its place or the agent stops.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::relay_link::AgentMessage;
use hookward_core::limits::CONTROL_BYTES;
use hookward_tunnel::protocol::control::RelayMessage;
use hookward_tunnel::transport::{ControlStream, MessageReader, MessageWriter};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::events::EventSink;
use crate::exchange::{self, SessionTerms};
use crate::relay_link::dialer::Dialed;
use crate::relay_link::policy_sync::PolicyOffer;
use crate::relay_link::{ConnectionError, LinkContext, report_refusals};

/// For the relay to acknowledge that the agent leaves.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that serves the tunnels.
pub(crate) struct ActiveLink {
    pub(crate) found: Dialed,
    pub(crate) control: ControlStream,
    pub(crate) terms: Arc<SessionTerms>,
    pub(crate) exchanges: TaskTracker,
    pub(crate) since: Instant,
    /// The policy that the relay has been asked for, of which tunnel, until it has answered.
    pub(crate) asked: Option<(usize, Arc<PolicyOffer>)>,
    /// A message was broken off in its middle: nothing can be said any more.
    pub(crate) control_poisoned: bool,
    /// The relay has said that it is about to stop. It ends the connection with the last request
    /// that it has.
    pub(crate) relay_draining: bool,
}

impl ActiveLink {
    /// Ends a connection without failing a request: the relay sends nothing more, what is under way
    /// ends, then the connection. Once `stop` is cancelled that takes no longer than
    /// `shared.drain`.
    pub(crate) async fn retire(mut self, shared: &LinkContext, stop: CancellationToken) {
        if self.relay_draining {
            tokio::select! {
                () = self.drain(&shared.events) => return self.close().await,
                () = stop.cancelled() => {}
            }
        }

        let told = !self.control_poisoned
            && matches!(
                timeout(DRAIN_TIMEOUT, self.send_drain(&shared.events)).await,
                Ok(Ok(()))
            );
        let session = self.found.session.clone();

        let ending = async {
            if told {
                // The relay ends the connection when it has taken all answers. What it gave before
                // it knew is still taken.
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

    /// Says that the agent leaves, until the relay has heard it.
    async fn send_drain(&mut self, reporter: &EventSink) -> Result<(), ConnectionError> {
        self.control.send(&AgentMessage::Drain).await?;
        loop {
            tokio::select! {
                exchange = self.found.session.accept() => take(exchange?, &self.terms, &self.exchanges),
                message = self.control.receive::<RelayMessage>(CONTROL_BYTES) => {
                    match message? {
                        RelayMessage::DrainAck => return Ok(()),
                        RelayMessage::Refusals { told, counted } => report_refusals(reporter, told, counted),
                        _ => {}
                    }
                }
            }
        }
    }

    /// A relay that is about to stop has requests until its last sender has gone, and ends the
    /// connection itself.
    async fn drain(&mut self, reporter: &EventSink) {
        loop {
            tokio::select! {
                exchange = self.found.session.accept() => match exchange {
                    Ok(exchange) => take(exchange, &self.terms, &self.exchanges),
                    Err(_) => return,
                },
                said = self.control.receive::<RelayMessage>(CONTROL_BYTES) => match said {
                    Ok(RelayMessage::Refusals { told, counted }) => report_refusals(reporter, told, counted),
                    // Nothing else matters now.
                    Ok(_) => {}
                    Err(_) => return,
                },
            }
        }
    }

    async fn close(&self) {
        self.exchanges.close();
        self.found.session.close("the agent has left");
        if let Some(endpoint) = &self.found.endpoint {
            let _ = timeout(DRAIN_TIMEOUT, endpoint.wait_idle()).await;
        }
    }
}

/// Handles an exchange in a task of its own.
pub(crate) fn take(
    (writer, reader): (MessageWriter, MessageReader),
    terms: &Arc<SessionTerms>,
    exchanges: &TaskTracker,
) {
    let terms = Arc::clone(terms);
    // In a box: the runtime moves what it is given several times before it runs.
    exchanges.spawn(Box::pin(async move {
        exchange::exchange(writer, reader, &terms).await
    }));
}
