//! Requests of the tunnel's owner: the agent's user sends a captured request, or a sample, to the
//! application. They pass the agent's gate like all others, but need no proof of a sender.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hookward_core::headers::passes_to_sender;
use hookward_core::limits::Limits;
use hookward_core::reason::{Check, Refusal};
use hookward_core::text::shown_path;
use hookward_gate::engine::{Request, RequestHead};
use hookward_tunnel::protocol::control::Deadlines;
use hookward_tunnel::protocol::head::{ExchangeRequest, HeaderCase, RequestId, RequestMeta};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::{ExchangeError, PermitFacts, TunnelBinding, trace_of};
use crate::events::{Event, RequestEvent, RequestResult};
use crate::inspector::capture::{Source, Tap};
use crate::upstream::UpstreamBody;

/// Maximum number of bytes of a response that are read; the rest is not needed.
const RESPONSE_BYTES: usize = 1024 * 1024;

/// Maximum time for reading a response.
const RESPONSE_TIME: std::time::Duration = std::time::Duration::from_secs(30);

/// A request of the tunnel's owner.
pub(crate) struct OwnerRequest {
    pub method: Method,
    /// Path and query.
    pub target: Bytes,
    pub headers: HeaderMap,
    pub header_case: HeaderCase,
    pub body: Bytes,
    /// Client address of the captured request, which the application gets.
    pub client: IpAddr,
    pub source: Source,
}

/// Result of a request of the tunnel's owner.
pub(crate) struct OwnerResponse {
    /// Id of the request.
    pub id: RequestId,
    /// Status of the response.
    pub status: StatusCode,
}

/// Reason why a request of the tunnel's owner has no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnerRequestError {
    /// The policy does not allow it.
    #[error("the agent's gate refuses it by {0}: {1}")]
    Refused(Check, String),
    /// The application gave no response.
    #[error("{0}")]
    Failed(String),
    /// The system has no random numbers for an id.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl From<Refusal> for OwnerRequestError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal.check, refusal.reason)
    }
}

impl TunnelBinding {
    /// Sends a request of the tunnel's owner to the application, and captures it.
    ///
    /// # Errors
    /// [`OwnerRequestError`].
    pub(crate) async fn send_for_owner(
        &self,
        request: OwnerRequest,
    ) -> Result<OwnerResponse, OwnerRequestError> {
        let OwnerRequest {
            method,
            target,
            mut headers,
            header_case,
            body,
            client,
            source,
        } = request;
        // The application may choose a site by it.
        let authority = self
            .origin
            .split_once("://")
            .map_or(&*self.host, |(_, host)| host);
        headers.remove(header::HOST);
        if let Ok(host) = HeaderValue::from_str(authority) {
            headers.insert(header::HOST, host);
        }

        let head = RequestHead {
            method: &method,
            target: &target,
            headers: &headers,
            origin: &self.origin,
        };
        let permit = self
            .gate
            .current()
            .permit_by_owner(&Request::new(head, &body))?;

        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let id = RequestId(id);
        let exchange = ExchangeRequest {
            meta: RequestMeta {
                id,
                host: Bytes::copy_from_slice(self.host.as_bytes()),
                client,
                keys: hookward_core::fetched_keys::FetchedKeys::default(),
                delivery: None,
                timing: None,
            },
            method,
            target,
            length: Some(body.len() as u64),
            trailers: false,
            upgrade: false,
            headers,
            header_case,
        };
        let handler = &self.handler;
        let _counted = handler.in_flight.begin();
        let now = handler.clock.now();
        let tunnel = (&self.host, &self.origin);
        let tap = handler
            .capture
            .begin(&exchange, tunnel, &self.gate.policy(), (now, source));
        tap.whole_request(&body);
        tap.permitted();

        let event = RequestEvent {
            id,
            host: Arc::clone(&self.host),
            method: exchange.method.clone(),
            path: shown_path(&exchange.target).into_owned(),
            client,
            trace: trace_of(&exchange.headers),
            took: std::time::Duration::ZERO,
            outcome: RequestResult::Aborted,
        };
        let deadlines = Deadlines::of(&Limits::default());
        let since = Instant::now();
        let asked = handler
            .ask(
                deadlines,
                &permit,
                exchange,
                UpstreamBody::Whole(Full::new(body)),
            )
            .await;
        let took = since.elapsed();

        let report = |outcome: RequestResult| {
            let event = RequestEvent {
                took,
                outcome,
                ..event
            };
            tap.outcome(&event);
            handler.events.observe(&event);
            handler.events.emit(Event::Request(Box::new(event)));
        };
        match asked {
            Ok((response, connection)) => {
                let PermitFacts {
                    observed,
                    route,
                    checks,
                    secrets,
                } = PermitFacts::of(&permit);
                let status = response.status();
                report(RequestResult::Answered {
                    status: status.as_u16(),
                    observed,
                    route,
                    checks,
                    secrets,
                });
                let (parts, body) = response.into_parts();
                let mut shown = parts.headers;
                let hidden: Vec<_> = shown
                    .keys()
                    .filter(|name| !passes_to_sender(name))
                    .cloned()
                    .collect();
                for name in hidden {
                    shown.remove(name);
                }
                tap.response(status, &shown);
                let reading = timeout(RESPONSE_TIME, read(body, &tap, deadlines));
                if reading.await.unwrap_or_default() {
                    handler.pool.put_back(connection).await;
                }
                Ok(OwnerResponse { id, status })
            }
            Err(error) => {
                let (outcome, error) = failure(error);
                report(outcome);
                Err(error)
            }
        }
    }
}

/// Reads the body of a response. Returns `true` if all of it was read.
async fn read(mut body: Incoming, tap: &Tap, deadlines: Deadlines) -> bool {
    let mut left = RESPONSE_BYTES;
    while let Ok(next) = timeout(deadlines.body_idle(), body.frame()).await {
        let Some(frame) = next else {
            tap.response_ended();
            return true;
        };
        let Ok(frame) = frame else { return false };
        let Some(data) = frame.data_ref() else {
            continue;
        };
        tap.response_data(data);
        match left.checked_sub(data.len()) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    false
}

/// Returns the result for the events, and the error for the user.
fn failure(error: ExchangeError) -> (RequestResult, OwnerRequestError) {
    match error {
        ExchangeError::Refused(refusal) => (
            RequestResult::Refused {
                status: refusal.status.as_u16(),
                check: refusal.check,
                reason: refusal.reason.clone(),
            },
            refusal.into(),
        ),
        ExchangeError::Failed(code, reason) => (
            RequestResult::Failed {
                status: code.status().as_u16(),
                code,
                reason: reason.clone(),
            },
            OwnerRequestError::Failed(reason),
        ),
        ExchangeError::Challenge(_) | ExchangeError::Completed(_) | ExchangeError::Aborted => (
            RequestResult::Aborted,
            OwnerRequestError::Failed("the application closed the connection".to_owned()),
        ),
    }
}
