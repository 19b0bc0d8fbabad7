//! Reads the head of the application's response, and prepares it for the sender.

use super::body_sender::BodySender;
use super::{ForwardError, RequestBody};
use crate::body::response::ResponseBody;
use bytes::Bytes;
use hookward_core::headers::passes_to_sender;
use hookward_tunnel::protocol::head::ExchangeReply;
use hookward_tunnel::transport::{MessageReader, StreamError};
use http::header::{self as names, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Sets the length of the response. The relay never trusts the agent's field: hyper would write it
/// unchanged, and the sender would parse excess bytes as the next response. A response without a
/// body may keep the length that it would have had (RFC 9110 §8.6).
pub(super) fn set_length(
    answer: &mut Response<ResponseBody>,
    length: Option<u64>,
    head_only: bool,
) {
    if head_only || answer.status() == StatusCode::NOT_MODIFIED {
        return;
    }

    let bodiless = answer.status().is_informational() || answer.status() == StatusCode::NO_CONTENT;
    match length {
        Some(length) if !bodiless => answer
            .headers_mut()
            .insert(names::CONTENT_LENGTH, HeaderValue::from(length)),
        _ => answer.headers_mut().remove(names::CONTENT_LENGTH),
    };
}

/// Removes header fields that belong to the relay, also from an agent.
pub(super) fn remove_foreign_fields(headers: &mut HeaderMap) {
    let foreign: Vec<HeaderName> = headers
        .keys()
        .filter(|name| !passes_to_sender(name))
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
}

/// Reads the response head while the request's body is being sent. The deadline counts from the end
/// of the request, because a large upload may take its time.
pub(super) async fn read_head(
    reader: &mut MessageReader,
    pump: &mut Option<BodySender>,
    outgoing: &mut RequestBody,
    patience: Duration,
    again_until: Instant,
) -> Result<ExchangeReply, ForwardError> {
    let mut head = pin!(reader.head());
    if let Some(sending) = pump.as_mut() {
        tokio::select! {
            biased;
            bytes = &mut head => return decode(bytes),
            sent = sending => {
                *pump = None;
                // A large body is not kept after sending: it would hold memory while the
                // application works.
                let kept = match outgoing {
                    RequestBody::Buffered(_, charge) => charge.keep_for_retry(),
                    _ => false,
                };
                if !kept {
                    *outgoing = RequestBody::Consumed;
                }
                match sent {
                    // An agent that responds early may stop reading; its response counts.
                    Ok(()) | Err(ForwardError::Tunnel(StreamError::Aborted)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }

    let again = patience.min(again_until.saturating_duration_since(Instant::now()));
    if let Ok(bytes) = timeout(again, &mut head).await {
        return decode(bytes);
    }

    // No attempt will need it again.
    *outgoing = RequestBody::Consumed;
    let bytes = timeout(patience - again, head)
        .await
        .map_err(|_| ForwardError::Timeout(patience))?;

    decode(bytes)
}

pub(super) fn decode(bytes: Result<Bytes, StreamError>) -> Result<ExchangeReply, ForwardError> {
    let bytes = bytes.map_err(ForwardError::Tunnel)?;
    ExchangeReply::decode(bytes)
        .map_err(|error| ForwardError::Tunnel(StreamError::Protocol(error.to_string())))
}
