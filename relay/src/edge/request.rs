//! Processes a request, from its head to its response. Every request passes the gate; no decision
//! is reused for a connection.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::headers::{NOT_STORABLE, TRACEPARENT};
use hookward_core::limits::KIB;
use hookward_core::names::HostName;
use hookward_core::reason::Code;
use hookward_core::trace::TraceId;
use hookward_gate::engine::{Gate, Permit};
use hookward_gate::request::RequestHead;
use hookward_tunnel::protocol::head::{ExchangeRequest as TunnelRequest, HeaderCase, RequestMeta};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::head;
use crate::body::drain::DrainOnDrop;
use crate::body::request::SenderBody;
use crate::body::response::ResponseBody;
use crate::edge::authorize::{Authorized, Authorizer, Examined};
use crate::edge::deliver::Delivering;
use crate::edge::request_context::{OpenRequest, RequestContext};
use crate::edge::response;
use crate::edge::state::{ConnectionContext, EdgeState};
use crate::forward::RequestBody;
use crate::forward::upgrade;
use crate::observe::outcome::{Permitted, RefusedExchange, UpstreamResult, Verdict};
use crate::overload::connections::HeaderMemory;

/// A response in preparation, or a reset of the stream.
pub(crate) type Answering =
    Pin<Box<dyn Future<Output = Result<Response<ResponseBody>, h2::Error>> + Send>>;

/// Admits a request if there is memory for it. Nothing was allocated for it before, not even its
/// future, which is as large as its head.
pub(crate) fn admit(request: Request<Incoming>, connection: &Arc<ConnectionContext>) -> Answering {
    /// Memory cost of a request beside its head, and of a field beside its text, in bytes.
    const REQUEST: u64 = 7 * KIB;
    const FIELD: usize = 128;

    let fields: usize = request
        .headers()
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD)
        .sum();
    let has_body = !request.body().is_end_stream();
    match connection.peer.slot.hold(REQUEST + fields as u64, has_body) {
        Some(held) => Box::pin(respond(request, Arc::clone(connection), held)),
        // A connection with so many unverified requests gets no responses either, because they need
        // memory. Most senders retry such a stream by themselves (RFC 9113 §8.7).
        None if request.version() == Version::HTTP_2 => {
            connection.peer.slot.note_refused();
            Box::pin(std::future::ready(Err(h2::Error::from(
                h2::Reason::REFUSED_STREAM,
            ))))
        }
        None => {
            connection.peer.unread.set(has_body);
            let response = response::overloaded(connection.edge.ids.next());
            Box::pin(std::future::ready(Ok(response)))
        }
    }
}

/// Responds to one request. Its head is charged until the verdict.
async fn respond(
    request: Request<Incoming>,
    connection: Arc<ConnectionContext>,
    held: HeaderMemory,
) -> Result<Response<ResponseBody>, h2::Error> {
    let open = connection.activity.open_request();
    connection.peer.unread.set(!request.body().is_end_stream());
    let version = request.version();
    let mut watched = OpenRequest::new(context(&request, &connection), &connection.edge);
    let id = watched.context.id;

    let slot = connection.edge.acquire_client_slot(connection.peer.address);
    let handled = match &slot {
        Some(_) => handle(request, &connection, &mut watched.context, held).await,
        None => Err(Verdict::Overloaded),
    };

    let (verdict, mut response) = match handled {
        Ok((mut response, upstream)) => {
            response::identify(&mut response, id);
            (Verdict::Forwarded(upstream), response)
        }
        Err(verdict) => {
            let response = response::to(id, &verdict);
            (verdict, response)
        }
    };

    let close = should_close(&connection, &verdict, response.status());
    if close && version < Version::HTTP_2 {
        // The sender's next request opens a new connection.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    watched.close(verdict, &response);
    // Both count until the response has been read, not only until it is ready.
    Ok(response.map(|body| body.hold(open, slot)))
}

/// Returns what is known of a request before its host.
fn context(request: &Request<Incoming>, connection: &ConnectionContext) -> RequestContext {
    let target = request.uri().path_and_query();
    let target = target.map_or_else(Bytes::new, |target| {
        Bytes::copy_from_slice(target.as_str().as_bytes())
    });
    let method = request.method().clone();
    let trace = request.headers().get(TRACEPARENT);
    let trace = trace.and_then(|value| TraceId::from_traceparent(value.as_bytes()));
    RequestContext {
        trace,
        ..RequestContext::new(&connection.edge, connection.peer.address, method, target)
    }
}

/// Returns `true` if an HTTP/1.1 connection must close after this response. Marks a body that must
/// not be read, and a connection with a slow sender.
fn should_close(connection: &ConnectionContext, verdict: &Verdict, status: StatusCode) -> bool {
    let mut breaks_framing = false;
    if let Verdict::Refused(refusal) = verdict {
        breaks_framing = refusal.check.breaks_framing();
        if breaks_framing {
            // A body that follows such a head may be framed ambiguously, so it is not read.
            connection.peer.unread.set(true);
        }

        if refusal.code == Code::RequestTimeout {
            connection.activity.close_soon();
            connection.peer.unread.set_slow();
        }
    }

    // A permitted request verifies its connection. A connection whose requests are always refused
    // must not stay.
    let overstays = connection.activity.age() > connection.edge.limits.unverified_lifetime
        && !connection.peer.slot.is_verified();
    let is_draining = connection.edge.draining.is_cancelled();
    breaks_framing || (is_draining || overstays) && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Runs a request. Returns the application's response.
///
/// # Errors
/// The verdict on a request without one.
async fn handle(
    mut request: Request<Incoming>,
    connection: &ConnectionContext,
    context: &mut RequestContext,
    held: HeaderMemory,
) -> Result<(Response<ResponseBody>, UpstreamResult), Verdict> {
    let edge = &connection.edge;
    let wants_upgrade = head::is_websocket(&request);
    let on_upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let tasks = (parts.version == Version::HTTP_2).then(|| connection.tasks.clone());
    let incoming = DrainOnDrop::new(incoming, tasks);
    let length = incoming.size_hint().exact();
    context.body_bytes = length;

    // Before any refusal, because it discards the recorded head.
    let header_case = head::header_case(&parts, connection, length);
    head::find_tunnel(&parts, connection, context)?;

    let header_case = header_case?;
    head::check_size(&parts, &edge.limits)?;
    let body = SenderBody::new(incoming, &edge.limits, connection.peer.unread.clone())?;
    let te_trailers = head::check_connection(&parts)?;

    head::normalize(&mut parts, context, length);
    let (host, gate) = wait_for_agent(edge, &parts, context, wants_upgrade).await?;

    let mut examined = Examined::default();
    let authorized = authorizer(edge, &parts, context, &host, &gate, wants_upgrade)
        .authorize(body, edge.body_memory.begin(context.client), &mut examined)
        .await;
    // The body's memory is not charged any more once it is sent.
    let (receiving, authorized) = match authorized {
        Ok(authorized) => {
            let receiving = examined.receiving;
            drop(examined);
            (receiving, authorized)
        }
        Err(verdict) => {
            if matches!(verdict, Verdict::Refused(_)) && context.owner_wants_refused() {
                let Examined { body, keys, .. } = examined;
                let head = tunnel_request(parts, header_case, context, te_trailers, None, keys);
                context.refused = Some(RefusedExchange {
                    head,
                    body,
                    body_bytes: length,
                });
            }
            return Err(verdict);
        }
    };
    let Authorized {
        permit,
        body: outgoing,
        keys,
        claim,
    } = *authorized;

    connection
        .peer
        .slot
        .mark_verified(Some(&connection.activity));
    drop(held);

    context.body_bytes = outgoing.length();
    context.observed = permit.observed().cloned();
    context.permitted = Some(Permitted {
        route: permit.settings().name.clone(),
        checks: permit.checks(),
        secrets: permit.secrets().to_vec(),
    });
    if wants_upgrade && !permit.settings().websocket {
        context.note = Some("WebSocket requested, which this route does not allow: --websocket");
    }

    if edge.last_call.is_cancelled() {
        // The sender will not wait for the response, and will retry.
        return Err(Verdict::offline());
    }

    if !edge.observer.audit().accepts() {
        return Err(Verdict::unaudited());
    }

    let upgrade = matches!(outgoing, RequestBody::Upgrade);
    let not_storable = not_storable(edge, &permit, &parts.method, &outgoing);
    let mut request = tunnel_request(
        parts,
        header_case,
        context,
        te_trailers,
        Some(&outgoing),
        keys,
    );
    if context.owner_wants_refused() {
        request.meta.timing = Some(context.timing(receiving));
    }
    let delivering = Delivering {
        edge: Arc::clone(edge),
        host: host.as_str().into(),
        origin: Arc::clone(&context.tunnel.origin),
        owner: context.tunnel.owner.ok_or_else(Verdict::offline)?,
        received: context.received.wall,
        request,
    };
    let mut forwarded = delivering.run(permit, outgoing, claim).await?;
    if let Some(reason) = not_storable {
        let headers = forwarded.response.headers_mut();
        headers.insert(NOT_STORABLE, HeaderValue::from_static(reason));
    }

    let result = forwarded.result;
    if let (true, Some(on_upgrade), Some((writer, reader))) =
        (upgrade, on_upgrade, forwarded.upgraded.take())
    {
        let idle = edge.limits.upgrade_idle_timeout;
        let stop = edge.cut_off.clone();
        // An upgraded connection is not idle.
        let held = (forwarded.load, connection.activity.open_request());

        connection.tasks.spawn(async move {
            upgrade::carry(on_upgrade, writer, reader, idle, stop).await;
            drop(held);
        });
        return Ok((forwarded.response, result));
    }

    Ok((forwarded.into_response(), result))
}

/// Returns the reason why a webhook of a storing route is only forwarded.
fn not_storable(
    edge: &EdgeState,
    permit: &Permit,
    method: &Method,
    outgoing: &RequestBody,
) -> Option<&'static str> {
    let delivery = permit.settings().delivery_of(method);
    let stores = edge.deliveries.is_enabled() && delivery.is_some();
    match outgoing {
        RequestBody::Streaming(..) if stores && outgoing.length().is_some() => {
            Some("body-too-large")
        }
        RequestBody::Streaming(..) if stores => Some("length-unknown"),
        _ => None,
    }
}

/// Returns the host and its gate. Waits a moment for an agent that is reconnecting.
async fn wait_for_agent(
    edge: &EdgeState,
    parts: &Parts,
    context: &mut RequestContext,
    wants_upgrade: bool,
) -> Result<(HostName, Arc<Gate>), Verdict> {
    let Some(host) = context.host.clone() else {
        return Err(Verdict::offline());
    };

    let stores = context
        .tunnel
        .gate
        .as_ref()
        .is_some_and(|gate| edge.deliveries.is_enabled() && stores(gate, context.head(parts)));
    if context.tunnel.is_away() && !stores {
        let arrival = edge
            .registry
            .arrival(host.as_str(), edge.limits.reconnect_wait, |_| true);
        let arrived = tokio::select! {
            arrived = arrival => arrived,
            () = edge.last_call.cancelled() => None,
        };
        match arrived {
            Some(tunnel) => context.tunnel = tunnel,
            None => {
                // A request that the head checks refuse must not learn if the agent is connected,
                // and its body is not read.
                if let Some(gate) = context.tunnel.gate.clone() {
                    authorizer(edge, parts, context, &host, &gate, wants_upgrade).check_head()?;
                }
                return Err(Verdict::offline());
            }
        }
    }

    match context.tunnel.gate.clone() {
        Some(gate) => Ok((host, gate)),
        None => Err(Verdict::offline()),
    }
}

/// Returns `true` if the request's route stores webhooks.
fn stores(gate: &Gate, head: RequestHead<'_>) -> bool {
    let settings = gate.settings_for(head);
    settings.is_some_and(|settings| settings.delivery_of(head.method).is_some())
}

fn authorizer<'c>(
    edge: &'c EdgeState,
    parts: &'c Parts,
    context: &'c RequestContext,
    host: &'c HostName,
    gate: &'c Arc<Gate>,
    wants_upgrade: bool,
) -> Authorizer<'c> {
    let (client, received, state) = (context.client, context.received, &context.tunnel.state);
    let checks = &context.tunnel.checks;
    Authorizer {
        edge,
        head: context.head(parts),
        host,
        client,
        received,
        gate,
        state,
        checks,
        wants_upgrade,
        is_away: context.tunnel.is_away(),
        owner: context.tunnel.owner.unwrap_or_default(),
        length: context.body_bytes,
    }
}

/// Returns the request for the tunnel; `outgoing` is its body, unless it is refused.
fn tunnel_request(
    mut parts: Parts,
    header_case: HeaderCase,
    context: &RequestContext,
    trailers: bool,
    outgoing: Option<&RequestBody>,
    keys: FetchedKeys,
) -> TunnelRequest {
    let length = outgoing.and_then(RequestBody::length);

    // A chunked body that was read completely is forwarded with its length.
    if let Some(length) = length.filter(|length| *length > 0) {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }

    let host = context.host.as_ref().map_or("", HostName::as_str);
    TunnelRequest {
        meta: RequestMeta {
            id: context.id,
            host: Bytes::copy_from_slice(host.as_bytes()),
            client: context.client,
            keys,
            delivery: None,
            timing: None,
        },
        method: parts.method,
        target: context.target.clone(),
        length,
        trailers,
        upgrade: matches!(outgoing, Some(RequestBody::Upgrade)),
        headers: parts.headers,
        header_case,
    }
}
