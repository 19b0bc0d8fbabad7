//! Failure to get a response.

use hookward_core::reason::{Code, Refusal};
use hookward_tunnel::protocol::head::ExchangeFailure;
use hookward_tunnel::transport::StreamError;
use std::time::Duration;

use crate::observe::outcome::{Failure, Reporter, Verdict};

/// Failure to get a response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// All of the agent's streams are in use.
    #[error("all of the agent's streams are in use")]
    NoStream,
    #[error("the agent left: {0}")]
    Offline(String),
    /// The tunnel or the agent aborted the exchange.
    #[error("the agent aborted the exchange: {0}")]
    Tunnel(StreamError),
    /// The tunnel accepted no data for this time.
    #[error("the tunnel accepted no data for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The relay stops before the response.
    #[error("the relay is stopping, and the application has not responded")]
    Stopping,
    /// No response head arrived within this time.
    #[error("no response within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The sender's body failed.
    #[error("{}", .0.reason)]
    Body(Refusal),
    /// The agent reported a failure.
    #[error("{}", .0.code.title())]
    Failed(ExchangeFailure),
}

impl ForwardError {
    /// Returns the error code of the response.
    #[must_use]
    pub(crate) const fn code(&self) -> Code {
        match self {
            Self::NoStream => Code::Overloaded,
            Self::Offline(_) => Code::AgentOffline,
            Self::Tunnel(_) | Self::Stalled(_) | Self::Stopping => Code::TunnelError,
            Self::Timeout(_) => Code::UpstreamTimeout,
            Self::Body(refusal) => refusal.code,
            Self::Failed(failure) => failure.code,
        }
    }
}

impl From<ForwardError> for Verdict {
    fn from(error: ForwardError) -> Self {
        let (code, reason) = (error.code(), error.to_string());
        match error {
            // A fault of the sender while forwarding is a refusal like any other.
            ForwardError::Body(refusal) => Self::Refused(refusal),
            ForwardError::Failed(failure) if failure.status.is_client_error() => {
                Self::RefusedByAgent {
                    code,
                    status: failure.status,
                }
            }
            ForwardError::Failed(failure) => Self::Failed(Failure {
                code,
                status: failure.status,
                reason,
                reported_by: Reporter::Agent,
            }),
            _ => Self::Failed(Failure {
                code,
                status: code.status(),
                reason,
                reported_by: Reporter::Relay,
            }),
        }
    }
}
