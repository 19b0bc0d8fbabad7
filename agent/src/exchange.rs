//! One exchange: reads a request from the tunnel, runs the agent's own gate, sends the request to
//! the application, and returns the response. The agent trusts the relay only for the client
//! address. It uses its own clock.

mod ask;
mod checks;
mod deliver;
pub(crate) mod delivery_log;
pub(crate) mod owner;
mod refusals;
mod respond;
pub(crate) mod started;
mod terms;
mod tunnel_gate;

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookward_core::headers::{TRACEPARENT, passes_to_sender};
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::text::shown_path;
use hookward_core::trace::TraceId;
use hookward_gate::engine::{Decision, Evaluation, HeadVerdict, Permit, RequestHead};
use hookward_gate::providers::challenge::ChallengeResponse;
use hookward_tunnel::protocol::control::Deadlines;
use hookward_tunnel::protocol::head::{self, RequestId};
use hookward_tunnel::transport::{MessageBody, MessageReader, MessageWriter, StreamError};
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::timeout;

use self::deliver::StoredAttempt;
pub(crate) use self::refusals::RefusalSummary;
pub(crate) use self::terms::{ExchangeHandler, PendingHeads, SessionTerms, TunnelBinding};
pub use self::terms::{InFlight, Pairing};
pub(crate) use self::tunnel_gate::TunnelGate;
use crate::events::{Event, RequestEvent, RequestResult};
use crate::exchange::started::StartedRequests;
use crate::inspector::capture::{Source, Tap};
use crate::upstream::UpstreamBody;
use crate::upstream::pool::PooledConnection;

/// One exchange, with the terms of its session.
struct Exchange<'r> {
    handler: &'r Arc<ExchangeHandler>,
    gate: &'r TunnelGate,
    deadlines: Deadlines,
    host: &'r Arc<str>,
    origin: &'r str,
    started: &'r StartedRequests,
    /// Copies the exchange for the inspector.
    tap: Tap,
}

/// Reason why there is no response of the application.
enum ExchangeError {
    Refused(Refusal),
    Failed(Code, String),
    /// The agent answers a provider's challenge itself.
    Challenge(Box<ChallengeResponse>),
    /// The application has accepted the delivery before, with this status.
    Completed(u16),
    Aborted,
}

impl From<Refusal> for ExchangeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StreamError> for ExchangeError {
    fn from(_: StreamError) -> Self {
        Self::Aborted
    }
}

/// Fields of a request's event that are known first.
struct RequestSummary {
    id: RequestId,
    method: Method,
    path: String,
    client: IpAddr,
    trace: Option<TraceId>,
    since: Instant,
}

/// A response that was started.
struct ResponseSent {
    response: Response<Incoming>,
    connection: PooledConnection,
    observed: Option<(Check, String)>,
    route: String,
    checks: Arc<[Check]>,
    secrets: Vec<String>,
}

/// Facts of a permit, for the event of its request.
struct PermitFacts {
    observed: Option<(Check, String)>,
    route: String,
    checks: Arc<[Check]>,
    secrets: Vec<String>,
}

impl PermitFacts {
    fn of(permit: &Permit) -> Self {
        let observed = permit.observed();
        Self {
            observed: observed.map(|refusal| (refusal.check, refusal.reason.clone())),
            route: permit.settings().name.clone(),
            checks: permit.checks(),
            secrets: permit.secrets().to_vec(),
        }
    }

    fn with_response(
        self,
        response: Response<Incoming>,
        connection: PooledConnection,
    ) -> ResponseSent {
        let Self {
            observed,
            route,
            checks,
            secrets,
        } = self;
        ResponseSent {
            response,
            connection,
            observed,
            route,
            checks,
            secrets,
        }
    }
}

/// Runs one exchange to its end.
pub(crate) async fn exchange(
    writer: MessageWriter,
    mut reader: MessageReader,
    terms: &SessionTerms,
) {
    let reading = async {
        let _place = terms.heads.acquire().await.ok()?;
        let _of_all = terms.all_heads.0.acquire().await.ok()?;
        reader.head().await.ok()
    };
    let Ok(Some(bytes)) = timeout(HEAD_TIMEOUT, reading).await else {
        return;
    };
    let length = bytes.len();

    let request = match head::ExchangeRequest::decode(bytes) {
        Ok(request) => request,
        Err(error) => {
            // Reported once per connection, because a hostile relay could fill the log.
            if !terms.malformed.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "the relay sent a malformed request");
            }
            return;
        }
    };

    let asked = |at: &&TunnelBinding| request.meta.host.eq_ignore_ascii_case(at.host.as_bytes());

    // The first tunnel refuses a host that no tunnel has, so that the user sees the refusal.
    let Some(at) = terms
        .hosts
        .iter()
        .find(asked)
        .or_else(|| terms.hosts.first())
    else {
        return;
    };
    let (deadlines, host, origin, begun) =
        (terms.deadlines, &at.host, &*at.origin, &*terms.started);
    let handler = &at.handler;

    let _counted = at.handler.in_flight.begin();
    // A large head is held as long as its exchange, and charged like a body.
    let mut held = at.handler.body_memory.begin(request.meta.client);
    held.complete();

    if length > SMALL_HEAD && held.grow(length as u64).is_err() {
        return;
    }

    let tap = handler.capture.begin(
        &request,
        (host, &at.origin),
        &at.gate.policy(),
        (handler.clock.now(), Source::Sender),
    );
    tap.came_over(|| terms.session.rtt());

    Exchange {
        handler: &at.handler,
        gate: &at.gate,
        deadlines,
        host,
        origin,
        started: begun,
        tap,
    }
    .run(writer, reader, request)
    .await;
}

/// Timeout for the head of an exchange after the first bytes of its stream.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of a head, in bytes, above which it is charged to the body memory; few requests have one.
const SMALL_HEAD: usize = 8 * 1024;

impl Exchange<'_> {
    async fn run(
        &self,
        mut writer: MessageWriter,
        reader: MessageReader,
        request: head::ExchangeRequest,
    ) {
        let shown = RequestSummary {
            id: request.meta.id,
            method: request.method.clone(),
            path: shown_path(&request.target).into_owned(),
            client: request.meta.client,
            trace: trace_of(&request.headers),
            since: Instant::now(),
        };

        let head_only = request.method == Method::HEAD;
        let upgrade = request.upgrade;
        // Runs until the relay aborts the stream, so that the application learns of the abort.
        let answered = {
            let mut handling = pin!(self.handle(request, reader));
            let mut stopped = pin!(writer.stopped());
            poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(done),
                Poll::Pending => stopped
                    .as_mut()
                    .poll(cx)
                    .map(|()| Err(ExchangeError::Aborted)),
            })
            .await
        };

        match answered {
            Ok((mut answered, tunnel)) => {
                let status = answered.response.status();
                let outcome = RequestResult::Answered {
                    status: status.as_u16(),
                    observed: answered.observed.take(),
                    route: std::mem::take(&mut answered.route),
                    checks: Arc::clone(&answered.checks),
                    secrets: std::mem::take(&mut answered.secrets),
                };
                self.report(shown, outcome);

                if status == StatusCode::SWITCHING_PROTOCOLS && upgrade {
                    self.switch(writer, answered, tunnel).await;
                } else {
                    self.send_back(writer, answered, head_only).await;
                }
            }
            Err(ExchangeError::Aborted) => self.report(shown, RequestResult::Aborted),
            Err(ExchangeError::Completed(status)) => {
                self.report(shown, RequestResult::Challenge { status });
                let head = head::ExchangeResponse {
                    status: StatusCode::from_u16(status).unwrap_or(StatusCode::OK),
                    length: Some(0),
                    headers: HeaderMap::new(),
                };
                // A relay that is gone makes another attempt.
                let _ = self
                    .with_timeout(writer.whole(&head.encode(passes_to_sender), Bytes::new()))
                    .await;
            }
            Err(ExchangeError::Challenge(answer)) => {
                self.report(
                    shown,
                    RequestResult::Challenge {
                        status: answer.status.as_u16(),
                    },
                );

                let ChallengeResponse {
                    status,
                    headers,
                    body,
                    ..
                } = *answer;

                self.tap.response(status, &headers);
                self.tap.response_data(&body);
                self.tap.response_ended();
                let head = head::ExchangeResponse {
                    status,
                    length: Some(body.len() as u64),
                    headers,
                };

                // A relay that is gone needs no response.
                let _ = self
                    .with_timeout(writer.whole(&head.encode(passes_to_sender), body))
                    .await;
            }
            Err(ExchangeError::Refused(refusal)) => {
                let Refusal {
                    check,
                    code,
                    status,
                    reason,
                    ..
                } = refusal;

                self.report(
                    shown,
                    RequestResult::Refused {
                        status: status.as_u16(),
                        check,
                        reason,
                    },
                );
                self.fail(writer, code, status).await;
            }
            Err(ExchangeError::Failed(code, reason)) => {
                self.report(
                    shown,
                    RequestResult::Failed {
                        status: code.status().as_u16(),
                        code,
                        reason,
                    },
                );
                self.fail(writer, code, code.status()).await;
            }
        }
    }

    /// Runs a request up to the head of the application's response. Returns the reader for an
    /// upgrade, because it carries the sender's next bytes.
    async fn handle(
        &self,
        request: head::ExchangeRequest,
        reader: MessageReader,
    ) -> Result<(ResponseSent, Option<MessageReader>), ExchangeError> {
        self.check_host(&request)?;
        let now = self.handler.clock.moment();
        let mut body = None;
        let mut upgrading = None;

        if request.upgrade {
            upgrading = Some(reader);
        } else {
            body = Some(MessageBody::new(
                reader,
                request.length,
                &request.headers,
                self.deadlines.body_idle(),
            ));
        }

        let head = RequestHead {
            method: &request.method,
            target: &request.target,
            headers: &request.headers,
            origin: self.origin,
        };

        let (gate, state, client) = (
            self.gate.current(),
            &self.handler.state,
            request.meta.client,
        );
        if let Some(delivery) = request.meta.delivery
            && let Some(received) = delivery.received
            && !request.upgrade
        {
            let attempt = StoredAttempt {
                delivery,
                received,
                gates: self.gate.history(),
                now,
            };
            let sent = self.deliver(attempt, request, body).await?;
            return Ok((sent, None));
        }

        let (decision, body, held) =
            match gate.check_head(head, Evaluation::new(client, now, state))? {
                HeadVerdict::Decided(decision) => (decision, self.outgoing(body).await, None),
                HeadVerdict::ReadBody(pending) => {
                    let (whole, held) = self.read_whole(body, pending.max_body(), client).await?;
                    self.tap.whole_request(&whole);
                    let checked = self
                        .check_body(pending, head, &whole, now, &request.meta)
                        .await?;
                    let decision = match checked {
                        Ok(decision) => decision,
                        Err(refusal) => {
                            return Err(self
                                .diagnosed(refusal, &gate, &request, &whole, now)
                                .await
                                .into());
                        }
                    };
                    (decision, UpstreamBody::Whole(Full::new(whole)), Some(held))
                }
            };

        let permit = match decision {
            Decision::Forward(permit) => permit,
            // A gate that is compiled for the agent claims nothing.
            Decision::Claim(_) => {
                return Err(Refusal::malformed("the agent's gate remembers no deliveries").into());
            }
            Decision::Answer(answer) => return Err(ExchangeError::Challenge(answer)),
            Decision::Pair(secret, answer) => return Err(self.pair(&secret, answer)),
        };

        if request.upgrade && !permit.settings().websocket {
            return Err(Refusal::malformed(
                "the relay opened a WebSocket on a route that allows none",
            )
            .into());
        }

        self.tap.permitted();
        let facts = PermitFacts::of(&permit);
        if !self.started.try_start(request.meta.id) {
            // The request arrived before, over a connection that was lost: the application may have
            // it.
            return Err(ExchangeError::Failed(
                Code::TunnelError,
                "it was begun before its connection was lost".to_owned(),
            ));
        }

        let begun = self
            .begin(&request, permit.settings().answer_timeout)
            .await?;
        let (response, connection) = self
            .handler
            .ask(self.deadlines, &permit, request, body)
            .await?;
        drop(held);
        if response.status().is_success() {
            // On a route that stores deliveries, a relay must not present this one again.
            permit.note_processed(Evaluation::new(client, self.handler.clock.moment(), state));
            if let Some(begun) = begun {
                begun.complete(response.status().as_u16()).await;
            }
        }

        Ok((facts.with_response(response, connection), upgrading))
    }

    /// Returns the body for the application, for a request whose body no check reads.
    async fn outgoing(&self, body: Option<MessageBody>) -> UpstreamBody {
        let Some(mut body) = body else {
            self.tap.request_ended();
            return UpstreamBody::Whole(Full::default());
        };
        match body.take_if_arrived().await {
            Some(whole) => {
                self.tap.whole_request(&whole);
                UpstreamBody::Whole(Full::new(whole))
            }
            None => UpstreamBody::tunnel(body, self.tap.clone()),
        }
    }

    fn report(&self, shown: RequestSummary, outcome: RequestResult) {
        let RequestSummary {
            id,
            method,
            path,
            client,
            trace,
            since,
        } = shown;
        let (host, took) = (Arc::clone(self.host), since.elapsed());

        let report = RequestEvent {
            id,
            host,
            method,
            path,
            client,
            trace,
            took,
            outcome,
        };
        self.tap.outcome(&report);
        self.handler.events.observe(&report);
        // Beyond a number a second, refusals have no events of their own.
        let is_shown = report
            .outcome
            .check()
            .is_none_or(|check| self.handler.refused.take(check));
        if is_shown {
            self.handler.events.emit(Event::Request(Box::new(report)));
        }
    }
}

fn trace_of(headers: &HeaderMap) -> Option<TraceId> {
    TraceId::from_traceparent(headers.get(TRACEPARENT)?.as_bytes())
}
