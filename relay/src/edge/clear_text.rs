//! Refuses plain HTTP, for a webhook URL that was entered with `http://`. The sender gets a 400, and the tunnel's owner an event. The relay forwards nothing, because the
//! request travelled in clear text.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::names::HostName;
use hookward_core::reason::{Check, Code, Refusal};
use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::body::response::ResponseBody;
use crate::edge::request_context::{OpenRequest, RequestContext};
use crate::edge::response;
use crate::edge::state::EdgeState;
use crate::observe::outcome::Verdict;

/// Returns `true` for the first byte of an HTTP method. TLS begins with 22 (RFC 8446 §5.1).
pub(super) const fn starts_with_http(first: u8) -> bool {
    first.is_ascii_uppercase()
}

/// Refuses the only request of a connection.
pub(super) async fn respond<S>(stream: S, client: IpAddr, edge: &Arc<EdgeState>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service =
        service_fn(
            |request| async move { Ok::<_, Infallible>(refuse(request, client, edge).await) },
        );
    serve_one(stream, service).await;
}

/// Serves one request of a connection, within a few seconds.
pub(super) async fn serve_one<S, V>(stream: S, service: V)
where
    S: AsyncRead + AsyncWrite + Unpin,
    V: HttpService<Incoming, ResBody = ResponseBody, Error = Infallible>,
{
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .max_buf_size(HEAD_BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);

    // Bounds the time for a sender that does not read the response.
    let _ = timeout(TIMEOUT * 3, serving).await;
}

/// Refuses a request, and tells the owner of its host why.
pub(super) async fn refuse(
    request: Request<Incoming>,
    client: IpAddr,
    edge: &Arc<EdgeState>,
) -> Response<ResponseBody> {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host
        .and_then(HostName::parse_authority)
        .map(|(host, _)| host);
    let target = request
        .uri()
        .path_and_query()
        .map(|target| Bytes::copy_from_slice(target.as_str().as_bytes()));

    let method = request.method().clone();
    let mut context = RequestContext::new(edge, client, method, target.unwrap_or_default());
    context.tunnel = host
        .as_ref()
        .and_then(|host| edge.registry.find(host.as_str()))
        .unwrap_or_default();
    context.host = host;

    let reason = "it came as http, in clear text: write https:// at the sender";
    let verdict = Verdict::from(Refusal::new(Check::Host, Code::HttpsOnly, reason));
    let response = response::to(context.id, &verdict);
    OpenRequest::new(context, edge).close(verdict, &response);

    // Closing a socket with unread bytes resets it, and the sender loses the response.
    let body = Limited::new(request.into_body(), BODY_BYTES).collect();
    let _ = timeout(TIMEOUT, body).await;
    response
}

/// Time for the head of the request, and for the response.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of bytes of a body that are read and discarded.
const BODY_BYTES: usize = 64 * 1024;

/// Size of hyper's buffer for the head, in bytes: the minimum.
const HEAD_BUFFER: usize = 8 * 1024;
