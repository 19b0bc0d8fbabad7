//! Connects to a relay: QUIC first, TLS over TCP a moment later; the first to be greeted wins (like
//! Happy Eyeballs, RFC 8305). Tries the transport that worked last first.

mod attempt;

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hookward_tunnel::transport::identity::Pins;
use hookward_tunnel::transport::{Session, Transport, tcp};
use quinn::Endpoint;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::task::TaskTracker;

use self::attempt::DialTarget;
use crate::relay_link::backoff::Backoff;
use crate::relay_link::{ConnectionError, LinkSettings, RelayEndpoint, TransportMode};

/// Dialer for one relay.
pub(crate) struct Dialer {
    way: Arc<DialTarget>,
    mode: TransportMode,
    /// `true` if TLS over TCP worked last.
    tcp_leads: AtomicBool,
}

/// Number of QUIC attempts before another socket is used. A flow that a firewall blocks does not
/// recover, but creating a socket with its buffers of 3 MiB every second would be expensive.
const ATTEMPTS_PER_SOCKET: usize = 5;

/// A connection to a relay.
pub(crate) struct Dialed {
    pub session: Session,
    /// Position of the address after the preferred one; 0 for the preferred one.
    pub address_offset: usize,
    /// Number of addresses of the relay's name.
    pub addresses: usize,
    /// QUIC endpoint, over QUIC.
    pub endpoint: Option<Endpoint>,
    /// Local address, over TCP. Only QUIC connections survive its change.
    pub local: Option<SocketAddr>,
}

impl Dialed {
    /// Returns `true` if this machine lost the connection's local address, as after a change of
    /// networks.
    #[must_use]
    pub(crate) fn lost_its_address(&self) -> bool {
        self.local.is_some_and(|local| !is_ours(local))
    }
}

/// Returns `true` if the machine has this address. The system knows, but does not notify a waiting
/// socket.
fn is_ours(mut local: SocketAddr) -> bool {
    local.set_port(0);
    !UdpSocket::bind(local).is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable)
}

impl Dialer {
    /// Creates a dialer for this relay. `tasks` owns the connection drivers.
    ///
    /// # Errors
    /// If rustls rejects the settings.
    pub(crate) fn new(
        relay: &RelayEndpoint,
        link: &LinkSettings,
        tasks: TaskTracker,
    ) -> Result<Self, ConnectionError> {
        let pins = Pins::new(relay.pin, relay.second_pin);
        let tls = tcp::client_tls(pins.clone())?;
        let address = relay.address.clone();
        let (liveness, proxies) = (link.liveness, link.proxies.clone());
        let way = DialTarget {
            endpoints: Mutex::default(),
            address,
            pins,
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

    /// Returns `true` if a better connection is possible: over QUIC, or to the preferred address.
    #[must_use]
    pub(crate) fn could_be_better(&self, found: &Dialed) -> bool {
        let quic = found.session.transport() == Transport::Quic;
        found.address_offset > 0 || !quic && self.mode.allows(Transport::Quic)
    }

    /// Sets the transport that is tried first.
    pub(crate) fn prefer(&self, transport: Transport) {
        self.tcp_leads
            .store(transport == Transport::Tcp, Ordering::Relaxed);
    }

    /// Dials until the relay greets back or refuses for good. `slot` selects the preferred one of the
    /// relay's addresses.
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

    /// Tries every transport once, with the timeout of an interactive command. Of several failures, a
    /// wrong key is reported first.
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

    /// Tries every transport once while another connection is in use. `place` is the position of the
    /// address after the slot's own one.
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
        // The existing flow may be the one that is blocked.
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
                    if error.is_final() || matches!(error, ConnectionError::WrongKey { .. }) =>
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

    /// Tries one transport once, with the timeout of an interactive command.
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

    /// Returns the relay's addresses.
    ///
    /// # Errors
    /// [`ConnectionError::Resolve`].
    pub(crate) async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectionError> {
        self.way.addresses().await
    }

    /// Tries once to get a better connection, while another one is in use.
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

        // The existing flow may be the one that is blocked.
        self.way.forget(slot);
        self.way.attempt(transport, slot, 0, PROBE, greet).await
    }

    /// Drops the socket of this slot after its connection failed, so that the next one uses a new
    /// socket.
    pub(crate) fn reset_sockets(&self, slot: usize) {
        self.way.forget(slot);
    }

    /// Returns the transports of an attempt, each with its delay.
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

/// Head start of the first transport. A handshake across the world takes less, and senders do not
/// wait longer for an agent.
const HEAD_START: Duration = Duration::from_millis(500);

/// Head start once an attempt has failed.
const HEAD_START_LATER: Duration = Duration::from_millis(100);

/// Timeout of an attempt that a user waits for.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Timeout of an attempt while a tunnel is open.
const PROBE: Duration = Duration::from_secs(5);
