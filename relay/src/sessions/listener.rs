//! Accepts agents' QUIC connections. The accept loop awaits only `accept`; [`AgentAcceptor`] runs
//! each connection.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hookward_runtime::interval::every;
use hookward_tunnel::transport::Session;
use hookward_tunnel::transport::quic::{self, EndpointError, RETRY_FROM};
use quinn::{Endpoint, Incoming};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::certs::TunnelIdentity;
use crate::sessions::acceptor::AgentAcceptor;
use crate::sessions::context::SessionContext;
use crate::sessions::handshake::HandshakeError;
use crate::storage::Store;

pub(crate) struct AgentListener {
    endpoint: Endpoint,
    address: SocketAddr,
    acceptor: Arc<AgentAcceptor>,
}

impl AgentListener {
    /// Binds the UDP port and starts to accept.
    ///
    /// # Errors
    /// [`EndpointError`].
    pub(crate) fn bind(
        address: SocketAddr,
        identity: TunnelIdentity,
        acceptor: Arc<AgentAcceptor>,
        stop: CancellationToken,
    ) -> Result<Self, EndpointError> {
        let liveness = acceptor.host.liveness();
        let endpoint = quic::server(address, identity.certificate, identity.key, liveness)?;
        let address = endpoint
            .local_addr()
            .map_err(|source| EndpointError::Socket { address, source })?;

        acceptor
            .tasks()
            .spawn(review_hosts(Arc::clone(&acceptor.host), stop.clone()));
        acceptor
            .tasks()
            .spawn(accept(endpoint.clone(), Arc::clone(&acceptor), stop));

        Ok(Self {
            endpoint,
            address,
            acceptor,
        })
    }

    #[must_use]
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every session has ended and the peers were notified. Cancel the token given to
    /// [`AgentListener::bind`] first.
    pub(crate) async fn join(self) {
        self.acceptor.tasks().close();
        self.acceptor.tasks().wait().await;
        self.endpoint.close(0_u32.into(), b"the relay is stopping");
        let _ = timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }
}

/// Time for the close frames to leave. Abandoned handshakes would otherwise delay the end until
/// they time out.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

/// Updates the known hosts from the store, because another process removes agents.
async fn review_hosts(host: Arc<SessionContext>, stop: CancellationToken) {
    let mut review = every(REVIEW_INTERVAL);
    let mut revision = host.agents_revision.clone();

    loop {
        tokio::select! {
            _ = review.tick() => {}
            Ok(()) = revision.changed() => {}
            () = stop.cancelled() => break,
        }

        // A session may end later than the change that ends it.
        if host.registry.has_policies_of_absent_agents() {
            match host.store.run(Store::scopes).await {
                Ok(scopes) => host.registry.review_scopes(&scopes),
                Err(error) => tracing::error!(%error, "state file could not be read"),
            }
        }

        match host.store.run(Store::host_owners).await {
            Ok(owned) => {
                let owned = owned.into_iter().map(|(host, owner)| (host, Some(owner)));
                let reserved = host.reserved_hosts.load();
                // Their owner is in the settings.
                let reserved = reserved.keys().map(|host| (host.clone(), None));
                host.registry
                    .replace_known_hosts(owned.chain(reserved).collect());
            }
            Err(error) => tracing::error!(%error, "state file could not be read"),
        }
    }
}

/// Interval of checks of host ownership.
const REVIEW_INTERVAL: Duration = Duration::from_secs(1);

async fn accept(endpoint: Endpoint, acceptor: Arc<AgentAcceptor>, stop: CancellationToken) {
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stop.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        if acceptor.unknown() >= RETRY_FROM && !incoming.remote_address_validated() {
            // A Retry costs the client a round trip, and the relay no memory. A second Retry is an
            // error, and the attempt is dropped.
            let _ = incoming.retry();
            continue;
        }

        match acceptor.acquire(incoming.remote_address().ip()) {
            Some(place) => acceptor.accept(place, connect(incoming)),
            None => incoming.refuse(),
        }
    }
}

async fn connect(incoming: Incoming) -> Result<Session, HandshakeError> {
    let connecting = incoming
        .accept()
        .map_err(|error| HandshakeError::Session(error.into()))?;
    let connection = connecting
        .await
        .map_err(|error| HandshakeError::Session(error.into()))?;
    Ok(Session::over_quic(connection))
}
