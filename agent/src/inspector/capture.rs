//! Capture of exchanges for the inspector.
//!
//! A [`Tap`] copies what passes through one exchange. It never waits: beyond a rate, a number and a
//! size, requests are not captured, and counted.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::quota::Quota;
use hookward_tunnel::protocol::control::{RefusedContent, RefusedRequest};
use hookward_tunnel::protocol::head::{
    DeliveryMeta, ExchangeRequest, HeaderCase, RelayTiming, RequestId,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::policy::InspectedPolicy;
use crate::events::RequestEvent;

/// Maximum number of requests a second that are captured.
const REQUESTS_PER_SECOND: usize = 200;

/// Maximum number of bytes of a body that are kept.
pub(crate) const BODY_BYTES: usize = 256 * 1024;

/// Maximum memory of requests that are not written yet, in bytes.
const MEMORY: usize = 32 * 1024 * 1024;

/// Maximum number of requests that wait to be written: five seconds of the highest rate.
const QUEUE_LENGTH: usize = 1024;

/// Memory of a request without its fields and bodies, in bytes.
const REQUEST_BYTES: usize = 512;

/// Capture of exchanges for the inspector; clones share it. The default captures nothing.
#[derive(Clone, Default)]
pub struct Capture(Option<Arc<CaptureQueue>>);

struct CaptureQueue {
    captured: SyncSender<Captured>,
    // A std mutex: it guards a short list, and nothing waits while it is held.
    rate: Mutex<Quota<()>>,
    memory: Arc<AtomicUsize>,
    options: CaptureOptions,
    dropped: Dropped,
}

/// Settings of a capture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CaptureOptions {
    /// `true` to keep requests that a gate refuses.
    pub refused: bool,
    /// Names of header fields, parameters and JSON members whose values are not kept, in lower case.
    pub redacted: Vec<String>,
}

/// Number of requests that are not kept; clones share it.
#[derive(Clone, Default)]
pub(super) struct Dropped(Arc<AtomicU64>);

impl Dropped {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// Returns the size of header fields, in bytes.
fn size_of(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// Copies header fields, whose values would keep the buffer alive that they were read into.
fn copied(headers: &HeaderMap) -> HeaderMap {
    let mut copy = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            copy.append(name.clone(), value);
        }
    }
    copy
}

/// Something to record.
pub(super) enum Captured {
    Exchange(Box<CapturedExchange>),
    /// The relay refused a request.
    Refused(Box<CapturedRefusal>),
}

/// A request that reached the agent, with its response. It holds secrets, and so has no Debug.
pub(super) struct CapturedExchange {
    pub at: UnixMillis,
    pub id: RequestId,
    pub tunnel: Arc<str>,
    pub origin: Arc<str>,
    pub client: IpAddr,
    pub request: CapturedRequest,
    pub delivery: Option<DeliveryMeta>,
    pub policy: Arc<InspectedPolicy>,
    pub outcome: Option<RequestEvent>,
    pub response: Option<CapturedResponse>,
    pub timing: Timing,
    /// Origin of the request.
    pub source: Source,
    /// Public keys that the relay fetched for it.
    pub keys: FetchedKeys,
    pub charge: Charge,
}

/// A refusal by the relay.
pub(super) struct CapturedRefusal {
    pub refused: RefusedRequest,
    /// The request, if the relay sent it; decoded on the thread that records it.
    pub content: Option<RefusedContent>,
    pub at: UnixMillis,
    pub origin: Arc<str>,
    pub policy: Arc<InspectedPolicy>,
    pub charge: Charge,
}

/// Request of an exchange.
pub(super) struct CapturedRequest {
    pub method: Method,
    pub target: Bytes,
    pub headers: HeaderMap,
    pub header_case: HeaderCase,
    pub body: BodySample,
}

/// Response to the sender.
pub(super) struct CapturedResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: BodySample,
}

/// Beginning of a body.
#[derive(Default)]
pub(super) struct BodySample {
    pub kept: Vec<u8>,
    /// Size of the whole body, as far as it was read.
    pub total: u64,
    /// `true` once its end has passed.
    pub has_ended: bool,
}

/// Durations of the phases of an exchange.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// At the relay: receiving the body that its checks read.
    pub receive: Option<Duration>,
    /// At the relay: all else until the request was sent.
    pub relay: Option<Duration>,
    /// Round-trip time between relay and agent.
    pub tunnel: Option<Duration>,
    /// From the head of the request to the agent's permit, with the body that a check reads.
    pub gate: Option<Duration>,
    /// From the permit to the head of the application's response.
    pub application: Option<Duration>,
    /// From the head of the request to the end of the exchange, at the agent.
    pub total: Duration,
}

impl Timing {
    /// Returns the timing of an exchange that has just arrived.
    fn of_relay(timing: Option<RelayTiming>) -> Self {
        let micros = |micros: u32| Duration::from_micros(micros.into());
        Self {
            receive: timing.map(|timing| micros(timing.receive_us)),
            relay: timing.map(|timing| micros(timing.gate_us)),
            ..Self::default()
        }
    }
}

/// Origin of a captured request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A sender.
    Sender,
    /// The inspector's user, who sent this captured request again.
    Again(i64),
    /// The inspector's user, who sent a sample event.
    Sample,
}

impl BodySample {
    fn push(&mut self, data: &[u8], charge: &mut Charge) {
        // After a gap, a later piece is not the beginning.
        let is_beginning = self.total == self.kept.len() as u64;
        self.total += data.len() as u64;
        let room = BODY_BYTES.saturating_sub(self.kept.len());
        let kept = data.get(..room.min(data.len())).unwrap_or_default();
        if is_beginning && !kept.is_empty() && charge.grow(kept.len()) {
            self.kept.extend_from_slice(kept);
        }
    }

    /// Returns `true` if the sample is the whole body.
    pub(super) fn is_whole(&self) -> bool {
        self.has_ended && self.total == self.kept.len() as u64
    }
}

/// Memory of one captured request, until it is written.
pub(super) struct Charge {
    memory: Arc<AtomicUsize>,
    bytes: usize,
}

impl Charge {
    fn grow(&mut self, bytes: usize) -> bool {
        let fits = |used: usize| used.checked_add(bytes).filter(|used| *used <= MEMORY);
        let grown = self
            .memory
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if grown.is_ok() {
            self.bytes += bytes;
        }
        grown.is_ok()
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Capture {
    /// Creates a capture, and the receiver of what it captures.
    pub(super) fn new(options: CaptureOptions, dropped: Dropped) -> (Self, Receiver<Captured>) {
        let (sender, receiver) = sync_channel(QUEUE_LENGTH);
        let queue = CaptureQueue {
            captured: sender,
            rate: Mutex::new(Quota::new(REQUESTS_PER_SECOND)),
            memory: Arc::default(),
            options,
            dropped,
        };
        (Self(Some(Arc::new(queue))), receiver)
    }

    /// Returns the number of requests that were not captured.
    pub(crate) fn dropped(&self) -> u64 {
        let queue = self.0.as_ref();
        queue.map_or(0, |queue| queue.dropped.0.load(Ordering::Relaxed))
    }

    /// Returns `true` if requests that a gate refuses are captured.
    pub(crate) fn captures_refused(&self) -> bool {
        self.0.as_ref().is_some_and(|queue| queue.options.refused)
    }

    /// Returns the names whose values are not kept, beside those that the policy names.
    pub(crate) fn redacted(&self) -> &[String] {
        let queue = self.0.as_ref();
        queue.map_or(&[], |queue| &queue.options.redacted)
    }

    /// Begins to capture an exchange of a tunnel.
    pub(crate) fn begin(
        &self,
        request: &ExchangeRequest,
        tunnel: (&Arc<str>, &Arc<str>),
        policy: &Arc<InspectedPolicy>,
        (at, source): (UnixMillis, Source),
    ) -> Tap {
        let Some(queue) = &self.0 else {
            return Tap::default();
        };
        let mut charge = Charge {
            memory: Arc::clone(&queue.memory),
            bytes: 0,
        };
        let head = || request.target.len() + size_of(&request.headers);
        if !queue.admits() || !charge.grow(REQUEST_BYTES + head()) {
            queue.drop_one();
            return Tap::default();
        }

        let (tunnel, origin) = tunnel;
        let exchange = CapturedExchange {
            at,
            id: request.meta.id,
            tunnel: Arc::clone(tunnel),
            origin: Arc::clone(origin),
            client: request.meta.client,
            request: CapturedRequest {
                method: request.method.clone(),
                target: Bytes::copy_from_slice(&request.target),
                headers: copied(&request.headers),
                header_case: request.header_case.clone(),
                body: BodySample::default(),
            },
            delivery: request.meta.delivery,
            policy: Arc::clone(policy),
            outcome: None,
            response: None,
            timing: Timing::of_relay(request.meta.timing),
            source,
            keys: request.meta.keys.clone(),
            charge,
        };
        Tap(Some(Arc::new(TapInner {
            exchange: Mutex::new(Some(Box::new(exchange))),
            since: Instant::now(),
            queue: Arc::clone(queue),
        })))
    }

    /// Captures a request that the relay refused.
    pub(crate) fn refused(
        &self,
        refused: &RefusedRequest,
        content: Option<RefusedContent>,
        at: UnixMillis,
        (origin, policy): (&Arc<str>, &Arc<InspectedPolicy>),
    ) {
        let Some(queue) = self.0.as_ref().filter(|queue| queue.options.refused) else {
            return;
        };
        if refused.note {
            return;
        }
        let mut charge = Charge {
            memory: Arc::clone(&queue.memory),
            bytes: 0,
        };
        let bytes = content.as_ref().map_or(0, RefusedContent::len);
        if !queue.admits() || !charge.grow(REQUEST_BYTES + bytes) {
            return queue.drop_one();
        }
        queue.send(Captured::Refused(Box::new(CapturedRefusal {
            refused: refused.clone(),
            content,
            at,
            origin: Arc::clone(origin),
            policy: Arc::clone(policy),
            charge,
        })));
    }
}

impl CaptureQueue {
    fn admits(&self) -> bool {
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.take(())
    }

    fn drop_one(&self) {
        self.dropped.add(1);
    }

    fn send(&self, captured: Captured) {
        if self.captured.try_send(captured).is_err() {
            self.drop_one();
        }
    }
}

/// Copies what passes through one exchange; clones share it. The exchange is recorded when the last
/// clone is dropped.
#[derive(Clone, Default)]
pub(crate) struct Tap(Option<Arc<TapInner>>);

struct TapInner {
    // A std mutex: it guards copies of bytes, and nothing waits while it is held.
    exchange: Mutex<Option<Box<CapturedExchange>>>,
    since: Instant,
    queue: Arc<CaptureQueue>,
}

impl TapInner {
    fn lock(&self) -> MutexGuard<'_, Option<Box<CapturedExchange>>> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap {
    fn edit(&self, edit: impl FnOnce(&mut CapturedExchange, Duration)) {
        if let Some(tap) = &self.0
            && let Some(exchange) = tap.lock().as_mut()
        {
            edit(exchange, tap.since.elapsed());
        }
    }

    /// Copies a piece of the request's body.
    pub(crate) fn request_data(&self, data: &[u8]) {
        self.edit(|exchange, _| exchange.request.body.push(data, &mut exchange.charge));
    }

    /// Notes that the request came over a tunnel with this round-trip time.
    pub(crate) fn came_over(&self, rtt: impl FnOnce() -> Option<Duration>) {
        self.edit(|exchange, _| exchange.timing.tunnel = rtt());
    }

    /// Notes the end of the request's body.
    pub(crate) fn request_ended(&self) {
        self.edit(|exchange, _| exchange.request.body.has_ended = true);
    }

    /// Copies the whole body of the request.
    pub(crate) fn whole_request(&self, body: &[u8]) {
        self.request_data(body);
        self.request_ended();
    }

    /// Notes that the gate has permitted the request.
    pub(crate) fn permitted(&self) {
        self.edit(|exchange, elapsed| exchange.timing.gate = Some(elapsed));
    }

    /// Copies the result of the request.
    pub(crate) fn outcome(&self, outcome: &RequestEvent) {
        self.edit(|exchange, elapsed| {
            if let Some(gate) = exchange.timing.gate {
                exchange.timing.application = Some(elapsed.saturating_sub(gate));
            }
            exchange.outcome = Some(outcome.clone());
        });
    }

    /// Copies the head of the response.
    pub(crate) fn response(&self, status: StatusCode, headers: &HeaderMap) {
        self.edit(|exchange, _| {
            if exchange.charge.grow(size_of(headers)) {
                exchange.response = Some(CapturedResponse {
                    status,
                    headers: copied(headers),
                    body: BodySample::default(),
                });
            }
        });
    }

    /// Copies a piece of the response's body.
    pub(crate) fn response_data(&self, data: &[u8]) {
        self.edit(|exchange, _| {
            if let Some(response) = &mut exchange.response {
                response.body.push(data, &mut exchange.charge);
            }
        });
    }

    /// Notes the end of the response's body.
    pub(crate) fn response_ended(&self) {
        self.edit(|exchange, _| {
            if let Some(response) = &mut exchange.response {
                response.body.has_ended = true;
            }
        });
    }
}

impl Drop for TapInner {
    fn drop(&mut self) {
        let exchange = self.exchange.get_mut();
        let Some(mut exchange) = exchange.unwrap_or_else(PoisonError::into_inner).take() else {
            return;
        };
        exchange.timing.total = self.since.elapsed();
        // Only a permit tells that it is not a stranger's.
        let is_permitted = exchange.timing.gate.is_some();
        if is_permitted || self.queue.options.refused {
            self.queue.send(Captured::Exchange(exchange));
        }
    }
}
