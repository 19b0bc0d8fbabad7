//! Reason why there is no session.

use hookward_tunnel::protocol::control::RefusedReason;
use hookward_tunnel::transport::quic::EndpointError;
use hookward_tunnel::transport::{SessionError, StreamError, Transport};
use std::io;

/// Reason why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The relay's name has no address.
    #[error("the relay {address} can't be found: {source}")]
    Resolve {
        /// Address as written.
        address: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The UDP socket or TLS settings failed.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The relay does not answer.
    #[error("the relay {address} does not answer over {}", over(*.transport))]
    Silent {
        /// Address as written.
        address: String,
        /// Transport that timed out.
        transport: Transport,
    },
    /// A connection to it can't be made.
    #[error("the relay {address} can't be reached over TCP: {source}")]
    Connect {
        /// Address as written.
        address: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The proxy on the way to it.
    /// An HTTP proxy refused, or could not be reached.
    #[error("the proxy {proxy}: {what}")]
    Proxy {
        /// Address of the proxy.
        proxy: String,
        /// Description of the failure.
        what: String,
    },
    /// No transport gets through.
    #[error("{0}; and {1}")]
    Both(Box<Self>, Box<Self>),
    /// The settings of TLS.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The relay does not take a new policy of a tunnel, which has another one.
    #[error("the relay does not take a new policy; the old one stays in force")]
    PolicyKept,
    /// Somebody else answers at the relay's address.
    #[error(
        "whoever answers at {0} is not the relay that this agent has joined: its key is another. If the relay was \
         set up anew, join it again with a new token; if not, a third party is in between"
    )]
    WrongKey(String),
    /// Another kind of server answers at the relay's address.
    #[error(
        "whoever answers at {0} over TLS is no relay: it does not know the tunnel's protocol. Another server has the \
         port, or a proxy that opens TLS is in between"
    )]
    NoRelay(String),
    /// The connection could not be made, or broke.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The control stream broke.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// The task that keeps the tunnel is gone, by a mistake of this program.
    #[error("the tunnel's task ended: {0}")]
    Ended(String),
    /// The relay said no.
    #[error("the relay refused: {message}")]
    Refused {
        /// Reason, as a stable code.
        reason: RefusedReason,
        /// Reason, as text.
        message: String,
    },
}

pub(super) const fn over(transport: Transport) -> &'static str {
    match transport {
        Transport::Quic => "QUIC; is UDP let through to it?",
        Transport::Tcp => "TCP",
    }
}

impl ConnectionError {
    /// Returns `true` if dialing again can't help.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { reason, .. } if !matches!(reason, RefusedReason::Unavailable | RefusedReason::Other))
    }
}
