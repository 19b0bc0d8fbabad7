//! Takes agents' QUIC connections. The accept loop awaits nothing but `accept`: handshake, greeting
//! and session of each connection run in a task of its own, which the listener's tracker owns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hookward_shared::limits::AGENTS_UNKNOWN_PER_SOURCE;
use hookward_shared::transport::Session;
use hookward_shared::transport::quic::{self, EndpointError, RETRY_FROM};
use quinn::{Endpoint, Incoming};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{self, AdmissionError};
use super::session::{self, Host};
use crate::certs::Identity;
use crate::edge::places::Places;
use crate::store::Store;

/// How often it is asked again who owns which host.
const REVIEW: Duration = Duration::from_secs(1);

/// The tunnel's listener.
pub struct AgentListener {
    endpoint: Endpoint,
    address: SocketAddr,
    tasks: TaskTracker,
}

impl AgentListener {
    /// Binds the UDP port and begins to accept.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub fn bind(
        address: SocketAddr,
        identity: Identity,
        host: Arc<Host>,
        stop: CancellationToken,
    ) -> Result<Self, EndpointError> {
        let endpoint = quic::server(address, identity.certificate, identity.key)?;
        let address = endpoint.local_addr().map_err(|source| EndpointError::Socket { address, source })?;
        let tasks = TaskTracker::new();
        tasks.spawn(review_hosts(Arc::clone(&host), stop.clone()));
        tasks.spawn(accept(endpoint.clone(), host, tasks.clone(), stop));
        Ok(Self { endpoint, address, tasks })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every session has ended and the peers have been told. The token given to
    /// [`AgentListener::bind`] is what ends them.
    pub async fn join(self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.endpoint.close(0_u32.into(), b"the relay is stopping");
        self.endpoint.wait_idle().await;
    }
}

/// Keeps the known hosts those that somebody owns: agents are removed by another process.
async fn review_hosts(host: Arc<Host>, stop: CancellationToken) {
    let mut review = interval(REVIEW);
    review.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = review.tick() => {}
            () = stop.cancelled() => break,
        }
        match host.store.run(Store::hosts).await {
            Ok(owned) => host.registry.know_only(owned.into_iter().chain(host.given.keys().cloned()).collect()),
            Err(error) => tracing::error!(%error, "the store failed"),
        }
    }
}

async fn accept(endpoint: Endpoint, host: Arc<Host>, tasks: TaskTracker, stop: CancellationToken) {
    let unknown = Arc::new(Semaphore::new(host.limits.agents_unknown));
    // A handshake proves its address, so one that only knocks can't lock the others out.
    let of_source = Places::default();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        let under_way = host.limits.agents_unknown - unknown.available_permits();
        if under_way >= RETRY_FROM && !incoming.remote_address_validated() {
            // Costs the stranger a round trip and us nothing to remember. A second Retry is an
            // error, and then the attempt is dropped.
            let _ = incoming.retry();
            continue;
        }
        let place = of_source.take(incoming.remote_address().ip(), AGENTS_UNKNOWN_PER_SOURCE);
        let (Some(place), Ok(permit)) = (place, Arc::clone(&unknown).try_acquire_owned()) else {
            incoming.refuse();
            continue;
        };
        let (host, stop) = (Arc::clone(&host), stop.clone());
        tasks.spawn(async move {
            let greeted = tokio::select! {
                greeted = timeout(host.limits.agent_greeting, greet(incoming, &host)) => greeted,
                () = stop.cancelled() => return,
            };
            drop((place, permit));
            match greeted {
                Ok(Ok((session, admitted))) => session::serve(session, admitted, &host, stop).await,
                Ok(Err(error)) => tracing::info!(%error, "an agent's connection ended before its session"),
                Err(_) => tracing::info!("an agent's connection said nothing in time"),
            }
        });
    }
}

async fn greet(incoming: Incoming, host: &Host) -> Result<(Session, admission::Admitted), AdmissionError> {
    let connecting = incoming.accept().map_err(|error| AdmissionError::Session(error.into()))?;
    let connection = connecting.await.map_err(|error| AdmissionError::Session(error.into()))?;
    let session = Session::new(connection);
    let admitted = admission::admit(&session, &host.store, &host.clock, &host.limits).await?;
    Ok((session, admitted))
}
