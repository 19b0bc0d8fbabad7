//! One exchange: a request comes out of the tunnel, passes the agent's own gate, goes to the
//! application, and the answer goes back. The relay is believed in one thing only: where the
//! request comes from. The time is the agent's own.

pub(crate) mod started;

use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hookward_core::clock::{Clock, Moment};
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::headers::{passes_to_sender, trailer_passes};
use hookward_core::limits::{DOCTOR_BYTES, GATHER_TIMEOUT, SMALL_BODY};
use hookward_core::names::HostName;
use hookward_core::quota::Quota;
use hookward_core::rate::ByteMeter;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::secret::Secret;
use hookward_core::text::shown_path;
use hookward_gate::engine::{
    Decision, Gate, GateState, HeadVerdict, PendingBody, Permit, Request, RequestHead,
};
use hookward_gate::inspection::Work;
use hookward_gate::providers::challenge::ChallengeResponse;
use hookward_gate::request::OwnedHead;
use hookward_runtime::body_memory::{BodyMemory, MemoryCharge};
use hookward_runtime::offload::{OFFLOAD_BYTES, Offload, OffloadQueue, QueueTimeout};
use hookward_tunnel::body_buffer::BodyBuffer;
use hookward_tunnel::protocol::control::Deadlines;
use hookward_tunnel::protocol::head::{self, ExchangeFailure, RequestId};
use hookward_tunnel::transport::splice::splice;
use hookward_tunnel::transport::{MessageBody, MessageReader, MessageWriter, StreamError};
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::events::{Event, EventSink, RequestEvent, RequestResult};
use crate::exchange::started::StartedRequests;
use crate::upstream::header_case::HeaderCaseCache;
use crate::upstream::pool::{ConnectionPool, PooledConnection, UpstreamError};
use crate::upstream::{self, UpstreamBody};

/// For the head of an exchange, whose first bytes opened the stream.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Most heads of a connection that have begun and not ended: others wait in the transport's window.
const PENDING_HEADS_PER_CONNECTION: usize = 128;
/// Most of them of all connections: one head has up to 96 KiB, so relays that end none of them cost
/// 32 MiB.
const PENDING_HEADS: usize = 340;

/// Places for heads that have not ended, of all connections; clones share them.
#[derive(Clone)]
pub(crate) struct PendingHeads(Arc<Semaphore>);

impl Default for PendingHeads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PENDING_HEADS)))
    }
}

/// Heads above this size count against the memory for bodies, in bytes: few requests have one.
const SMALL_HEAD: usize = 8 * 1024;

/// Lines a second for requests that the agent's own gate refuses, as the relay's for its own.
const REFUSALS_PER_SECOND: usize = 20;

/// Interval of reports about the others.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);

/// State that all exchanges of one tunnel share.
pub(crate) struct ExchangeHandler {
    /// State of the gate; empty on this side.
    pub state: Arc<GateState>,
    /// Receiver of a secret that a provider sends in its challenge; only while pairing.
    pub pairing: Option<Pairing>,
    /// The agent's own clock.
    pub clock: Clock,
    /// Connections to the application.
    pub pool: ConnectionPool,
    /// `true` if other agents share the tunnel.
    pub pooled: bool,
    /// Cost of diagnoses of wrong signatures.
    pub diagnoses: Arc<ByteMeter>,
    /// Threads for checks of large bodies.
    pub offload: Offload,
    /// Queue of this tunnel's checks.
    pub checks: OffloadQueue,
    /// Case of header names.
    pub header_case: HeaderCaseCache,
    /// Sink of events.
    pub events: EventSink,
    /// Memory for bodies that checks must read.
    pub body_memory: BodyMemory,
    /// Requests under way, of all tunnels.
    pub in_flight: InFlight,
    /// Refusals of the agent's own gate, which a hostile relay could cause without end.
    pub refused: RefusalSummary,
}

/// Requests under way; clones share the count.
#[derive(Clone, Default)]
pub struct InFlight(Arc<AtomicUsize>);

/// One of them, until it is dropped.
struct InFlightGuard<'u>(&'u InFlight);

impl InFlight {
    /// Number of requests in progress.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn begin(&self) -> InFlightGuard<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self)
    }
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refusals of the agent's own gate: so many a second one by one, the others as counts.
pub(crate) struct RefusalSummary(
    // A std mutex: it guards a short list, and nothing waits while it is held.
    Mutex<Quota<Check>>,
);

impl Default for RefusalSummary {
    fn default() -> Self {
        Self(Mutex::new(Quota::new(REFUSALS_PER_SECOND)))
    }
}

impl RefusalSummary {
    fn take(&self, check: Check) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(check)
    }

    /// Reports what was only counted, every second, until `stop` is cancelled.
    pub(crate) async fn report_counts(&self, reporter: &EventSink, stop: &CancellationToken) {
        let mut due = interval(SUMMARY_INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);

        while !stop.is_cancelled() {
            tokio::select! {
                _ = due.tick() => {}
                () = stop.cancelled() => {}
            }

            let counted = self
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take_counted();
            if !counted.is_empty() {
                reporter.emit(Event::RefusedSummary(counted));
            }
        }
    }
}

/// Takes the secret that a provider tells in its handshake.
pub type Pairing = Box<dyn Fn(&Secret) -> std::io::Result<()> + Send + Sync>;

/// Terms of the session that an exchange belongs to.
pub(crate) struct SessionTerms {
    /// Deadlines of the relay's settings.
    pub deadlines: Deadlines,
    /// The tunnels: requests for any other host are none of this agent's.
    pub hosts: Vec<TunnelBinding>,
    /// Requests that were begun, of this relay: their ids are its own.
    pub started: Arc<StartedRequests>,
    /// Places for heads that have not ended, of this connection.
    pub heads: Semaphore,
    /// Memory for unfinished heads of all connections.
    pub all_heads: PendingHeads,
    /// `true` once something that is no request has been reported.
    pub malformed: AtomicBool,
}

impl SessionTerms {
    /// The agent's tunnel of this position, if it is open on this connection.
    #[must_use]
    pub(crate) fn at(&self, tunnel: usize) -> Option<&TunnelBinding> {
        self.hosts.iter().find(|at| at.tunnel == tunnel)
    }

    /// The terms of one connection.
    #[must_use]
    pub(crate) fn new(
        deadlines: Deadlines,
        hosts: Vec<TunnelBinding>,
        begun: Arc<StartedRequests>,
        all_heads: PendingHeads,
    ) -> Self {
        let (heads, malformed) = (
            Semaphore::new(PENDING_HEADS_PER_CONNECTION),
            AtomicBool::new(false),
        );
        Self {
            deadlines,
            hosts,
            started: begun,
            heads,
            all_heads,
            malformed,
        }
    }
}

/// A tunnel that is open.
pub(crate) struct TunnelBinding {
    /// Which of the agent's tunnels it is, by its position.
    pub tunnel: usize,
    pub host: Arc<str>,
    /// Scheme and authority of its public URL.
    pub origin: Arc<str>,
    /// The agent's copy of the policy, as it is in force at this relay.
    pub gate: Arc<ArcSwap<Gate>>,
    /// Handler of its exchanges.
    pub handler: Arc<ExchangeHandler>,
}

/// One exchange, and the terms of its session.
struct Exchange<'r> {
    handler: &'r ExchangeHandler,
    gate: &'r ArcSwap<Gate>,
    deadlines: Deadlines,
    host: &'r Arc<str>,
    origin: &'r str,
    started: &'r StartedRequests,
}

/// Reason why there is no response of the application.
enum ExchangeError {
    Refused(Refusal),
    Failed(Code, String),
    /// The agent answers a provider's handshake itself.
    Handshake(Box<ChallengeResponse>),
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

/// First fields of a request's event.
struct RequestSummary {
    id: RequestId,
    method: Method,
    path: String,
    client: IpAddr,
    since: Instant,
}

/// An answer that has begun.
struct ResponseSent {
    response: Response<Incoming>,
    connection: PooledConnection,
    observed: Option<(Check, String)>,
    secrets: Vec<String>,
}

/// Handles one exchange to its end.
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
            // Once for each connection: a hostile relay could fill the log.
            if !terms.malformed.swap(true, Ordering::Relaxed) {
                tracing::warn!(%error, "the relay sent something that is no request");
            }
            return;
        }
    };

    let asked = |at: &&TunnelBinding| request.meta.host.eq_ignore_ascii_case(at.host.as_bytes());

    // A host that no tunnel has is refused by the first one, and so told to the user.
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

    let _counted = at.handler.in_flight.begin();
    // A large head is held for as long as its exchange, and counts like a body.
    let mut held = at.handler.body_memory.begin(request.meta.client);
    held.complete();

    if length > SMALL_HEAD && held.grow(length as u64).is_err() {
        return;
    }

    Exchange {
        handler: &at.handler,
        gate: &at.gate,
        deadlines,
        host,
        origin,
        started: begun,
    }
    .run(writer, reader, request)
    .await;
}

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
            path: shown_path(&request.target),
            client: request.meta.client,
            since: Instant::now(),
        };

        let head_only = request.method == Method::HEAD;
        let upgrade = request.upgrade;
        // The work is raced with the relay: when it goes away, the application must hear of it.
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
            Ok((answered, tunnel)) => {
                let status = answered.response.status();
                let (observed, secrets) = (answered.observed.clone(), answered.secrets.clone());
                let outcome = RequestResult::Answered {
                    status: status.as_u16(),
                    observed,
                    secrets,
                };
                self.report(shown, outcome);

                if status == StatusCode::SWITCHING_PROTOCOLS && upgrade {
                    self.switch(writer, answered, tunnel).await;
                } else {
                    self.send_back(writer, answered, head_only).await;
                }
            }
            Err(ExchangeError::Aborted) => self.report(shown, RequestResult::Aborted),
            Err(ExchangeError::Handshake(answer)) => {
                self.report(
                    shown,
                    RequestResult::Handshake {
                        status: answer.status.as_u16(),
                    },
                );

                let ChallengeResponse {
                    status,
                    headers,
                    body,
                    ..
                } = *answer;

                let head = head::ExchangeResponse {
                    status,
                    length: Some(body.len() as u64),
                    headers,
                };

                // A relay that is gone needs no answer.
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

    /// From the request to the head of the application's answer. For an upgrade the reader comes
    /// back: it holds what the sender goes on to say.
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
            self.gate.load_full(),
            &self.handler.state,
            request.meta.client,
        );
        let (decision, body, held) = match gate.check_head(head, client, now, state)? {
            HeadVerdict::Decided(decision) => (decision, outgoing(body).await, None),
            HeadVerdict::ReadBody(pending) => {
                let (whole, held) = self.read_whole(body, pending.max_body(), client).await?;
                let checked = self
                    .check(pending, head, &whole, now, &request.meta.keys)
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
            // Compiled for the agent, a gate claims nothing.
            Decision::Claim(_) => {
                return Err(Refusal::malformed("the agent's gate remembers no deliveries").into());
            }
            Decision::Answer(answer) => return Err(ExchangeError::Handshake(answer)),
            Decision::Pair(secret, answer) => return Err(self.pair(&secret, answer)),
        };

        if request.upgrade && !permit.settings().websocket {
            return Err(Refusal::malformed(
                "the relay opened a WebSocket on a route that allows none",
            )
            .into());
        }

        let observed = permit
            .observed()
            .map(|refusal| (refusal.check, refusal.reason.clone()));
        let secrets = permit.secrets().to_vec();

        if !self.started.try_start(request.meta.id) {
            // It came before, over a connection that was lost since: the application may have it.
            return Err(ExchangeError::Failed(
                Code::TunnelError,
                "it was begun before its connection was lost".to_owned(),
            ));
        }

        let (response, connection) = self.ask(permit, request, body).await?;
        drop(held);
        Ok((
            ResponseSent {
                response,
                connection,
                observed,
                secrets,
            },
            upgrading,
        ))
    }

    /// Runs the checks of the body: of a large one on another thread.
    async fn check(
        &self,
        pending: PendingBody,
        head: RequestHead<'_>,
        body: &Bytes,
        now: Moment,
        keys: &FetchedKeys,
    ) -> Result<Result<Decision, Refusal>, ExchangeError> {
        let state = Arc::clone(&self.handler.state);
        if body.len() <= OFFLOAD_BYTES {
            return Ok(pending.check_body(head, body, now, &state, keys));
        }

        let (head, body, keys) = (OwnedHead::from(head), body.clone(), keys.clone());
        let check = move || pending.check_body(head.head(), &body, now, &state, &keys);
        self.handler
            .offload
            .run(&self.handler.checks, check)
            .await
            .map_err(|QueueTimeout| {
                ExchangeError::Failed(Code::Overloaded, QueueTimeout.to_string())
            })
    }

    /// Adds what would have made a wrong signature right, as long as diagnoses do not cost too much
    /// and a thread is free.
    async fn diagnosed(
        &self,
        refusal: Refusal,
        gate: &Arc<Gate>,
        request: &head::ExchangeRequest,
        body: &Bytes,
        now: Moment,
    ) -> Refusal {
        let diagnoses = &self.handler.diagnoses;
        if refusal.check != Check::Signature || !diagnoses.has_room(now.steady) {
            return refusal;
        }

        let (method, target, headers) = (&request.method, &request.target, &request.headers);
        let head = OwnedHead::from(RequestHead {
            method,
            target,
            headers,
            origin: self.origin,
        });

        let (gate, body, keys) = (Arc::clone(gate), body.clone(), request.meta.keys.clone());
        let work = Work::up_to(DOCTOR_BYTES);
        let (meter, clock) = (Arc::clone(diagnoses), self.handler.clock.clone());
        let diagnose = move || {
            let hints = gate.diagnose(&Request::new(head.head(), &body), &keys, now.wall, &work);
            // Here, and not behind the await: a request that is broken off is charged, too.
            meter.spend(work.total(), clock.moment().steady);
            hints
        };

        let hints = self
            .handler
            .offload
            .run_at_once(diagnose)
            .await
            .unwrap_or_default();
        match hints.first() {
            Some(hint) => Refusal {
                reason: format!("{}; {hint}", refusal.reason),
                ..refusal
            },
            None => refusal,
        }
    }

    /// Keeps the secret that a provider tells, and answers it.
    fn pair(&self, secret: &Secret, answer: Box<ChallengeResponse>) -> ExchangeError {
        match self.handler.pairing.as_ref().map(|keep| keep(secret)) {
            Some(Ok(())) => ExchangeError::Handshake(answer),
            Some(Err(error)) => ExchangeError::Failed(
                Code::Overloaded,
                format!("the secret could not be kept: {error}"),
            ),
            None => Refusal::failed(Check::Signature, "no pairing is under way").into(),
        }
    }

    /// The relay chooses the tunnel by its host; the application may choose a site by it, too.
    fn check_host(&self, request: &head::ExchangeRequest) -> Result<(), Refusal> {
        let mut fields = request.headers.get_all(header::HOST).iter();
        let (field, more) = (fields.next(), fields.next());
        let name = field
            .and_then(|value| value.to_str().ok())
            .and_then(HostName::parse_authority);
        let fits = name.is_some_and(|(name, _)| name.as_str() == &**self.host) && more.is_none();
        if fits && request.meta.host.eq_ignore_ascii_case(self.host.as_bytes()) {
            return Ok(());
        }

        Err(Refusal::new(
            Check::Host,
            Code::Malformed,
            "the request is not for this tunnel's host",
        ))
    }

    /// Reads a body that a check must see, inside the agent's own budget.
    async fn read_whole(
        &self,
        body: Option<MessageBody>,
        cap: u64,
        client: IpAddr,
    ) -> Result<(Bytes, MemoryCharge), ExchangeError> {
        let mut charge = self.handler.body_memory.begin(client);
        let Some(mut body) = body else {
            return Ok((Bytes::new(), charge));
        };
        let too_large = || {
            Refusal::new(
                Check::BodySize,
                Code::BodyTooLarge,
                format!("the body has more than {cap} bytes"),
            )
        };

        if body.size_hint().exact().is_some_and(|length| length > cap) {
            return Err(too_large().into());
        }

        let reading = async {
            let mut pieces = BodyBuffer::expecting(body.size_hint().exact());
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame.map_err(|_| ExchangeError::Aborted)?.into_data() else {
                    continue;
                };
                if pieces.len() as u64 + data.len() as u64 > cap {
                    return Err(ExchangeError::Refused(too_large()));
                }

                charge
                    .grow(data.len() as u64)
                    .map_err(|full| ExchangeError::Failed(Code::Overloaded, full.to_string()))?;
                pieces.add(data);
            }

            Ok(pieces.into_bytes())
        };

        match timeout(self.deadlines.body_read(), reading).await {
            Ok(read) => {
                charge.complete();
                Ok((read?, charge))
            }
            Err(_) => Err(Refusal::new(
                Check::Body,
                Code::RequestTimeout,
                "the body came too slowly",
            )
            .into()),
        }
    }

    async fn ask(
        &self,
        permit: Permit,
        request: head::ExchangeRequest,
        body: UpstreamBody,
    ) -> Result<(Response<Incoming>, PooledConnection), ExchangeError> {
        let patience = permit.settings().answer_timeout;
        let sent = body.progress();
        let request = upstream::request(
            &permit,
            request,
            body,
            &self.handler.header_case,
            self.handler.pool.application(),
        )
        .map_err(|error| ExchangeError::Refused(Refusal::malformed(error.to_string())))?;

        let answers = self.handler.pool.answers();
        let mut asking = pin!(self.handler.pool.send(request));
        // A large upload may take its time, as long as it gets on: the wait for the answer begins
        // at its end.
        let answered = loop {
            let patience = if sent.is_over() {
                patience
            } else {
                self.deadlines.body_idle().max(patience)
            };
            tokio::select! {
                answered = timeout(patience, asking.as_mut()) => break answered,
                () = sent.changed() => {}
            }
        };

        match answered {
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(error @ UpstreamError::Connect { .. })) => {
                let next = if self.handler.pooled {
                    "; another agent of the pool gets it, if there is one"
                } else {
                    ""
                };

                Err(ExchangeError::Failed(
                    Code::UpstreamUnreachable,
                    format!("{error}{next}"),
                ))
            }
            Ok(Err(UpstreamError::Aborted(error))) if error.is_user() => {
                Err(ExchangeError::Aborted)
            }
            Ok(Err(error)) => {
                // One that speaks https closes the connection, with or without a word of TLS.
                let application = self.handler.pool.application();
                let broke = matches!(&error, UpstreamError::Aborted(_));
                let mistaken =
                    broke && answers == 0 && application.tls.is_none() && !application.http2;
                let hint = match mistaken {
                    true => format!("; does it speak https? Then use https://{application}"),
                    false => String::new(),
                };

                Err(ExchangeError::Failed(
                    Code::UpstreamError,
                    format!("{error}{hint}"),
                ))
            }
            Err(_) => {
                self.handler.pool.note_silence(patience, answers);
                let reason = format!(
                    "the application did not answer within {} s",
                    patience.as_secs_f64()
                );
                Err(ExchangeError::Failed(Code::UpstreamTimeout, reason))
            }
        }
    }

    /// Sends the application's answer to the relay, and keeps the connection for the next request.
    async fn send_back(&self, mut writer: MessageWriter, answered: ResponseSent, head_only: bool) {
        let ResponseSent {
            response,
            connection,
            ..
        } = answered;
        let (parts, mut body) = response.into_parts();

        let bodiless = head_only
            || matches!(
                parts.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            )
            || body.is_end_stream();
        let length = if bodiless {
            Some(0)
        } else {
            body.size_hint().exact()
        };

        let response = head::ExchangeResponse {
            status: parts.status,
            length,
            headers: parts.headers,
        };
        let head = response.encode(passes_to_sender);

        let sent = match length {
            Some(0) => self.with_timeout(writer.whole(&head, Bytes::new())).await,
            Some(length) if length <= SMALL_BODY as u64 => {
                self.send_small(writer, &head, &mut body).await
            }
            _ => {
                writer.deprioritise();
                match self.with_timeout(writer.head(&head)).await {
                    Ok(()) => self.stream(writer, &mut body, &response.headers).await,
                    Err(()) => Err(()),
                }
            }
        };
        if sent.is_ok() {
            self.handler.pool.put_back(connection).await;
        }
    }

    /// A small answer goes in one piece, with its head, if all of it comes at once.
    async fn send_small(
        &self,
        mut writer: MessageWriter,
        head: &[u8],
        body: &mut Incoming,
    ) -> Result<(), ()> {
        let deadline = tokio::time::Instant::now() + GATHER_TIMEOUT;
        let mut gathered = BodyBuffer::expecting(body.size_hint().exact());

        loop {
            match timeout_at(deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        gathered.add(data);
                    }
                }
                Ok(Some(Err(_))) => {
                    // Nothing was sent yet, so the sender can still be told the truth.
                    self.fail(writer, Code::UpstreamError, Code::UpstreamError.status())
                        .await;
                    return Err(());
                }
                Ok(None) => {
                    return self
                        .with_timeout(writer.whole(head, gathered.into_bytes()))
                        .await;
                }
                Err(_) => break,
            }
        }

        self.with_timeout(writer.head(head)).await?;
        self.with_timeout(writer.data(gathered.into_bytes()))
            .await?;
        self.stream(writer, body, &HeaderMap::new()).await
    }

    /// An answer as it comes.
    async fn stream(
        &self,
        mut writer: MessageWriter,
        body: &mut Incoming,
        announced: &HeaderMap,
    ) -> Result<(), ()> {
        loop {
            let next = tokio::select! {
                next = timeout(self.deadlines.body_idle(), body.frame()) => next.map_err(drop)?,
                () = writer.stopped() => return Err(()),
            };
            match next {
                None => return self.with_timeout(writer.finish()).await,
                Some(Err(_)) => return Err(()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.with_timeout(writer.data(data)).await?,
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else {
                            continue;
                        };
                        let payload = head::encode_trailers(&trailers, |name| {
                            trailer_passes(announced, name)
                        });
                        self.with_timeout(writer.trailers(&payload)).await?;
                    }
                },
            }
        }
    }

    /// A write into the tunnel, under its deadline. Dropping the writer afterwards is the abort.
    async fn with_timeout(
        &self,
        write: impl Future<Output = Result<(), StreamError>>,
    ) -> Result<(), ()> {
        timeout(self.deadlines.body_idle(), write)
            .await
            .map_err(drop)?
            .map_err(drop)
    }

    /// A WebSocket: the application said yes, bytes go both ways from here.
    async fn switch(
        &self,
        mut writer: MessageWriter,
        answered: ResponseSent,
        reader: Option<MessageReader>,
    ) {
        let Some(reader) = reader else { return };
        let (mut parts, body) = answered.response.into_parts();
        let mut headers = std::mem::take(&mut parts.headers);
        headers.remove(header::CONTENT_LENGTH);

        let answer = head::ExchangeResponse {
            status: parts.status,
            length: Some(0),
            headers,
        };

        if self
            .with_timeout(writer.head(&answer.encode(passes_to_sender)))
            .await
            .is_err()
        {
            return;
        }

        let upgraded = hyper::upgrade::on(Response::from_parts(parts, body));
        if let Ok(Ok(upgraded)) = timeout(self.deadlines.body_idle(), upgraded).await {
            splice(
                TokioIo::new(upgraded),
                writer,
                reader,
                self.deadlines.upgrade_idle(),
            )
            .await;
        }
    }

    /// Tells the relay why there is no answer; the relay puts it into words for the sender.
    async fn fail(&self, writer: MessageWriter, code: Code, status: StatusCode) {
        let head = ExchangeFailure { code, status }.encode();
        // A relay that is gone needs no word.
        let _ = self.with_timeout(writer.whole(&head, Bytes::new())).await;
    }

    fn report(&self, shown: RequestSummary, outcome: RequestResult) {
        if let RequestResult::Refused { check, .. } = &outcome
            && !self.handler.refused.take(*check)
        {
            return;
        }

        let RequestSummary {
            id,
            method,
            path,
            client,
            since,
        } = shown;
        let (host, took) = (Arc::clone(self.host), since.elapsed());

        let report = RequestEvent {
            id,
            host,
            method,
            path,
            client,
            took,
            outcome,
        };
        self.handler.events.emit(Event::Request(Box::new(report)));
    }
}

/// The body for the application of a request that no check has to read.
async fn outgoing(body: Option<MessageBody>) -> UpstreamBody {
    let Some(mut body) = body else {
        return UpstreamBody::Whole(Full::default());
    };
    match body.take_if_arrived().await {
        Some(whole) => UpstreamBody::Whole(Full::new(whole)),
        None => UpstreamBody::tunnel(body),
    }
}
