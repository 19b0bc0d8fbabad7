//! Decides if a request whose forwarding failed may be sent over another session.

use std::sync::Arc;

use hookward_core::reason::Code;
use hookward_tunnel::transport::StreamError;

use crate::forward::ForwardError;
use crate::sessions::active::ActiveSession;

/// History of a request's forwarding attempts.
#[derive(Default)]
pub(super) struct RetryState {
    last: Option<ForwardError>,
    /// The session that got the whole request and was lost before the response. Its instance of the
    /// agent knows if the request has reached the application.
    lost: Option<(ForwardError, Arc<ActiveSession>)>,
    /// Sessions whose application was unreachable; their instances have no other.
    unreachable: Vec<Arc<ActiveSession>>,
}

impl RetryState {
    /// Records an error. Returns `true` if another session may be tried.
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

    /// Returns the error for the sender. An application that may have got the request outweighs the
    /// rest.
    pub(super) fn into_error(self) -> ForwardError {
        let broke = self.lost.map(|(error, _)| error);
        // A later report of the agent is more precise.
        let reported = self
            .last
            .filter(|last| broke.is_none() || matches!(last, ForwardError::Failed(_)));
        reported
            .or(broke)
            .unwrap_or_else(|| ForwardError::Offline("no agent is connected".to_owned()))
    }
}
