//! Summary of refusals beyond those that are reported one by one.

use super::terms::{ExchangeHandler, PendingHeads, SessionTerms, TunnelBinding};
use super::terms::{InFlight, Pairing};
use crate::events::{Event, EventSink, RequestEvent, RequestResult};
use crate::exchange::started::StartedRequests;
use crate::upstream::header_case::HeaderCaseCache;
use crate::upstream::pool::{ConnectionPool, PooledConnection, UpstreamError};
use crate::upstream::{self, UpstreamBody};
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
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Lines a second for requests that the agent's own gate refuses, as the relay's for its own.
pub(super) const REFUSALS_PER_SECOND: usize = 20;

/// Interval of reports about the others.
pub(super) const SUMMARY_INTERVAL: Duration = Duration::from_secs(1);

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
    pub(super) fn take(&self, check: Check) -> bool {
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
