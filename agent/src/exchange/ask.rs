//! Sends a permitted request to the application.

use std::pin::pin;

use hookward_core::reason::{Code, Refusal};
use hookward_gate::engine::Permit;
use hookward_tunnel::protocol::control::Deadlines;
use hookward_tunnel::protocol::head;
use http::Response;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{ExchangeError, ExchangeHandler};
use crate::upstream::pool::{PooledConnection, UpstreamError};
use crate::upstream::{self, UpstreamBody};

impl ExchangeHandler {
    /// Sends a permitted request to the application, and waits for the head of its response.
    pub(super) async fn ask(
        &self,
        deadlines: Deadlines,
        permit: &Permit,
        request: head::ExchangeRequest,
        body: UpstreamBody,
    ) -> Result<(Response<Incoming>, PooledConnection), ExchangeError> {
        let patience = permit.settings().answer_timeout;
        let sent = body.progress();
        let request = upstream::request(
            permit,
            request,
            body,
            &self.header_case,
            self.pool.application(),
        )
        .map_err(|error| ExchangeError::Refused(Refusal::malformed(error.to_string())))?;

        let answers = self.pool.answers();
        let mut asking = pin!(self.pool.send(request));
        // A large upload may take its time while it makes progress: the timeout for the response
        // starts at its end.
        let answered = loop {
            let patience = if sent.is_over() {
                patience
            } else {
                deadlines.body_idle().max(patience)
            };
            tokio::select! {
                answered = timeout(patience, asking.as_mut()) => break answered,
                () = sent.changed() => {}
            }
        };

        match answered {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(error)) => Err(self.upstream_failure(error, answers)),
            Err(_) => {
                self.pool.note_silence(patience, answers);
                let reason = format!(
                    "the application did not answer within {} s",
                    patience.as_secs_f64()
                );
                Err(ExchangeError::Failed(Code::UpstreamTimeout, reason))
            }
        }
    }

    /// Returns the failure of an exchange with the application, which had given this number of
    /// `answers` before.
    fn upstream_failure(&self, error: UpstreamError, answers: u64) -> ExchangeError {
        match error {
            UpstreamError::Connect { .. } => {
                let next = if self.pooled {
                    "; another agent of the pool gets it, if there is one"
                } else {
                    ""
                };
                ExchangeError::Failed(Code::UpstreamUnreachable, format!("{error}{next}"))
            }
            UpstreamError::Aborted(error) if error.is_user() => ExchangeError::Aborted,
            error => {
                // An application that speaks https closes a clear-text connection, with or without
                // a TLS alert.
                let application = self.pool.application();
                let broke = matches!(&error, UpstreamError::Aborted(_));
                let mistaken =
                    broke && answers == 0 && application.tls.is_none() && !application.http2;
                let hint = match mistaken {
                    true => format!("; does it speak https? Then use https://{application}"),
                    false => String::new(),
                };
                ExchangeError::Failed(Code::UpstreamError, format!("{error}{hint}"))
            }
        }
    }
}
