//! Transport between relay and agent: a [`Session`] opens and accepts streams in the same way over
//! QUIC and over TLS on TCP.
//!
//! Only this module uses sockets. [`identity`] is the relay's pinned key; [`quic`] and [`tcp`] are
//! the transports with their limits; [`liveness`] defines dead paths. [`stream`] has the two halves
//! of an exchange, with a guard that aborts unfinished messages; `write_priority` lets small
//! messages pass large ones. [`body`] adapts a message's body to hyper, and [`splice`] carries
//! upgraded connections.

pub mod body;
pub mod error;
mod halves;
pub mod identity;
pub mod liveness;
pub mod quic;
pub mod splice;
pub mod stream;
pub mod tcp;
mod write_priority;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::task::TaskTracker;

use self::halves::{RecvHalf, SendHalf};
use self::liveness::Liveness;
use self::write_priority::WritePriority;
use hookward_core::limits::TUNNEL_STREAMS;

pub use body::MessageBody;
pub use error::{SessionError, StreamError};
pub use stream::{ControlReader, ControlStream, ControlWriter, MessageReader, MessageWriter};

/// Transport of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC over UDP (RFC 9000).
    Quic,
    /// TLS over TCP, on the edge's port.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        })
    }
}

/// Measurements of the network path of a QUIC connection.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PathStats {
    /// Smoothed round-trip time, in milliseconds.
    pub rtt_ms: f64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Packets that were lost.
    pub lost_packets: u64,
    /// Times at which the congestion window was reduced.
    pub congestion_events: u64,
    /// Congestion window, in bytes.
    pub congestion_window_bytes: u64,
    /// Maximum size of a datagram, in bytes.
    pub mtu_bytes: u16,
}

/// A connection between a relay and an agent.
#[derive(Clone)]
pub struct Session {
    connection: SessionTransport,
    /// Order of writers over QUIC. HTTP/2 would not help: its reserved capacity stays reserved even
    /// if its owner waits.
    order: Option<Arc<WritePriority>>,
}

#[derive(Clone)]
enum SessionTransport {
    Quic(quinn::Connection),
    Tcp(Arc<tcp::H2Link>),
}

impl Session {
    /// Creates a session over QUIC.
    #[must_use]
    pub fn over_quic(connection: quinn::Connection) -> Self {
        Self {
            connection: SessionTransport::Quic(connection),
            order: Some(Arc::default()),
        }
    }

    /// Creates the relay's side of a session over TLS on TCP. `tasks` owns its driver.
    ///
    /// # Errors
    /// If the connection fails before it is open.
    pub async fn over_tcp_at_relay(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        liveness: Liveness,
        tasks: &TaskTracker,
    ) -> Result<Self, SessionError> {
        let link = tcp::relay_side(stream, peer, liveness, tasks).await?;
        Ok(Self {
            connection: SessionTransport::Tcp(Arc::new(link)),
            order: None,
        })
    }

    /// Creates the agent's side of a session over TLS on TCP.
    ///
    /// # Errors
    /// If the connection fails before it is open.
    pub async fn over_tcp_at_agent(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        liveness: Liveness,
        tasks: &TaskTracker,
    ) -> Result<Self, SessionError> {
        let link = tcp::agent_side(stream, peer, liveness, tasks).await?;
        Ok(Self {
            connection: SessionTransport::Tcp(Arc::new(link)),
            order: None,
        })
    }

    /// Returns the transport.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        match self.connection {
            SessionTransport::Quic(_) => Transport::Quic,
            SessionTransport::Tcp(_) => Transport::Tcp,
        }
    }

    /// Raises the limits for an authenticated peer to those of a tunnel.
    pub fn trust(&self) {
        match &self.connection {
            SessionTransport::Quic(connection) => {
                connection.set_receive_window(quinn::VarInt::from_u32(quic::CONNECTION_WINDOW));
            }
            SessionTransport::Tcp(link) => link.trust(),
        }
    }

    /// Lets the relay open as many streams as a tunnel has, on the agent's side.
    pub fn serve(&self) {
        if let SessionTransport::Quic(connection) = &self.connection {
            connection.set_max_concurrent_bi_streams(quinn::VarInt::from_u32(TUNNEL_STREAMS));
        }
    }

    /// Opens a stream for an exchange. Waits while all of the peer's streams are in use.
    ///
    /// # Errors
    /// If the session has ended.
    pub async fn open(&self) -> Result<(MessageWriter, MessageReader), SessionError> {
        let (send, recv) = self.open_halves().await?;
        Ok((
            MessageWriter::new(send, self.order.clone()),
            MessageReader::new(recv),
        ))
    }

    /// Accepts the next stream of the peer for an exchange.
    ///
    /// # Errors
    /// If the session has ended.
    pub async fn accept(&self) -> Result<(MessageWriter, MessageReader), SessionError> {
        let (send, recv) = self.accept_halves().await?;
        Ok((
            MessageWriter::new(send, self.order.clone()),
            MessageReader::new(recv),
        ))
    }

    /// Opens the control stream, the first of the session. Over QUIC the agent opens it; over TCP the
    /// relay, which opens all streams there.
    ///
    /// # Errors
    /// If the session has ended.
    pub async fn open_control(&self) -> Result<ControlStream, SessionError> {
        let (send, recv) = match &self.connection {
            SessionTransport::Tcp(link) if link.takes() => self.accept_halves().await?,
            _ => self.open_halves().await?,
        };
        Ok(ControlStream::new(send, recv))
    }

    /// Accepts the control stream on the relay's side.
    ///
    /// # Errors
    /// If the session has ended.
    pub async fn accept_control(&self) -> Result<ControlStream, SessionError> {
        let (send, recv) = match &self.connection {
            SessionTransport::Tcp(link) if !link.takes() => self.open_halves().await?,
            _ => self.accept_halves().await?,
        };
        Ok(ControlStream::new(send, recv))
    }

    async fn open_halves(&self) -> Result<(SendHalf, RecvHalf), SessionError> {
        match &self.connection {
            SessionTransport::Quic(connection) => {
                let (send, recv) = connection.open_bi().await?;
                Ok((SendHalf::Quic(send), RecvHalf::Quic(recv)))
            }
            SessionTransport::Tcp(link) => link.open().await,
        }
    }

    async fn accept_halves(&self) -> Result<(SendHalf, RecvHalf), SessionError> {
        match &self.connection {
            SessionTransport::Quic(connection) => {
                let (send, recv) = connection.accept_bi().await?;
                Ok((SendHalf::Quic(send), RecvHalf::Quic(recv)))
            }
            SessionTransport::Tcp(link) => link.accept().await,
        }
    }

    /// Resolves when the session has ended.
    pub async fn closed(&self) -> SessionError {
        match &self.connection {
            SessionTransport::Quic(connection) => connection.closed().await.into(),
            SessionTransport::Tcp(link) => link.closed().await,
        }
    }

    /// Ends the session; over QUIC, sends the reason to the peer.
    pub fn close(&self, reason: &str) {
        match &self.connection {
            SessionTransport::Quic(connection) => {
                connection.close(CLOSED.into(), reason.as_bytes())
            }
            SessionTransport::Tcp(link) => link.close(),
        }
    }

    /// Returns the peer's address, for logs.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        match &self.connection {
            SessionTransport::Quic(connection) => connection.remote_address(),
            SessionTransport::Tcp(link) => link.peer(),
        }
    }

    /// Returns a counter that grows with all data received from the peer.
    #[must_use]
    pub fn received(&self) -> u64 {
        match &self.connection {
            SessionTransport::Quic(connection) => connection.stats().udp_rx.datagrams,
            SessionTransport::Tcp(link) => link.received(),
        }
    }

    /// Returns the smoothed round-trip time of the path; `None` over TCP, where the kernel has it.
    #[must_use]
    pub fn rtt(&self) -> Option<Duration> {
        match &self.connection {
            SessionTransport::Quic(connection) => Some(connection.rtt()),
            SessionTransport::Tcp(_) => None,
        }
    }

    /// Returns the measurements of the path; `None` over TCP, where the kernel has them.
    #[must_use]
    pub fn path_stats(&self) -> Option<PathStats> {
        let SessionTransport::Quic(connection) = &self.connection else {
            return None;
        };
        let path = connection.stats().path;
        Some(PathStats {
            rtt_ms: path.rtt.as_secs_f64() * 1000.0,
            sent_packets: path.sent_packets,
            lost_packets: path.lost_packets,
            congestion_events: path.congestion_events,
            congestion_window_bytes: path.cwnd,
            mtu_bytes: path.current_mtu,
        })
    }

    /// Returns the maximum datagram size known for the path, in bytes; `None` over TCP.
    #[must_use]
    pub fn path_mtu(&self) -> Option<u16> {
        match &self.connection {
            SessionTransport::Quic(connection) => Some(connection.stats().path.current_mtu),
            SessionTransport::Tcp(_) => None,
        }
    }

    /// Returns the average number of datagrams per send call: 6 to 10 with segmentation offload,
    /// 1.0 without. `None` over TCP.
    #[must_use]
    pub fn datagrams_per_send(&self) -> Option<f64> {
        match &self.connection {
            SessionTransport::Quic(connection) => {
                let sent = connection.stats().udp_tx;
                Some(sent.datagrams as f64 / (sent.ios.max(1) as f64))
            }
            SessionTransport::Tcp(_) => None,
        }
    }
}

/// Code of a deliberate close.
const CLOSED: u32 = 0;
