//! Errors of sessions and streams, for both transports.

use crate::protocol::frame::FrameError;
use hookward_core::text::Escaped;

/// End of a session, and the party that ended it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The peer closed it, with this reason.
    #[error("the peer closed the tunnel: {0}")]
    ClosedByPeer(String),
    /// The connection was lost.
    #[error("the tunnel broke: {0}")]
    Lost(String),
}

/// Failure to read or write a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer aborted the message.
    #[error("the peer aborted the message")]
    Aborted,
    /// The session was lost.
    #[error("the tunnel broke: {0}")]
    Lost(String),
    /// The peer violates the protocol.
    #[error("protocol error of the peer: {0}")]
    Protocol(String),
    /// A message exceeds its maximum size.
    #[error("the message has {0} bytes, more than the maximum of {1}")]
    TooLarge(usize, usize),
}

impl From<FrameError> for StreamError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(_) => Self::Aborted,
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(_) => Self::Aborted,
            other => Self::Lost(other.to_string()),
        }
    }
}

impl From<h2::Error> for StreamError {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() {
            Self::Aborted
        } else {
            Self::Lost(error.to_string())
        }
    }
}

impl From<SessionError> for StreamError {
    fn from(error: SessionError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<quinn::ConnectionError> for SessionError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::ApplicationClosed(close) => {
                Self::ClosedByPeer(Escaped(&close.reason).to_string())
            }
            // The reason may contain text of the peer.
            other => Self::Lost(Escaped(other.to_string().as_bytes()).to_string()),
        }
    }
}
