//! Validates the head of a request before any gate sees it: host, size, connection fields, and
//! consistency with what hyper parsed.

use std::net::IpAddr;

use hookward_core::address::canonical;
use hookward_core::headers::{self, FORWARDED_FOR};
use hookward_core::limits::Limits;
use hookward_core::names::HostName;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_tunnel::protocol::head::HeaderCase;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::authority;
use super::client_address::client_address;
use crate::edge::request_context::RequestContext;
use crate::edge::sole_client::is_private;
use crate::edge::state::{ConnectionContext, EdgeState};

/// Returns `true` if the request asks for a WebSocket: over HTTP/1.1, without a body (RFC 6455
/// §4.1).
pub(super) fn is_websocket(request: &Request<Incoming>) -> bool {
    let fields = request.headers();
    request.version() == Version::HTTP_11
        && request.method() == Method::GET
        && headers::lists(fields, &header::UPGRADE, "websocket")
        && headers::lists(fields, &header::CONNECTION, "upgrade")
        && request.body().is_end_stream()
}

/// Checks the size and the number of fields.
pub(super) fn check_size(parts: &Parts, limits: &Limits) -> Result<(), Refusal> {
    /// Size of a field beside its text, in bytes: 4 on the wire (RFC 9113 §6.5.2 counts 32).
    const FIELD: usize = 4;

    let fields: usize = parts
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD)
        .sum();
    let target = parts
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());

    let fields = fields + parts.method.as_str().len();
    let too_long = target > hookward_core::limits::TARGET_BYTES;
    if (fields + target) as u64 > limits.max_head_bytes && !too_long
        || parts.headers.len() > limits.max_head_fields
    {
        let reason = format!(
            "the head has {} fields with {fields} bytes",
            parts.headers.len()
        );
        return Err(Refusal::new(Check::Syntax, Code::HeadTooLarge, reason));
    }

    Ok(())
}

/// Determines the host, its tunnel, and the client address.
pub(super) fn find_tunnel(
    parts: &Parts,
    connection: &ConnectionContext,
    context: &mut RequestContext,
) -> Result<(), Refusal> {
    let edge = &connection.edge;
    let sni = connection.peer.sni.as_deref();
    let (version, uri, headers) = (parts.version, &parts.uri, &parts.headers);
    let host = authority::host(version, uri, headers, sni, edge.ports, &mut context.host);
    let host = host.inspect_err(|_| {
        // The owner of the named host is notified.
        let named = context.host.as_ref();
        context.tunnel = named
            .and_then(|host| edge.registry.find(host.as_str()))
            .unwrap_or_default();
    })?;
    let found = edge.registry.find(host.as_str());

    context.host = Some(host);
    context.tunnel = found
        .ok_or_else(|| Refusal::new(Check::Host, Code::NotFound, "no tunnel has this host"))?;
    context.has_tunnel = true;

    let peer = connection.peer.address;
    context.client = match edge.proxy_protocol {
        // The PROXY protocol named the client before the first request; such a proxy writes no HTTP
        // fields.
        true => canonical(peer),
        false => client_address(peer, &parts.headers, &edge.trusted_proxies, edge.forwarded)
            .map_err(|reason| Refusal::new(Check::ClientAddress, Code::Malformed, reason))?,
    };

    if is_unknown_proxy(&parts.headers, peer, edge) {
        edge.unknown_proxy(peer);
    }
    let is_local = || {
        let host = context.host.as_ref();
        host.is_some_and(|host| host.is_child_of(&HostName::local()))
    };
    if edge.sole_client.note(context.client) && !is_local() {
        tracing::warn!(
            client = %context.client,
            "all requests came from one private address: if it is a load balancer, senders count as one client; name it \
             with --trusted-proxy {}, and with --proxy-protocol if it speaks that protocol", context.client
        );
    }

    Ok(())
}

/// Returns `true` if an undeclared proxy in a private network seems to have forwarded the request.
/// All senders then share one client address. The field of a public peer proves nothing.
fn is_unknown_proxy(fields: &HeaderMap, peer: IpAddr, edge: &EdgeState) -> bool {
    let peer = canonical(peer);
    let inside = is_private(peer);

    let named = || {
        [FORWARDED_FOR, header::FORWARDED, header::VIA]
            .iter()
            .any(|name| fields.contains_key(name))
    };
    inside && !edge.proxy_protocol && !edge.trusted_proxies.contains(peer) && named()
}

/// Returns the header names as written; over HTTP/2 all are lower case.
///
/// # Errors
/// If the target had a fragment, which hyper drops: the application would get another target than
/// the sender wrote.
pub(super) fn header_case(
    parts: &Parts,
    connection: &ConnectionContext,
    body: Option<u64>,
) -> Result<HeaderCase, Refusal> {
    let Some(recorded) = &connection.recorded else {
        return Ok(HeaderCase::default());
    };
    let mut start = Vec::with_capacity(128);
    start.extend_from_slice(parts.method.as_str().as_bytes());
    start.push(b' ');

    match parts.uri.path_and_query() {
        Some(target) if parts.uri.authority().is_none() => {
            start.extend_from_slice(target.as_str().as_bytes())
        }
        _ => start.extend_from_slice(parts.uri.to_string().as_bytes()),
    }

    let target = start.len();
    start.extend_from_slice(if parts.version == Version::HTTP_10 {
        b" HTTP/1.0\r\n"
    } else {
        b" HTTP/1.1\r\n"
    });

    if let Some(target) = start.get(..target)
        && recorded.has_fragment(&start, target)
    {
        return Err(Refusal::malformed(
            "the target has a fragment (#), which is not sent",
        ));
    }

    Ok(recorded.header_case(&start, &parts.headers, body))
}

/// Checks the connection fields. Returns `true` if the sender accepts trailers.
pub(super) fn check_connection(parts: &Parts) -> Result<bool, Refusal> {
    let options = headers::connection_options(&parts.headers)
        .map_err(|error| Refusal::malformed(error.to_string()))?;

    // An empty field requests nothing.
    let expects_other = |value: &HeaderValue| {
        !value.is_empty() && !value.as_bytes().eq_ignore_ascii_case(b"100-continue")
    };

    if parts
        .headers
        .get_all(header::EXPECT)
        .iter()
        .any(expects_other)
    {
        return Err(Refusal::new(
            Check::Syntax,
            Code::ExpectationFailed,
            "an Expect other than 100-continue",
        ));
    }

    // Over HTTP/1.1 TE counts only when Connection names it (RFC 9110 §10.1.4).
    let te_counts = options.te || parts.version == Version::HTTP_2;
    Ok(te_counts && headers::lists(&parts.headers, &header::TE, "trailers"))
}

/// Makes the fields match what hyper parsed: one Host, one Content-Length, one Cookie.
pub(super) fn normalize(parts: &mut Parts, context: &RequestContext, length: Option<u64>) {
    if parts.version == Version::HTTP_2 {
        headers::join_cookies(&mut parts.headers);
    }

    if !parts.headers.contains_key(header::HOST)
        && let Some(host) = &context.host
        && let Ok(value) = HeaderValue::from_str(
            parts
                .uri
                .authority()
                .map_or(host.as_str(), |name| name.as_str()),
        )
    {
        parts.headers.insert(header::HOST, value);
    }

    match length {
        Some(length) if parts.headers.contains_key(header::CONTENT_LENGTH) => {
            parts
                .headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(_) => {}
        // hyper read chunks and ignored a length beside them, so the relay must ignore it, too.
        None => {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
    }
}
