//! Writes every response of the relay itself: problem details (RFC 9457) with the request's id and
//! a stable error code. They never name the check that refused.

use bytes::Bytes;
use hookward_core::headers::{ERROR_CODE, REQUEST_ID};
use hookward_core::reason::Code;
use hookward_gate::providers::challenge::ChallengeResponse;
use hookward_tunnel::protocol::head::RequestId;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::body::response::ResponseBody;

/// Writes a response with this code, and with `status` if it differs from the code's own.
#[must_use]
pub(crate) fn write(
    id: RequestId,
    code: Code,
    status: Option<StatusCode>,
) -> Response<ResponseBody> {
    match status.unwrap_or_else(|| code.status()) {
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

    identify(&mut response, id);
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

    identify(&mut response, id);
    response
}

/// Seconds after which a sender may retry. An agent reconnects within a few.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// Requests user and password (RFC 7617): some clients send them only on request.
#[must_use]
pub(crate) fn challenge_basic(id: RequestId, code: Code) -> Response<ResponseBody> {
    const BASIC: HeaderValue =
        HeaderValue::from_static("Basic realm=\"Hookward\", charset=\"UTF-8\"");

    let mut response = problem(id, code, StatusCode::UNAUTHORIZED);
    response
        .headers_mut()
        .insert(header::WWW_AUTHENTICATE, BASIC);

    response
}

/// Adds `Retry-After`, if the time is known.
pub(crate) fn retry_after(response: &mut Response<ResponseBody>, seconds: Option<u64>) {
    if let Some(seconds) = seconds {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// Writes the response to a provider's challenge.
#[must_use]
pub(crate) fn answer_challenge(id: RequestId, answer: ChallengeResponse) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(Full::new(answer.body)));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    identify(&mut response, id);
    response
}

/// Acknowledges a duplicate delivery, so that the sender stops retrying.
#[must_use]
pub(crate) fn acknowledge(id: RequestId) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::own(Full::default()));
    identify(&mut response, id);
    response
}

fn identify(response: &mut Response<ResponseBody>, id: RequestId) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        headers.insert(REQUEST_ID, id);
    }
}
