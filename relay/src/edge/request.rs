//! Processes a request, from its head to its response. Every request passes the gate; no decision
//! is reused for a connection.

mod rejection;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::limits::KIB;
use hookward_core::names::HostName;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_gate::engine::Gate;
use hookward_tunnel::protocol::head::{ExchangeRequest as TunnelRequest, HeaderCase, RequestMeta};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;

use self::rejection::{Rejection, RelayResponse};
use super::head;
use crate::body::drain::DrainOnDrop;
use crate::body::request::SenderBody;
use crate::body::response::ResponseBody;
use crate::edge::authorize::{Authorization, Authorized, Authorizer};
use crate::edge::request_context::RequestContext;
use crate::edge::response;
use crate::edge::state::{ConnectionContext, EdgeState};
use crate::forward::upgrade;
use crate::forward::{self, ForwardError, RequestBody};
use crate::overload::connections::HeaderMemory;
use crate::sessions::registry::TunnelEndpoint;

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
            Box::pin(std::future::ready(Ok(response::write(
                connection.edge.ids.next(),
                Code::Overloaded,
                None,
            ))))
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
    let since = Instant::now();
    let (method, version) = (request.method().clone(), request.version());
    let target = request
        .uri()
        .path_and_query()
        .map_or_else(Bytes::new, |target| {
            Bytes::copy_from_slice(target.as_str().as_bytes())
        });

    let mut facts = RequestContext {
        id: connection.edge.ids.next(),
        received: connection.edge.clock.moment(),
        host: None,
        client: connection.peer.address,
        target,
        tunnel: TunnelEndpoint::default(),
    };

    let place = connection.edge.acquire_client_slot(connection.peer.address);
    let outcome = match &place {
        Some(_) => handle(request, &connection, &mut facts, held).await,
        None => Err(Rejection::Overloaded),
    };
    let (seen, log) = (facts.seen(&method), &connection.edge.log);

    let mut response = match outcome {
        Ok(Ok(response)) => {
            log.forwarded(seen, response.status(), since.elapsed());
            response
        }
        Ok(Err(own)) => {
            let (response, what, reason) = match own {
                RelayResponse::Challenge(answer) => {
                    let reason = (Check::Signature, "the provider's challenge");
                    (
                        response::answer_challenge(facts.id, *answer),
                        "challenge",
                        reason,
                    )
                }
                RelayResponse::Acknowledged => {
                    let reason = (
                        Check::Replay,
                        "acknowledged: duplicate of an accepted delivery",
                    );
                    (response::acknowledge(facts.id), "duplicate", reason)
                }
            };
            log.answered(seen, what, response.status());

            facts.notify_answered(&method, reason, response.status(), since);
            response
        }
        Err(Rejection::Refused(refusal)) => {
            log.refused(seen, &refusal, false);
            facts.notify_refused(&method, &refusal, since, false);
            let mut response = match refusal.asks_for_basic {
                true => response::challenge_basic(facts.id, refusal.code),
                false => response::write(facts.id, refusal.code, Some(refusal.status)),
            };
            response::retry_after(&mut response, refusal.retry_after);

            if refusal.check.breaks_framing() && version < Version::HTTP_2 {
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
                // A body that follows such a head may be framed ambiguously, so it is not read.
                connection.peer.unread.set(true);
            }

            if refusal.code == Code::RequestTimeout {
                connection.activity.close_soon();
                connection.peer.unread.set_slow();
            }

            response
        }
        Err(Rejection::Failed(error)) => {
            let status = match &error {
                ForwardError::Failed(failure) if failure.status.is_client_error() => {
                    log.refused_by_agent(seen, failure.code, failure.status);
                    Some(failure.status)
                }
                // The agent has reported the failure to its user.
                ForwardError::Failed(failure) => {
                    log.failed(seen, failure.code, &error.to_string());
                    Some(failure.status)
                }
                error => {
                    log.failed(seen, error.code(), &error.to_string());
                    let refusal = Refusal::new(Check::Tunnel, error.code(), error.to_string());
                    facts.notify_refused(&method, &refusal, since, false);
                    None
                }
            };
            response::write(facts.id, error.code(), status)
        }
        Err(Rejection::Offline) => {
            log.failed(
                seen,
                Code::AgentOffline,
                "no agent is connected for this host",
            );
            response::write(facts.id, Code::AgentOffline, None)
        }
        Err(Rejection::Overloaded) => response::write(facts.id, Code::Overloaded, None),
    };

    // A permitted request verifies its connection. A connection whose requests are always refused
    // must not stay.
    let overstays = connection.activity.age() > connection.edge.limits.unverified_lifetime
        && !connection.peer.slot.is_verified();
    if (connection.edge.draining.is_cancelled() || overstays)
        && version < Version::HTTP_2
        && response.status() != StatusCode::SWITCHING_PROTOCOLS
    {
        // The sender's next request goes to another relay.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }

    // Both count until the response has been read, not only until it is ready.
    Ok(response.map(|body| body.hold(open, place)))
}

/// Runs a request. The inner error is a response of the relay itself.
async fn handle(
    mut request: Request<Incoming>,
    connection: &ConnectionContext,
    facts: &mut RequestContext,
    held: HeaderMemory,
) -> Result<Result<Response<ResponseBody>, RelayResponse>, Rejection> {
    let edge = &connection.edge;
    let wants_upgrade = head::is_websocket(&request);
    let on_upgrade = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
    let (mut parts, incoming) = request.into_parts();
    let tasks = (parts.version == Version::HTTP_2).then(|| connection.tasks.clone());
    let incoming = DrainOnDrop::new(incoming, tasks);
    let length = incoming.size_hint().exact();

    // Before any refusal, because it discards the recorded head.
    let spelling = head::spelling(&parts, connection, length);
    head::find_tunnel(&parts, connection, facts)?;

    let spelling = spelling?;
    head::check_size(&parts, &edge.limits)?;
    let body = SenderBody::new(incoming, &edge.limits, connection.peer.unread.clone())?;
    let te_trailers = head::check_connection(&parts)?;

    head::normalize(&mut parts, facts, length);

    let Some(host) = facts.host.clone() else {
        return Err(Rejection::Offline);
    };

    if facts.tunnel.is_away() {
        let arrival = edge
            .registry
            .arrival(host.as_str(), edge.limits.reconnect_wait, |_| true);
        let arrived = tokio::select! {
            arrived = arrival => arrived,
            () = edge.last_call.cancelled() => None,
        };
        match arrived {
            Some(tunnel) => facts.tunnel = tunnel,
            None => {
                // A request that the head checks refuse must not learn if the agent is connected,
                // and its body is not read.
                if let Some(gate) = facts.tunnel.gate.clone() {
                    authorizer(edge, &parts, facts, &host, &gate, wants_upgrade).check_head()?;
                }
                return Err(Rejection::Offline);
            }
        }
    }

    let Some(gate) = facts.tunnel.gate.clone() else {
        return Err(Rejection::Offline);
    };
    let case = authorizer(edge, &parts, facts, &host, &gate, wants_upgrade);
    let Authorized {
        permit,
        body: outgoing,
        keys,
        claim,
    } = match case
        .authorize(body, edge.body_memory.begin(facts.client))
        .await?
    {
        Authorization::Forward(passed) => *passed,
        Authorization::Respond(answer) => return Ok(Err(RelayResponse::Challenge(answer))),
        Authorization::Acknowledge => return Ok(Err(RelayResponse::Acknowledged)),
    };

    connection
        .peer
        .slot
        .mark_verified(Some(&connection.activity));
    drop(held);

    if wants_upgrade && !permit.settings().websocket {
        facts.notify_note(
            &parts.method,
            "WebSocket requested, which this route does not allow: --websocket",
        );
    }

    if let Some(refusal) = permit.observed() {
        edge.log.refused(facts.seen(&parts.method), refusal, true);
        facts.notify_refused(&parts.method, refusal, Instant::now(), true);
    }

    if edge.last_call.is_cancelled() {
        // The sender will not wait for the response, and will retry.
        return Err(Rejection::Offline);
    }

    let upgrade = matches!(outgoing, RequestBody::Upgrade);
    let request = tunnel_request(parts, spelling, facts, te_trailers, &outgoing, keys);
    // Boxed, because only forwarding needs its size, not a request that waits for a verdict.
    let sending = Box::pin(forward::forward(
        permit,
        &edge.registry,
        host.as_str(),
        request,
        outgoing,
        &edge.limits,
    ));
    let sent = tokio::select! {
        biased;
        sent = sending => sent,
        () = edge.last_call.cancelled() => Err(ForwardError::Stopping),
    };

    let mut forwarded = sent.map_err(|error| match error {
        // A fault of the sender while forwarding is a refusal like any other.
        ForwardError::Body(refusal) => Rejection::Refused(refusal),
        error => Rejection::Failed(error),
    })?;
    if let Some(claim) = claim.filter(|_| forwarded.response.status().is_success()) {
        claim.confirm().await;
    }

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
        return Ok(Ok(forwarded.response));
    }

    Ok(Ok(forwarded.into_response()))
}

fn authorizer<'c>(
    edge: &'c EdgeState,
    parts: &'c Parts,
    facts: &'c RequestContext,
    host: &'c HostName,
    gate: &'c Arc<Gate>,
    wants_upgrade: bool,
) -> Authorizer<'c> {
    let (client, received, state) = (facts.client, facts.received, &facts.tunnel.state);
    let checks = &facts.tunnel.checks;
    Authorizer {
        edge,
        head: facts.head(parts),
        host,
        client,
        received,
        gate,
        state,
        checks,
        wants_upgrade,
    }
}

fn tunnel_request(
    mut parts: Parts,
    spelling: HeaderCase,
    facts: &RequestContext,
    trailers: bool,
    outgoing: &RequestBody,
    keys: FetchedKeys,
) -> TunnelRequest {
    let length = match outgoing {
        RequestBody::Buffered(body, _) => Some(body.len() as u64),
        RequestBody::Streaming(gathered, _, rest) => {
            rest.length().map(|rest| rest + gathered.bytes.len() as u64)
        }
        RequestBody::Upgrade | RequestBody::Consumed => Some(0),
    };

    // A chunked body that was read completely is forwarded with its length.
    if let Some(length) = length.filter(|length| *length > 0) {
        parts
            .headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }

    let host = facts.host.as_ref().map_or("", HostName::as_str);
    TunnelRequest {
        meta: RequestMeta {
            id: facts.id,
            host: Bytes::copy_from_slice(host.as_bytes()),
            client: facts.client,
            keys,
        },
        method: parts.method,
        target: facts.target.clone(),
        length,
        trailers,
        upgrade: matches!(outgoing, RequestBody::Upgrade),
        headers: parts.headers,
        header_case: spelling,
    }
}
