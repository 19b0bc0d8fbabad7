//! Finds a way to a relay: QUIC first, TLS over TCP a moment later, whichever is greeted first (in
//! the manner of happy eyeballs, RFC 8305). What worked is tried first the next time.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hookward_tunnel::transport::identity::Pin;
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::quic::{self, SERVER_NAME};
use hookward_tunnel::transport::{Session, SessionError, Transport, tcp};
use quinn::Endpoint;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

use crate::relay_link::backoff::Backoff;
use crate::relay_link::proxy::Proxies;
use crate::relay_link::{ConnectionError, LinkSettings, RelayEndpoint, TransportMode};

/// Head start of the first transport. A handshake across the world takes less, and a sender whose
/// agent is offline waits no longer.
const HEAD_START: Duration = Duration::from_millis(500);
/// Head start once an attempt has failed.
const HEAD_START_LATER: Duration = Duration::from_millis(100);
/// For one attempt that a user waits for.
const ATTEMPT: Duration = Duration::from_secs(10);
/// For one attempt that is made while the tunnel is open.
const PROBE: Duration = Duration::from_secs(5);

/// Finds ways to one relay.
pub(crate) struct Dialer {
    way: Arc<DialTarget>,
    mode: TransportMode,
    /// TLS over TCP was the last that worked.
    tcp_leads: AtomicBool,
}

/// Attempts over QUIC on one socket, until another one is tried: a flow that a firewall has taken a
/// dislike to does not get better, and a socket with its buffers of 3 MiB is not made every second.
const ATTEMPTS_PER_SOCKET: usize = 5;

/// Target of a connection attempt.
struct DialTarget {
    /// The sockets of the last attempts, by slot and family.
    // A std mutex: it guards a small map, and nothing waits while it is held.
    endpoints: Mutex<HashMap<(usize, bool), Endpoint>>,
    address: String,
    pin: Pin,
    liveness: Liveness,
    proxies: Proxies,
    tls: Arc<ClientConfig>,
    tasks: TaskTracker,
}

/// A connection to a relay.
pub(crate) struct Dialed {
    pub session: Session,
    /// Position of the address after the wanted one; 0 for the wanted one.
    pub address_offset: usize,
    /// Addresses of the relay's name.
    pub addresses: usize,
    /// Over QUIC, what carries it.
    pub endpoint: Option<Endpoint>,
    /// Over TCP, this machine's address: the connection can have no other (over QUIC it moves to
    /// the next).
    pub local: Option<SocketAddr>,
}

impl Dialed {
    /// Returns `true` if this machine has lost the local address of the connection, as when it
    /// moves between networks.
    #[must_use]
    pub(crate) fn lost_its_address(&self) -> bool {
        self.local.is_some_and(|local| !is_ours(local))
    }
}

/// Returns `true` if the machine has this address. The system knows at once, but does not report it
/// on a waiting socket.
fn is_ours(mut local: SocketAddr) -> bool {
    local.set_port(0);
    !UdpSocket::bind(local).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

impl Dialer {
    /// Finds ways to this relay. What drives connections is owned by `tasks`.
    ///
    /// # Errors
    /// When rustls does not take the settings.
    pub(crate) fn new(
        relay: &RelayEndpoint,
        link: &LinkSettings,
        tasks: TaskTracker,
    ) -> Result<Self, ConnectionError> {
        let tls = tcp::client_tls(relay.pin)?;
        let (address, pin) = (relay.address.clone(), relay.pin);
        let (liveness, proxies) = (link.liveness, link.proxies.clone());
        let way = DialTarget {
            endpoints: Mutex::default(),
            address,
            pin,
            liveness,
            proxies,
            tls,
            tasks,
        };

        let tcp_leads = AtomicBool::new(link.last_transport == Some(Transport::Tcp));
        Ok(Self {
            way: Arc::new(way),
            mode: link.transport,
            tcp_leads,
        })
    }

    /// Returns `true` if a better connection is possible: over QUIC, or to the wanted address.
    #[must_use]
    pub(crate) fn could_be_better(&self, found: &Dialed) -> bool {
        let quic = found.session.transport() == Transport::Quic;
        found.address_offset > 0 || !quic && self.mode.allows(Transport::Quic)
    }

    /// Which transport is tried first from now on.
    pub(crate) fn prefer(&self, transport: Transport) {
        self.tcp_leads
            .store(transport == Transport::Tcp, Ordering::Relaxed);
    }

    /// Tries until the relay has greeted back, or has said something that trying again will not
    /// change. `slot` says which of the relay's addresses is the wanted one.
    ///
    /// # Errors
    /// A final refusal.
    pub(crate) async fn connect<T, G, F>(
        &self,
        slot: usize,
        schedule: &mut Backoff,
        greet: G,
        failed: &(dyn Fn(&ConnectionError) + Send + Sync),
    ) -> Result<(Dialed, T), ConnectionError>
    where
        T: Send + 'static,
        G: Fn(Session) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, ConnectionError>> + Send,
    {
        let mut race = JoinSet::new();
        let mut due = tokio::time::Instant::now() + schedule.pause();

        loop {
            tokio::select! {
                () = sleep_until(due) => {
                    let attempt = schedule.attempts();
                    let patience = schedule.next(Instant::now());
                    for (transport, head_start) in self.order(attempt) {
                        let (way, greet) = (Arc::clone(&self.way), greet.clone());
                        race.spawn(async move {
                            sleep(head_start).await;
                            way.attempt(transport, slot, attempt as usize, patience, greet).await
                        });
                    }
                    due += schedule.pause().max(HEAD_START * u32::from(attempt == 0));
                }
                Some(ended) = race.join_next(), if !race.is_empty() => match ended {
                    Ok(Ok(found)) => return Ok(found),
                    Ok(Err(error)) if error.is_final() => return Err(error),
                    Ok(Err(error)) => failed(&error),
                    Err(panic) => return Err(ConnectionError::Ended(panic.to_string())),
                },
            }
        }
    }

    /// Tries every transport once, for as long as the user can wait. Of several failures, who
    /// answers with another key comes first.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub(crate) async fn connect_once<T, G, F>(
        &self,
        greet: G,
    ) -> Result<(Dialed, T), ConnectionError>
    where
        T: Send + 'static,
        G: Fn(Session) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, ConnectionError>> + Send,
    {
        self.every_transport(0, 0, ATTEMPT, greet).await
    }

    /// Tries every transport once, while another connection is in use: whatever gets through.
    /// `place` says how many addresses after the slot's own one.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub(crate) async fn once<T, G, F>(
        &self,
        slot: usize,
        place: usize,
        greet: G,
    ) -> Result<(Dialed, T), ConnectionError>
    where
        T: Send + 'static,
        G: Fn(Session) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, ConnectionError>> + Send,
    {
        // The flow that was there may be what does not get through.
        self.way.forget(slot);
        self.every_transport(slot, place, PROBE, greet).await
    }

    async fn every_transport<T, G, F>(
        &self,
        slot: usize,
        attempt: usize,
        patience: Duration,
        greet: G,
    ) -> Result<(Dialed, T), ConnectionError>
    where
        T: Send + 'static,
        G: Fn(Session) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Result<T, ConnectionError>> + Send,
    {
        let mut race = JoinSet::new();
        for (transport, head_start) in self.order(0) {
            let (way, greet) = (Arc::clone(&self.way), greet.clone());
            race.spawn(async move {
                sleep(head_start).await;
                way.attempt(transport, slot, attempt, patience, greet).await
            });
        }

        let mut reason: Option<ConnectionError> = None;
        while let Some(ended) = race.join_next().await {
            match ended {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error))
                    if error.is_final() || matches!(error, ConnectionError::WrongKey(_)) =>
                {
                    return Err(error);
                }
                Ok(Err(error)) => {
                    reason = Some(match reason {
                        None => error,
                        Some(first) => ConnectionError::Both(Box::new(first), Box::new(error)),
                    });
                }
                Err(panic) => return Err(ConnectionError::Ended(panic.to_string())),
            }
        }

        let silent = || ConnectionError::Silent {
            address: self.way.address.clone(),
            transport: Transport::Tcp,
        };

        Err(reason.unwrap_or_else(silent))
    }

    /// Tries one transport once, for as long as the user can wait.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub(crate) async fn try_over(&self, transport: Transport) -> Result<Dialed, ConnectionError> {
        let (found, ()) = self
            .way
            .attempt(transport, 0, 0, ATTEMPT, |_| async { Ok(()) })
            .await?;
        Ok(found)
    }

    /// The relay's addresses.
    ///
    /// # Errors
    /// [`ConnectionError::Resolve`].
    pub(crate) async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectionError> {
        self.way.addresses().await
    }

    /// Tries once for a better way, while another one is in use.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub(crate) async fn probe<T, G, F>(
        &self,
        slot: usize,
        greet: G,
    ) -> Result<(Dialed, T), ConnectionError>
    where
        G: Fn(Session) -> F,
        F: Future<Output = Result<T, ConnectionError>>,
    {
        let transport = if self.mode.allows(Transport::Quic) {
            Transport::Quic
        } else {
            Transport::Tcp
        };

        // The flow that was there may be what does not get through.
        self.way.forget(slot);
        self.way.attempt(transport, slot, 0, PROBE, greet).await
    }

    /// A connection of this slot broke: the next one is made on another socket.
    pub(crate) fn reset_sockets(&self, slot: usize) {
        self.way.forget(slot);
    }

    /// The transports of an attempt, with how long each waits for the one before.
    fn order(&self, attempt: u32) -> Vec<(Transport, Duration)> {
        let tcp_first = self.tcp_leads.load(Ordering::Relaxed);
        let order = if tcp_first {
            [Transport::Tcp, Transport::Quic]
        } else {
            [Transport::Quic, Transport::Tcp]
        };

        let wait = if attempt == 0 {
            HEAD_START
        } else {
            HEAD_START_LATER
        };

        let allowed = order
            .into_iter()
            .filter(|transport| self.mode.allows(*transport));

        allowed
            .enumerate()
            .map(|(place, transport)| (transport, if place == 0 { Duration::ZERO } else { wait }))
            .collect()
    }
}

impl DialTarget {
    async fn attempt<T, G, F>(
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

    /// The relay's addresses, in an order that does not change from one look-up to the next.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectionError> {
        let failed = |source| ConnectionError::Resolve {
            address: self.address.clone(),
            source,
        };

        // Every name below `localhost` is this machine (RFC 6761 §6.3), which not every resolver
        // knows.
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

    /// The address of an attempt: at first the wanted one, then the others. With its place after
    /// the wanted one, and how many there are.
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
            Err(error) if quic::is_wrong_key(&error) => {
                Err(ConnectionError::WrongKey(self.address.clone()))
            }
            Err(quinn::ConnectionError::TimedOut) => Err(ConnectionError::Silent {
                address: self.address.clone(),
                transport: Transport::Quic,
            }),
            Err(error) => Err(ConnectionError::Session(error.into())),
        }
    }

    fn forget(&self, slot: usize) {
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

        let endpoint = quic::client(local, self.pin, self.liveness)?;
        endpoints.insert(key, endpoint.clone());
        Ok(endpoint)
    }

    async fn over_tcp(&self, slot: usize, attempt: usize) -> Result<Dialed, ConnectionError> {
        let (way, local, peer, place, addresses) = match self.proxies.of(&self.address) {
            // The proxy finds the name; there is one way through it.
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

                // Without it, heads wait for acknowledgements.
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

        // Where an address can't be asked for, nothing is known of it.
        let local = local.filter(|local| is_ours(*local));
        Ok(Dialed {
            session,
            address_offset: place,
            addresses,
            endpoint: None,
            local,
        })
    }

    fn tls(&self, error: io::Error) -> ConnectionError {
        let address = self.address.clone();
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            Some(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )) => ConnectionError::WrongKey(address),
            // TLS alerts of servers that are no relay.
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
