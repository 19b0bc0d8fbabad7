//! Sends a permitted request through the tunnel and returns the response.
//!
//! Taking a [`Permit`] by value makes forwarding without the gate impossible. Request body and
//! response travel at the same time. This module sends the body until the response head arrives;
//! after that, the reader of the response body sends the rest. Nothing is spawned: when the sender
//! disconnects, dropping the future resets the stream.
//!
//! A lost connection costs no request that can be sent again. The agent knows which requests it
//! has begun to send to the application, and refuses those, so that none arrives twice. Another
//! instance of the agent cannot know, and only gets requests that certainly reached no application.

mod body_sender;
mod error;
mod request_body;
mod request_ids;
mod response_head;
mod retry;
pub(crate) mod upgrade;

use std::sync::Arc;
use std::time::Instant;

use hookward_core::limits::{Limits, RETRY_WINDOW, SMALL_BODY};
use hookward_gate::engine::Permit;
use hookward_tunnel::protocol::head::{ExchangeReply, ExchangeRequest};
use hookward_tunnel::transport::{MessageBody, MessageReader, MessageWriter, StreamError};
use http::header::{self as names};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use tokio::time::timeout;

use self::body_sender::{BodySender, passes, stream, with_timeout};
pub(crate) use self::error::ForwardError;
pub(crate) use self::request_body::RequestBody;
pub(crate) use self::request_ids::RequestIds;
use self::response_head::{read_head, remove_foreign_fields, set_length};
use crate::body::response::ResponseBody;
use crate::forward::retry::RetryState;
use crate::observe::outcome::UpstreamResult;
use crate::overload::load::LoadGuard;
use crate::sessions::active::ActiveSession;
use crate::sessions::registry::Registry;
use crate::storage::agents::AgentId;

/// The response, and the exchange that continues after a 101.
pub(crate) struct Forwarded {
    /// Response for the sender.
    pub response: Response<ResponseBody>,
    /// Both directions of an upgraded connection.
    pub upgraded: Option<(MessageWriter, MessageReader)>,
    /// Guard that counts the request in its session.
    pub load: LoadGuard,
    pub result: UpstreamResult,
}

impl Forwarded {
    /// Returns the response. Its body counts as in flight until it has been read.
    #[must_use]
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        self.response.map(|body| body.count(self.load))
    }
}

/// Receiver of a request.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'d> {
    /// Public host of the tunnel.
    pub host: &'d str,
    /// Agent whose policy has permitted the request. The host may get another one meanwhile.
    pub owner: AgentId,
}

/// Sends the request and waits for the head of its response. Tries the owner's sessions of the
/// tunnel one after another.
///
/// # Errors
/// [`ForwardError`].
pub(crate) async fn forward(
    permit: Permit,
    registry: &Registry,
    destination: Destination<'_>,
    request: &ExchangeRequest,
    mut outgoing: RequestBody,
    limits: &Limits,
) -> Result<Forwarded, ForwardError> {
    let Destination { host, owner } = destination;
    let begun = Instant::now();
    let mut tried: Vec<Arc<ActiveSession>> = Vec::new();
    let mut retries = RetryState::default();

    loop {
        let may_have = |session: &ActiveSession| {
            session.agent.id == owner
                && !tried.iter().any(|other| other.is(session))
                && retries.allows(session)
        };
        // The sessions are looked up again: connections come and go while a body is read. An agent
        // without a connection dials again every second.
        let now = registry.find(host).unwrap_or_default();
        let live = match now.select(may_have) {
            Some(live) => Some(Arc::clone(live)),
            None if now.is_away() || retries.is_connection_loss() => {
                let patience = limits
                    .reconnect_wait
                    .min(RETRY_WINDOW.saturating_sub(begun.elapsed()));
                let arrival = registry.arrival(host, patience, may_have).await;
                arrival.and_then(|tunnel| tunnel.select(may_have).cloned())
            }
            // Another connection of the same agents would fail in the same way.
            None => None,
        };
        let Some(live) = live else {
            return Err(retries.into_error());
        };

        let in_flight = live.begin();
        let error = match attempt(
            &permit,
            &live,
            request,
            &mut outgoing,
            limits,
            begun + RETRY_WINDOW,
        )
        .await
        {
            Ok((response, upgraded)) => {
                return Ok(Forwarded {
                    response,
                    upgraded,
                    load: in_flight,
                    result: UpstreamResult {
                        took: begun.elapsed(),
                        attempts: tried.len() + 1,
                    },
                });
            }
            Err(error) => error,
        };

        drop(in_flight);
        tracing::debug!(id = %request.meta.id, %error, "an attempt over one connection failed");
        let goes_on = retries.should_retry(error, &live)
            && tried.len() + 1 < MAX_ATTEMPTS
            && begun.elapsed() < RETRY_WINDOW;
        if !goes_on || matches!(outgoing, RequestBody::Consumed) {
            return Err(retries.into_error());
        }

        tried.push(live);
    }
}

/// Maximum number of attempts for one request.
const MAX_ATTEMPTS: usize = 4;

type ForwardResponse = (
    Response<ResponseBody>,
    Option<(MessageWriter, MessageReader)>,
);

/// Sends the request over one session. `outgoing` keeps what can be sent again, as long as
/// possible.
async fn attempt(
    permit: &Permit,
    live: &ActiveSession,
    request: &ExchangeRequest,
    outgoing: &mut RequestBody,
    limits: &Limits,
    again_until: Instant,
) -> Result<ForwardResponse, ForwardError> {
    let untimed;
    let mut request = request;
    if request.meta.timing.is_some() && !live.identity().captures_refused {
        // Another agent of the pool, which would not understand it.
        untimed = request.without_timing();
        request = &untimed;
    }
    let patience = permit.settings().answer_timeout + limits.response_margin;
    let head_only = request.method == http::Method::HEAD;
    let (mut writer, mut reader) =
        match timeout(limits.open_stream_timeout, live.session.open()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(ForwardError::Offline(error.to_string())),
            Err(_) => return Err(ForwardError::NoStream),
        };

    let mut pump = None;
    let mut upgrading = None;

    match outgoing {
        RequestBody::Buffered(body, _) if body.len() <= SMALL_BODY => {
            writer.prioritise(live.next_order());
            let head = request.encode(passes(true));
            with_timeout(
                limits.response_idle_timeout,
                writer.whole(&head, body.clone()),
            )
            .await?;
        }
        RequestBody::Buffered(body, _) => {
            writer.deprioritise();
            let head = request.encode(passes(true));
            let (idle, mut body) = (limits.response_idle_timeout, body.clone());
            pump = Some(BodySender::new(async move {
                with_timeout(idle, writer.head(&head)).await?;
                while !body.is_empty() {
                    // In pieces, so that the deadline measures progress.
                    with_timeout(
                        idle,
                        writer.data(body.split_to(body.len().min(CHUNK_BYTES))),
                    )
                    .await?;
                }
                with_timeout(idle, writer.finish()).await
            }));
        }
        RequestBody::Streaming(..) => {
            writer.deprioritise();
            if let RequestBody::Streaming(first, charge, rest) =
                std::mem::replace(outgoing, RequestBody::Consumed)
            {
                pump = Some(BodySender::new(stream(
                    writer,
                    request.clone(),
                    first,
                    charge,
                    *rest,
                    limits.response_idle_timeout,
                )));
            }
        }
        RequestBody::Upgrade => {
            writer.prioritise(live.next_order());
            with_timeout(
                limits.response_idle_timeout,
                writer.head(&request.encode(passes(true))),
            )
            .await?;
            upgrading = Some(writer);
        }
        RequestBody::Consumed => return Err(ForwardError::Tunnel(StreamError::Aborted)),
    }

    let head = read_head(&mut reader, &mut pump, outgoing, patience, again_until).await?;
    if let (Some(pump), RequestBody::Buffered(..)) = (&mut pump, &mut *outgoing)
        && let RequestBody::Buffered(_, charge) = std::mem::replace(outgoing, RequestBody::Consumed)
    {
        // The body is still being sent.
        pump.charge = Some(charge);
    }

    let response = match head {
        ExchangeReply::Failure(failure) => return Err(ForwardError::Failed(failure)),
        ExchangeReply::Response(response) => response,
    };
    let switched = response.status == StatusCode::SWITCHING_PROTOCOLS;
    let mut answer = Response::new(ResponseBody::own(Full::default()));
    *answer.status_mut() = response.status;
    *answer.headers_mut() = response.headers;
    remove_foreign_fields(answer.headers_mut());

    set_length(&mut answer, response.length, head_only);
    if switched {
        answer
            .headers_mut()
            .insert(names::CONNECTION, HeaderValue::from_static("Upgrade"));
        answer
            .headers_mut()
            .insert(names::UPGRADE, HeaderValue::from_static("websocket"));

        let Some(writer) = upgrading else {
            return Err(ForwardError::Tunnel(StreamError::Protocol(
                "an upgrade that was not requested".to_owned(),
            )));
        };
        return Ok((answer, Some((writer, reader))));
    }

    if let Some(writer) = upgrading {
        // The application refused: the request is complete as it is. An agent that has responded
        // may have stopped reading.
        match with_timeout(limits.response_idle_timeout, writer.finish()).await {
            Ok(()) | Err(ForwardError::Tunnel(StreamError::Aborted)) => {}
            Err(error) => return Err(error),
        }
    }

    let body = MessageBody::new(
        reader,
        response.length,
        answer.headers(),
        limits.response_idle_timeout,
    );
    *answer.body_mut() = ResponseBody::new(
        body,
        pump.map(BodySender::into_upload),
        &live.response_backlog,
    )
    .await;

    Ok((answer, None))
}

/// Maximum number of bytes of a large body in one write.
const CHUNK_BYTES: usize = 256 * 1024;

#[cfg(test)]
mod tests;
