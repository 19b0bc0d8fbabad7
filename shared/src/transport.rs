//! Moving bytes between relay and agent: a [`Session`] that opens and accepts streams, over QUIC.
//!
//! The only part of this crate that touches a socket. [`identity`] is who the relay is and how an
//! agent knows it, [`quic`] the endpoints and their bounds, [`stream`] the halves of an exchange
//! with the guard that makes an unfinished message an abort, [`body`] a message's body for hyper,
//! [`splice`] what carries an upgraded connection.

pub mod body;
pub mod identity;
pub mod quic;
pub mod splice;
pub mod stream;

use std::net::SocketAddr;

pub use body::MessageBody;
pub use stream::{ControlStream, MessageReader, MessageWriter, StreamError};

/// One authenticated connection between a relay and an agent.
#[derive(Clone)]
pub struct Session {
    connection: quinn::Connection,
}

/// Why a session ended, and who ended it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The other side closed it, and said why.
    #[error("the other side closed the tunnel: {0}")]
    ClosedByPeer(String),
    /// The other side is gone.
    #[error("the tunnel broke: {0}")]
    Lost(String),
}

/// Code with which a session is closed on purpose.
const CLOSED: u32 = 0;

impl Session {
    /// A session over this connection.
    #[must_use]
    pub const fn new(connection: quinn::Connection) -> Self {
        Self { connection }
    }

    /// Opens a stream for an exchange. Waits while all of the peer's streams are in use.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn open(&self) -> Result<(MessageWriter, MessageReader), SessionError> {
        let (send, recv) = self.connection.open_bi().await.map_err(SessionError::from)?;
        Ok((MessageWriter::new(send), MessageReader::new(recv)))
    }

    /// Takes the next stream that the peer opened for an exchange.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn accept(&self) -> Result<(MessageWriter, MessageReader), SessionError> {
        let (send, recv) = self.connection.accept_bi().await.map_err(SessionError::from)?;
        Ok((MessageWriter::new(send), MessageReader::new(recv)))
    }

    /// Opens the control stream: the agent's first.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn open_control(&self) -> Result<ControlStream, SessionError> {
        let (send, recv) = self.connection.open_bi().await.map_err(SessionError::from)?;
        Ok(ControlStream::new(send, recv))
    }

    /// Takes the control stream: the first that the agent opened.
    ///
    /// # Errors
    /// When the session has ended.
    pub async fn accept_control(&self) -> Result<ControlStream, SessionError> {
        let (send, recv) = self.connection.accept_bi().await.map_err(SessionError::from)?;
        Ok(ControlStream::new(send, recv))
    }

    /// Resolves when the session has ended.
    pub async fn closed(&self) -> SessionError {
        self.connection.closed().await.into()
    }

    /// Ends the session; the peer is told why.
    pub fn close(&self, why: &str) {
        self.connection.close(CLOSED.into(), why.as_bytes());
    }

    /// The peer's address, for logs.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Datagrams that one send call took to the kernel, on average: 6 to 10 with segmentation
    /// offload, 1.0 without.
    #[must_use]
    pub fn datagrams_per_send(&self) -> f64 {
        let sent = self.connection.stats().udp_tx;
        sent.datagrams as f64 / (sent.ios.max(1) as f64)
    }
}

impl From<quinn::ConnectionError> for SessionError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => {
                Self::ClosedByPeer(crate::text::Escaped(&close.reason).to_string())
            }
            // The reason may be the peer's own words.
            other => Self::Lost(crate::text::Escaped(other.to_string().as_bytes()).to_string()),
        }
    }
}
