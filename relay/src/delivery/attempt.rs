//! One attempt: permits the stored webhook again, sends it to the agent, and reads the response.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hookward_core::clock::UnixMillis;
use hookward_core::headers::is_secret;
use hookward_core::reason::Code;
use hookward_gate::engine::{Evaluation, Grant, Permit, Request, RequestHead};
use hookward_gate::policy::{Delivery, DeliveryMode};
use hookward_runtime::offload::OFFLOAD_BYTES;
use hookward_tunnel::protocol::head::{DeliveryMeta, ExchangeRequest};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::outcome::AttemptEnd;
use crate::body::response::ResponseBody;
use crate::forward::{self, Destination, ForwardError, Forwarded, RequestBody};
use crate::storage::StorageError;
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{DueDelivery, LastResponse, Lease, Payload};

/// An attempt that has ended, with the settings that decide what follows.
pub(crate) struct EndedAttempt {
    pub end: AttemptEnd,
    pub delivery: Delivery,
    /// Number of the attempt, from 1.
    pub number: u32,
    pub took: Duration,
}

/// An attempt in progress.
pub(crate) type RunningAttempt = Pin<Box<dyn Future<Output = EndedAttempt> + Send>>;

/// Makes an attempt. Returns `None` if the delivery was dropped meanwhile.
///
/// # Errors
/// [`StorageError`]: the payload cannot be read now.
pub(super) async fn attempt(
    shared: &Arc<Shared>,
    tunnel: &Arc<str>,
    lease: Lease,
    head: DueDelivery,
) -> Result<Option<EndedAttempt>, StorageError> {
    let started = Instant::now();
    let number = head.attempts.saturating_add(1);
    let payload = match shared.parts.store.payload(head.seq).await {
        Ok(Some(payload)) => payload,
        Ok(None) => return Ok(None),
        Err(error) if error.is_damage() => {
            return Ok(Some(EndedAttempt {
                end: AttemptEnd::Refused {
                    reason: format!("the stored webhook cannot be read: {error}"),
                },
                delivery: Delivery::new(DeliveryMode::Queue),
                number,
                took: started.elapsed(),
            }));
        }
        Err(error) => return Err(error),
    };
    shared.parts.store.begin(tunnel, lease, head.seq);

    let prepared = prepare(shared, tunnel, head.owner, payload).await;
    let (end, delivery) = match prepared {
        Ok(Prepared {
            permit,
            mut request,
            body,
            received,
        }) => {
            let delivery = permit.settings().delivery.clone();
            request.meta.delivery = Some(DeliveryMeta {
                id: head.id,
                attempt: number,
                redelivered: head.redelivered,
                received: Some(received),
                epoch: u64::try_from(lease.epoch).unwrap_or_default(),
            });
            let destination = Destination {
                host: tunnel,
                owner: head.owner,
            };
            let end = send(shared, destination, permit, request, body).await;
            (end, delivery)
        }
        Err(end) => (end, None),
    };

    Ok(Some(EndedAttempt {
        end,
        delivery: delivery.unwrap_or_else(|| Delivery::new(DeliveryMode::Queue)),
        number,
        took: started.elapsed(),
    }))
}

/// A webhook that may be sent.
struct Prepared {
    permit: Permit,
    request: ExchangeRequest,
    body: Bytes,
    /// Time of receipt, by the relay's clock at that time.
    received: UnixMillis,
}

/// Permits the webhook again. A large body is checked on another thread.
async fn prepare(
    shared: &Arc<Shared>,
    tunnel: &Arc<str>,
    owner: AgentId,
    payload: Payload,
) -> Result<Prepared, AttemptEnd> {
    if payload.body.len() <= OFFLOAD_BYTES {
        return permit_again(shared, tunnel, owner, payload);
    }

    let (shared, tunnel) = (Arc::clone(shared), Arc::clone(tunnel));
    let checked = spawn_blocking(move || permit_again(&shared, &tunnel, owner, payload)).await;
    checked.unwrap_or_else(|_| {
        Err(AttemptEnd::Failed {
            code: Code::Overloaded,
            reason: "the relay is stopping".to_owned(),
        })
    })
}

/// Permits the webhook again, under the policy in force.
fn permit_again(
    shared: &Shared,
    tunnel: &str,
    owner: AgentId,
    payload: Payload,
) -> Result<Prepared, AttemptEnd> {
    let unusable = |what: String| AttemptEnd::Refused {
        reason: format!("the stored webhook cannot be read: {what}"),
    };
    let Payload { head, grant, body } = payload;
    let mut request = ExchangeRequest::decode(head).map_err(|error| unusable(error.to_string()))?;
    let grant: Grant =
        serde_json::from_slice(&grant).map_err(|error| unusable(error.to_string()))?;

    let endpoint = shared.parts.registry.find(tunnel).unwrap_or_default();
    if endpoint.owner.is_some_and(|agent| agent != owner) {
        return Err(AttemptEnd::Refused {
            reason: "the host belongs to another agent now".to_owned(),
        });
    }
    let Some(gate) = endpoint.gate else {
        return Err(AttemptEnd::Failed {
            code: Code::AgentOffline,
            reason: "no agent is connected".to_owned(),
        });
    };
    let head = RequestHead {
        method: &request.method,
        target: &request.target,
        headers: &request.headers,
        origin: &endpoint.origin,
    };
    let now = shared.parts.clock.moment();
    let evaluation = Evaluation::new(request.meta.client, now, &endpoint.state);
    let permit = gate.permit_again(&Request::new(head, &body), &grant, evaluation, &[]);
    let permit = permit.map_err(|refusal| AttemptEnd::Refused {
        reason: refusal.recorded_reason().to_owned(),
    })?;

    // The agent refuses an id that it has seen: each attempt is a request of its own.
    request.meta.id = shared.parts.ids.next();
    request.length = Some(body.len() as u64);
    Ok(Prepared {
        permit,
        request,
        body,
        received: grant.received,
    })
}

async fn send(
    shared: &Shared,
    destination: Destination<'_>,
    permit: Permit,
    request: ExchangeRequest,
    body: Bytes,
) -> AttemptEnd {
    let charge = shared.parts.memory.begin(request.meta.client);
    let sent = forward::forward(
        permit,
        &shared.parts.registry,
        destination,
        &request,
        RequestBody::Buffered(body, charge),
        &shared.parts.limits,
    );
    // Boxed, because the future is large and a tunnel has several.
    end_of(Box::pin(sent).await).await
}

/// Returns the end of an attempt, after the beginning of its response was read.
pub(crate) async fn end_of(sent: Result<Forwarded, ForwardError>) -> AttemptEnd {
    let forwarded = match sent {
        Ok(forwarded) => forwarded,
        Err(ForwardError::Failed(failure))
            if failure.status.is_client_error() && failure.code != Code::RequestTimeout =>
        {
            return AttemptEnd::Refused {
                reason: format!("the agent refused it: {}", failure.code),
            };
        }
        Err(error) => {
            return AttemptEnd::Failed {
                code: error.code(),
                reason: error.to_string(),
            };
        }
    };

    let (parts, body) = forwarded.into_response().into_parts();
    let retry_after = retry_after(&parts.headers, OffsetDateTime::now_utc());
    let body = beginning(body).await;
    AttemptEnd::Response {
        status: parts.status,
        retry_after,
        response: LastResponse {
            head: shown_head(parts.status, &parts.headers),
            body,
        },
    }
}

/// Reads the beginning of a body, and skips some more, so that the connection to the application
/// can be used again.
async fn beginning(mut body: ResponseBody) -> Bytes {
    let deadline = Instant::now() + BODY_TIMEOUT;
    let (mut kept, mut skipped) = (BytesMut::new(), 0);
    while skipped < SKIPPED_BYTES {
        let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await else {
            break;
        };
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let room = KEPT_BYTES - kept.len();
        let part = data.get(..room.min(data.len())).unwrap_or_default();
        kept.extend_from_slice(part);
        skipped += data.len();
    }
    kept.freeze()
}

/// Maximum number of bytes of a response that are kept.
const KEPT_BYTES: usize = 4096;

/// Maximum number of bytes of a response that are read.
const SKIPPED_BYTES: usize = 256 * 1024;

/// Time for the body of a response, whose head has decided.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Returns status and fields for people, without those that may be secrets.
fn shown_head(status: StatusCode, headers: &HeaderMap) -> String {
    let mut text = status.to_string();
    for (name, value) in headers {
        if is_secret(name) || text.len() > HEAD_BYTES {
            continue;
        }
        let value: String = String::from_utf8_lossy(value.as_bytes())
            .chars()
            .take(VALUE_CHARS)
            .collect();
        text.push_str(&format!("\n{name}: {value}"));
    }
    text
}

/// Size after which a shown head has no further fields, in bytes.
const HEAD_BYTES: usize = 4096;

/// Maximum length of a shown value, in characters.
const VALUE_CHARS: usize = 500;

/// Returns the time of `Retry-After`: seconds or a date (RFC 9110 §10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: OffsetDateTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Duration::try_from(date - now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = OffsetDateTime::from_unix_timestamp(1_445_412_420).unwrap();
        let after = |text: &'static str| {
            let headers = [(header::RETRY_AFTER, text.parse().unwrap())];
            retry_after(&headers.into_iter().collect(), now).map(|time| time.as_secs())
        };
        assert_eq!(after("120"), Some(120));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(60));
        assert_eq!(after("Wed, 21 Oct 2015 07:20:00 GMT"), None);
        assert_eq!(after("soon"), None);
    }
}
