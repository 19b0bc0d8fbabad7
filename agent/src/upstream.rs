//! The application: sends it requests exactly as the sender wrote them, over kept connections.
//! [`application`] is its address, TLS settings ([`tls`]) and protocol; [`pool`] keeps the
//! connections; [`health`] reports when it is unreachable; [`header_case`] restores the case of
//! header names.
//!
//! Taking a [`Permit`] makes reaching the application without the gate impossible.

pub(crate) mod application;
mod body;
pub(crate) mod header_case;
pub(crate) mod health;
pub(crate) mod pool;
pub(crate) mod tls;

use bytes::{Bytes, BytesMut};
use hookward_core::headers::{
    ATTEMPT, DELIVERY_ID, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PORT, FORWARDED_PROTO,
    REQUEST_ID, passes_to_application,
};
use hookward_core::names::HostName;
use hookward_gate::engine::{Permit, TokenSpan};
use hookward_tunnel::protocol::head;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use http_body::Body;

use self::application::Application;
pub(crate) use self::body::UpstreamBody;
use self::header_case::HeaderCaseCache;

/// A request that cannot be written. The gate refuses all of them before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the request can't be sent over the application's HTTP version; a WebSocket needs HTTP/1.1"
)]
pub(crate) struct Unwritable;

/// Builds the request for the application: as sent, without the token, the connection fields, and
/// the fields that only the relay may set; then adds those.
///
/// # Errors
/// [`Unwritable`].
pub(crate) fn request(
    permit: &Permit,
    request: head::ExchangeRequest,
    body: UpstreamBody,
    cases: &HeaderCaseCache,
    application: &Application,
) -> Result<Request<UpstreamBody>, Unwritable> {
    let head::ExchangeRequest {
        meta: context,
        method,
        target,
        trailers,
        upgrade,
        mut headers,
        header_case: spelling,
        ..
    } = request;

    let target = without_tokens(permit.tokens_to_remove(), target, &mut headers);
    remove_foreign(&mut headers);
    // The length is computed, never taken from the relay. Otherwise the application could parse the
    // next request's first bytes as part of this body.
    let stood = headers.remove(header::CONTENT_LENGTH).is_some();

    // Some applications wait for a body if the length is missing (RFC 9110 §8.6).
    let expected = matches!(method, Method::POST | Method::PUT | Method::PATCH);

    if let Some(length) = body
        .size_hint()
        .exact()
        .filter(|length| !upgrade && (stood || expected || *length > 0))
    {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }

    add_forwarded(&mut headers, &context)?;
    if let Some(host) = application.own_host() {
        headers.insert(header::HOST, host);
    }

    if application.http2 {
        return over_http2(
            method,
            target,
            headers,
            body,
            trailers,
            upgrade,
            application,
        );
    }

    if upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    } else if trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("TE"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }

    let target = PathAndQuery::from_maybe_shared(target).map_err(|_| Unwritable)?;
    let uri = Uri::builder()
        .path_and_query(target)
        .build()
        .map_err(|_| Unwritable)?;
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;

    if let Some(extensions) = cases.of(&spelling) {
        *request.extensions_mut() = extensions;
    }

    Ok(request)
}

/// Adds the fields that name the sender, the public URL, and the request.
fn add_forwarded(headers: &mut HeaderMap, context: &head::RequestMeta) -> Result<(), Unwritable> {
    let text = |value: Bytes| HeaderValue::from_maybe_shared(value).map_err(|_| Unwritable);
    headers.insert(FORWARDED_FOR, text(context.client.to_string().into())?);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));

    // As the sender wrote it, with the port, because the application builds public URLs from it.
    let host = headers.get(header::HOST).cloned().ok_or(Unwritable)?;
    let port = host
        .to_str()
        .ok()
        .and_then(HostName::parse_authority)
        .and_then(|(_, port)| port);
    headers.insert(FORWARDED_PORT, HeaderValue::from(port.unwrap_or(HTTPS)));
    headers.insert(FORWARDED_HOST, host);
    headers.insert(REQUEST_ID, text(context.id.to_string().into())?);
    if let Some(delivery) = &context.delivery {
        headers.insert(DELIVERY_ID, text(delivery.id.to_string().into())?);
        headers.insert(ATTEMPT, HeaderValue::from(delivery.attempt));
    }
    Ok(())
}

/// Default port of `https`.
const HTTPS: u16 = 443;

/// Builds the request for HTTP/2: the URI has the host, and there are no connection fields.
fn over_http2(
    method: Method,
    target: Bytes,
    mut headers: HeaderMap,
    body: UpstreamBody,
    trailers: bool,
    upgrade: bool,
    application: &Application,
) -> Result<Request<UpstreamBody>, Unwritable> {
    if upgrade {
        return Err(Unwritable);
    }

    let host = headers.remove(header::HOST).ok_or(Unwritable)?;
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }

    let scheme = if application.tls.is_some() {
        "https"
    } else {
        "http"
    };

    let target = PathAndQuery::from_maybe_shared(target).map_err(|_| Unwritable)?;
    let uri = Uri::builder()
        .scheme(scheme)
        .authority(host.as_bytes())
        .path_and_query(target)
        .build();
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri.map_err(|_| Unwritable)?;

    *request.headers_mut() = headers;
    Ok(request)
}

/// Removes the tokens, and no other byte.
fn without_tokens(tokens: &[TokenSpan], target: Bytes, headers: &mut HeaderMap) -> Bytes {
    let mut ranges = Vec::new();
    for spot in tokens {
        match spot {
            TokenSpan::Target(range) => ranges.push(range.clone()),
            TokenSpan::Header(name) => {
                headers.remove(name);
            }
        }
    }

    if ranges.is_empty() {
        return target;
    }

    // From the end, so that earlier positions stay valid.
    ranges.sort_by_key(|range| std::cmp::Reverse(range.start));
    let mut left = BytesMut::from(target.as_ref());

    for range in ranges {
        let tail = left.split_off(range.start.min(left.len()));
        left.extend_from_slice(tail.get(range.end - range.start..).unwrap_or_default());
    }

    // Removing two adjacent tokens also removes the `&` between them, and leaves the `?`.
    if left
        .iter()
        .position(|byte| *byte == b'?')
        .is_some_and(|at| at + 1 == left.len())
    {
        left.truncate(left.len() - 1);
    }

    left.freeze()
}

/// Removes forbidden fields again, because a compromised relay could send anything.
fn remove_foreign(headers: &mut HeaderMap) {
    let foreign: Vec<_> = headers
        .keys()
        .filter(|name| !passes_to_application(name))
        .cloned()
        .collect();
    for name in foreign {
        headers.remove(name);
    }
}
