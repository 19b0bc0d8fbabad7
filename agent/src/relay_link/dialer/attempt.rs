//! One attempt to connect to an address, over one transport.

use super::{ATTEMPTS_PER_SOCKET, Dialed, is_ours};
use crate::relay_link::ConnectionError;
use crate::relay_link::proxy::Proxies;
use hookward_tunnel::transport::identity::Pins;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::quic::{self, SERVER_NAME};
use hookward_tunnel::transport::{Session, SessionError, Transport, tcp};
use quinn::Endpoint;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use std::collections::HashMap;
use std::io::{self};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

/// Target of a connection attempt.
pub(super) struct DialTarget {
    /// Sockets of the last attempts, by slot and address family.
    // A std mutex: it guards a small map, and nothing waits while it is held.
    pub(super) endpoints: Mutex<HashMap<(usize, bool), Endpoint>>,
    pub(super) address: String,
    pub(super) pins: Pins,
    pub(super) liveness: Liveness,
    pub(super) proxies: Proxies,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) tasks: TaskTracker,
}

impl DialTarget {
    pub(super) async fn attempt<T, G, F>(
        &self,
        transport: Transport,
        slot: usize,
        attempt: usize,
        patience: Duration,
        greet: G,
    ) -> Result<(Dialed, T), ConnectionError>
    where
        G: Fn(Session) -> F,
        F: Future<Output = Result<T, ConnectionError>>,
    {
        let attempting = async {
            let found = match transport {
                Transport::Quic => self.over_quic(slot, attempt).await?,
                Transport::Tcp => self.over_tcp(slot, attempt).await?,
            };
            let greeted = greet(found.session.clone()).await?;
            Ok((found, greeted))
        };

        let silent = || {
            Err(ConnectionError::Silent {
                address: self.address.clone(),
                transport,
            })
        };

        timeout(patience, attempting)
            .await
            .unwrap_or_else(|_| silent())
    }

    /// Returns the relay's addresses, in the same order for each lookup.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectionError> {
        let failed = |source| ConnectionError::Resolve {
            address: self.address.clone(),
            source,
        };

        // Names below `localhost` are this machine (RFC 6761 §6.3), which not every resolver knows.
        if let Some((host, port)) = self.address.rsplit_once(':')
            && host.ends_with(".localhost")
            && let Ok(port) = port.parse()
        {
            return Ok(vec![(Ipv4Addr::LOCALHOST, port).into()]);
        }

        let mut found: Vec<_> = tokio::net::lookup_host(&self.address)
            .await
            .map_err(failed)?
            .collect();
        found.sort_unstable();
        found.dedup();

        if found.is_empty() {
            Err(failed(io::Error::other("its name has no address")))
        } else {
            Ok(found)
        }
    }

    /// Chooses the address of an attempt: first the preferred one, then the others. Returns its
    /// position after the preferred one, and the number of addresses.
    async fn choose(
        &self,
        slot: usize,
        attempt: usize,
    ) -> Result<(SocketAddr, usize, usize), ConnectionError> {
        let addresses = self.addresses().await?;
        let place = attempt % addresses.len();
        let address = addresses.get((slot + place) % addresses.len()).copied();
        let nothing = || ConnectionError::Resolve {
            address: self.address.clone(),
            source: io::ErrorKind::NotFound.into(),
        };

        Ok((address.ok_or_else(nothing)?, place, addresses.len()))
    }

    async fn over_quic(&self, slot: usize, attempt: usize) -> Result<Dialed, ConnectionError> {
        let (target, place, addresses) = self.choose(slot, attempt).await?;
        let local: SocketAddr = if target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let endpoint = self.endpoint(slot, attempt, local)?;
        let connecting = endpoint
            .connect(target, SERVER_NAME)
            .map_err(|error| ConnectionError::Session(SessionError::Lost(error.to_string())))?;
        match connecting.await {
            Ok(connection) => {
                let session = Session::over_quic(connection);
                Ok(Dialed {
                    session,
                    address_offset: place,
                    addresses,
                    endpoint: Some(endpoint),
                    local: None,
                })
            }
            Err(error) if quic::is_wrong_key(&error) => Err(self.wrong_key()),
            Err(quinn::ConnectionError::TimedOut) => Err(ConnectionError::Silent {
                address: self.address.clone(),
                transport: Transport::Quic,
            }),
            Err(error) => Err(ConnectionError::Session(error.into())),
        }
    }

    pub(super) fn forget(&self, slot: usize) {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|(other, _), _| *other != slot);
    }

    fn endpoint(
        &self,
        slot: usize,
        attempt: usize,
        local: SocketAddr,
    ) -> Result<Endpoint, ConnectionError> {
        let key = (slot, local.is_ipv6());
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(endpoint) = endpoints
            .get(&key)
            .filter(|_| !(attempt + 1).is_multiple_of(ATTEMPTS_PER_SOCKET))
        {
            return Ok(endpoint.clone());
        }

        let endpoint = quic::client(local, self.pins.clone(), self.liveness)?;
        endpoints.insert(key, endpoint.clone());
        Ok(endpoint)
    }

    async fn over_tcp(&self, slot: usize, attempt: usize) -> Result<Dialed, ConnectionError> {
        let (way, local, peer, place, addresses) = match self.proxies.of(&self.address) {
            // The proxy resolves the name, and is the only path.
            Some(proxy) => {
                let (way, local) = proxy.connect(&self.address, &self.tasks).await?;
                (way, local, (Ipv4Addr::UNSPECIFIED, 0).into(), 0, 1)
            }
            None => {
                let (target, place, addresses) = self.choose(slot, attempt).await?;
                let failed = |source| ConnectionError::Connect {
                    address: self.address.clone(),
                    source,
                };
                let stream = TcpStream::connect(target).await.map_err(failed)?;

                // Nagle's algorithm would delay heads until acknowledgements arrive.
                stream.set_nodelay(true).map_err(failed)?;
                tcp::keep_queue_short(&stream);

                let local = stream.local_addr().ok();
                (Either::Left(stream), local, target, place, addresses)
            }
        };

        let name = ServerName::try_from(SERVER_NAME)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let tls = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, way)
            .await
            .map_err(|error| self.tls(error))?;
        let session = Session::over_tcp_at_agent(tls, peer, self.liveness, &self.tasks).await?;

        // An address that cannot be checked is treated as unknown.
        let local = local.filter(|local| is_ours(*local));
        Ok(Dialed {
            session,
            address_offset: place,
            addresses,
            endpoint: None,
            local,
        })
    }

    fn wrong_key(&self) -> ConnectionError {
        ConnectionError::WrongKey {
            address: self.address.clone(),
            expected: self.pins.first(),
            found: self.pins.refused(),
        }
    }

    fn tls(&self, error: io::Error) -> ConnectionError {
        let address = self.address.clone();
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )) => self.wrong_key(),
            // TLS alerts of servers that are not relays.
            Some(rustls::Error::AlertReceived(
                AlertDescription::NoApplicationProtocol
                | AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::UnrecognisedName,
            ))
            | Some(rustls::Error::PeerIncompatible(_)) => ConnectionError::NoRelay(address),
            _ => ConnectionError::Connect {
                address,
                source: error,
            },
        }
    }
}
