//! Failure to get a response.

use crate::body::request::RequestBodyError;
use crate::body::sender::SendError;
use hookward_core::reason::Code;
use hookward_tunnel::protocol::head::ExchangeFailure;
use hookward_tunnel::transport::StreamError;
use std::time::Duration;

/// Failure to get a response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// All of the agent's streams are in use.
    #[error("all of the agent's streams are in use")]
    NoStream,
    #[error("the agent left: {0}")]
    Offline(String),
    /// The tunnel or the agent broke off.
    #[error("the agent aborted the exchange: {0}")]
    Tunnel(StreamError),
    /// The tunnel takes nothing.
    #[error("the tunnel took nothing for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The relay stops, and can't wait for the answer.
    #[error("the relay stops, and the application has not answered")]
    Stopping,
    /// No head of an answer in time.
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The sender's body broke off.
    #[error(transparent)]
    Body(RequestBodyError),
    /// The agent says why.
    #[error("the agent reported {}", .0.code)]
    Failed(ExchangeFailure),
}

impl ForwardError {
    /// The code of the answer.
    #[must_use]
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::NoStream => Code::Overloaded,
            Self::Offline(_) => Code::AgentOffline,
            Self::Tunnel(_) | Self::Stalled(_) | Self::Stopping => Code::TunnelError,
            Self::Timeout(_) => Code::UpstreamTimeout,
            Self::Body(error) => error.code(),
            Self::Failed(failure) => failure.code,
        }
    }
}

impl From<SendError> for ForwardError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Tunnel(error) => Self::Tunnel(error),
            SendError::Stalled(patience) => Self::Stalled(patience),
            SendError::Body(error) => Self::Body(error),
        }
    }
}
