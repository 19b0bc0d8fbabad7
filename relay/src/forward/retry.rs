//! Decides whether a request whose forwarding failed may be sent over another session.

use std::sync::Arc;

use hookward_core::reason::Code;
use hookward_tunnel::transport::StreamError;

use crate::forward::ForwardError;
use crate::sessions::active::ActiveSession;

/// History of a request's forwarding attempts.
#[derive(Default)]
pub(super) struct RetryState {
    last: Option<ForwardError>,
    /// The session to which it was sent whole, and whose end came before an answer: its run of the
    /// agent knows whether the application has heard of it.
    lost: Option<(ForwardError, Arc<ActiveSession>)>,
    /// Sessions whose application took no connection: their runs know no other.
    unreachable: Vec<Arc<ActiveSession>>,
}

impl RetryState {
    /// Takes an error in; whether another session may be tried.
    pub(super) fn should_retry(&mut self, error: ForwardError, live: &Arc<ActiveSession>) -> bool {
        let goes_on = match &error {
            ForwardError::NoStream | ForwardError::Offline(_) => true,
            ForwardError::Tunnel(StreamError::Lost(_)) => {
                self.lost = Some((error, Arc::clone(live)));
                return true;
            }
            ForwardError::Failed(failure) if failure.code == Code::UpstreamUnreachable => {
                self.unreachable.push(Arc::clone(live));
                live.is_pooled()
            }
            _ => false,
        };

        self.last = Some(error);
        goes_on
    }

    /// Returns `true` if a connection failed, and the agent may be dialing a new one.
    pub(super) const fn is_connection_loss(&self) -> bool {
        self.lost.is_some() || matches!(self.last, Some(ForwardError::Offline(_)))
    }

    pub(super) fn allows(&self, session: &ActiveSession) -> bool {
        self.lost
            .as_ref()
            .is_none_or(|(_, other)| other.is_same_instance(session))
            && !self
                .unreachable
                .iter()
                .any(|other| other.is_same_instance(session))
    }

    /// The error for the sender. That the application may have heard of it outweighs the rest.
    pub(super) fn into_error(self) -> ForwardError {
        let broke = self.lost.map(|(error, _)| error);
        // What the agent said later is the truth about it.
        let said = self
            .last
            .filter(|last| broke.is_none() || matches!(last, ForwardError::Failed(_)));
        said.or(broke)
            .unwrap_or_else(|| ForwardError::Offline("no agent is connected".to_owned()))
    }
}
