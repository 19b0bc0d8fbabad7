//! Reason why there is no session.

use hookward_tunnel::protocol::control::RefusedReason;
use hookward_tunnel::transport::identity::Pin;
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
    /// The relay does not respond.
    #[error("the relay {address} does not answer over {}", over(*.transport))]
    Silent {
        /// Address as written.
        address: String,
        /// Transport that timed out.
        transport: Transport,
    },
    /// The connection failed.
    #[error("the relay {address} can't be reached over TCP: {source}")]
    Connect {
        /// Address as written.
        address: String,
        /// Error of the system.
        source: io::Error,
    },
    /// An HTTP proxy refused, or could not be reached.
    #[error("the proxy {proxy}: {what}")]
    Proxy {
        /// Address of the proxy.
        proxy: String,
        /// Description of the failure.
        what: String,
    },
    /// No transport works.
    #[error("{0}; and {1}")]
    Both(Box<Self>, Box<Self>),
    /// rustls rejected the TLS settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The relay refused a new policy of a tunnel, and kept the old one.
    #[error("the relay does not accept a new policy; the previous one stays in force")]
    PolicyKept,
    /// The relay refused a credential, and another one may be valid.
    #[error("the relay knows the agent by a renewed credential; the agent connects again")]
    CredentialReplaced,
    /// The server at the relay's address has another key.
    #[error(
        "the server at {address} is not the relay that this agent has joined: its key differs from {expected}. A third \
         party may be in between. If the relay was set up anew, join it again with a new token{}",
        remedy(found)
    )]
    WrongKey {
        /// Address as written.
        address: String,
        /// Pin of the joined relay.
        expected: Pin,
        /// Pin of the server's key.
        found: Option<Pin>,
    },
    /// The server at the relay's address is not a relay.
    #[error(
        "the TLS server at {0} is not a relay: it does not speak the tunnel's protocol. Another server has the \
         port, or a proxy that opens TLS is in between"
    )]
    NoRelay(String),
    /// The connection failed.
    #[error("{0}")]
    Session(#[from] SessionError),
    /// The control stream failed.
    #[error("{0}")]
    Stream(#[from] StreamError),
    /// The task of the tunnel ended through a bug of this program.
    #[error("the tunnel's task ended: {0}")]
    Ended(String),
    /// The relay refused.
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

/// Returns the command that accepts another key.
fn remedy(found: &Option<Pin>) -> String {
    found.map_or(String::new(), |pin| {
        format!(
            ". If only its key has changed, compare {pin} with `hookward-relay status` there, and accept it: hookward \
             pin add {pin}"
        )
    })
}
