//! Writes every response of the relay itself: problem details (RFC 9457) with the request's id and
//! a stable error code. They never name the check that refused.

use bytes::Bytes;
use hookward_core::headers::{DELIVERY_ID, ERROR_CODE, REQUEST_ID};
use hookward_core::reason::{Code, Refusal};
use hookward_gate::providers::challenge::ChallengeResponse;
use hookward_tunnel::protocol::head::RequestId;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use uuid::Uuid;

use crate::body::response::ResponseBody;
use crate::observe::outcome::Verdict;

/// Writes the relay's own response to a request with this verdict.
#[must_use]
pub(crate) fn to(id: RequestId, verdict: &Verdict) -> Response<ResponseBody> {
    match verdict {
        Verdict::Challenge(answer) => answer_challenge(id, answer),
        Verdict::Stored(stored) => accept(id, stored.delivery),
        // The sender stops retrying.
        Verdict::Duplicate => acknowledge(id),
        Verdict::Refused(refusal) => refuse(id, refusal),
        Verdict::RefusedByAgent { code, status } => write(id, *code, *status),
        Verdict::Failed(failure) => write(id, failure.code, failure.status),
        // The callers never pass the last two: the application has responded, or the sender has left.
        Verdict::Overloaded | Verdict::Forwarded(_) | Verdict::Aborted => overloaded(id),
    }
}

/// Writes the response of a relay that has no room for a request.
#[must_use]
pub(crate) fn overloaded(id: RequestId) -> Response<ResponseBody> {
    write(id, Code::Overloaded, Code::Overloaded.status())
}

fn refuse(id: RequestId, refusal: &Refusal) -> Response<ResponseBody> {
    let mut response = match refusal.asks_for_basic {
        true => challenge_basic(id, refusal.code),
        false => write(id, refusal.code, refusal.status),
    };
    if let Some(seconds) = refusal.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn write(id: RequestId, code: Code, status: StatusCode) -> Response<ResponseBody> {
    match status {
        StatusCode::UNAUTHORIZED => reject_test(id, code),
        status => problem(id, code, status),
    }
}

/// Writes problem details.
fn problem(id: RequestId, code: Code, status: StatusCode) -> Response<ResponseBody> {
    let json = serde_json::json!({
        "type": "about:blank",
        "title": code.title(),
        "status": status.as_u16(),
        "code": code.as_str(),
        "request_id": id.to_string(),
    });
    let mut response = Response::new(ResponseBody::own(Full::new(Bytes::from(json.to_string()))));
    *response.status_mut() = status;

    let headers = response.headers_mut();
    headers.insert(ERROR_CODE, HeaderValue::from_static(code.as_str()));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }

    mark_own(&mut response, id);
    response
}

/// Rejects the wrong signature by which a provider tests the endpoint. Xero requires an empty body
/// (developer.xero.com, "Intent to receive").
fn reject_test(id: RequestId, code: Code) -> Response<ResponseBody> {
    // RFC 9110 §15.5.2 requires a challenge; the missing credential is the provider's signature.
    const SIGNATURE: HeaderValue = HeaderValue::from_static("Signature");

    let mut response = Response::new(ResponseBody::own(Full::default()));
    *response.status_mut() = StatusCode::UNAUTHORIZED;

    let headers = response.headers_mut();
    headers.insert(ERROR_CODE, HeaderValue::from_static(code.as_str()));
    headers.insert(header::WWW_AUTHENTICATE, SIGNATURE);

    mark_own(&mut response, id);
    response
}

/// Seconds after which a sender may retry. An agent reconnects within a few.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Requests user and password (RFC 7617): some clients send them only on request.
fn challenge_basic(id: RequestId, code: Code) -> Response<ResponseBody> {
    const BASIC: HeaderValue =
        HeaderValue::from_static("Basic realm=\"Hookward\", charset=\"UTF-8\"");

    let mut response = problem(id, code, StatusCode::UNAUTHORIZED);
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, BASIC);

    response
}

fn answer_challenge(id: RequestId, answer: &ChallengeResponse) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(Full::new(answer.body.clone())));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers.clone();
    mark_own(&mut response, id);
    response
}

/// Accepts a webhook that is on the disk.
fn accept(id: RequestId, delivery: Uuid) -> Response<ResponseBody> {
    let mut response = acknowledge(id);
    *response.status_mut() = StatusCode::ACCEPTED;
    if let Ok(delivery) = HeaderValue::from_str(&delivery.to_string()) {
        response.headers_mut().insert(DELIVERY_ID, delivery);
    }
    response
}

fn acknowledge(id: RequestId) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(Full::default()));
    mark_own(&mut response, id);
    response
}

/// Marks a response of the relay itself, which must not be cached.
fn mark_own(response: &mut Response<ResponseBody>, id: RequestId) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    identify(response, id);
}

/// Adds the request's id, by which the sender's log and the relay's name the same request.
pub(crate) fn identify(response: &mut Response<ResponseBody>, id: RequestId) {
    if let Ok(mut id) = HeaderValue::from_str(&id.to_string()) {
        // HTTP/2 then keeps this value, which occurs once, out of its header table (RFC 7541 §7.1.3).
        id.set_sensitive(true);
        response.headers_mut().insert(REQUEST_ID, id);
    }
}
