//! Facts about a request, and the guard that reports its outcome.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookward_core::clock::Moment;
use hookward_core::names::HostName;
use hookward_core::reason::Refusal;
use hookward_core::trace::TraceId;
use hookward_gate::request::RequestHead;
use hookward_tunnel::protocol::head::{RelayTiming, RequestId};
use http::Method;
use http::request::Parts;

use crate::edge::state::EdgeState;
use crate::observe::Observer;
use crate::observe::outcome::{
    BodySizes, Permitted, RefusedExchange, RequestFacts, RequestOutcome, Verdict,
};
use crate::sessions::registry::TunnelEndpoint;

/// State of a request at the edge, as far as it is known.
pub(crate) struct RequestContext {
    pub(crate) id: RequestId,
    /// Time at which the head was complete.
    pub(crate) received: Moment,
    /// The same time, for durations.
    pub(crate) since: Instant,
    pub(crate) method: Method,
    /// Host of the request.
    pub(crate) host: Option<HostName>,
    /// Client address.
    pub(crate) client: IpAddr,
    /// Path and query.
    pub(crate) target: Bytes,
    /// Trace of the sender (`traceparent`).
    pub(crate) trace: Option<TraceId>,
    pub(crate) tunnel: TunnelEndpoint,
    /// `true` if an agent owns the host.
    pub(crate) has_tunnel: bool,
    /// Facts of the permit, once the gate has given one.
    pub(crate) permitted: Option<Permitted>,
    /// Check that would have refused the request, if its route did not only observe.
    pub(crate) observed: Option<Refusal>,
    /// The request, if it was refused and the tunnel's owner wants it.
    pub(crate) refused: Option<RefusedExchange>,
    /// Hint for the tunnel's owner.
    pub(crate) note: Option<&'static str>,
    /// Size of the body in bytes, if known.
    pub(crate) body_bytes: Option<u64>,
}

impl RequestContext {
    /// Creates the context of a request whose host is not known yet.
    pub(crate) fn new(edge: &EdgeState, client: IpAddr, method: Method, target: Bytes) -> Self {
        Self {
            id: edge.ids.next(),
            received: edge.clock.moment(),
            since: Instant::now(),
            method,
            host: None,
            client,
            target,
            trace: None,
            tunnel: TunnelEndpoint::default(),
            has_tunnel: false,
            permitted: None,
            observed: None,
            refused: None,
            note: None,
            body_bytes: None,
        }
    }

    /// Returns the durations so far; `receiving` is the time that the body took.
    pub(crate) fn timing(&self, receiving: Duration) -> RelayTiming {
        let micros = |span: Duration| u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        RelayTiming {
            receive_us: micros(receiving),
            gate_us: micros(self.since.elapsed().saturating_sub(receiving)),
        }
    }

    /// Returns `true` if the tunnel's owner wants a request that is refused.
    pub(crate) fn owner_wants_refused(&self) -> bool {
        let owner = self.tunnel.owner();
        owner.is_some_and(|live| live.owner_events.wants_content())
    }

    /// Returns the facts for the gate.
    pub(crate) fn head<'r>(&'r self, parts: &'r Parts) -> RequestHead<'r> {
        RequestHead {
            method: &parts.method,
            target: &self.target,
            headers: &parts.headers,
            origin: &self.tunnel.origin,
        }
    }
}

/// A request whose outcome is still open. Dropping it reports an aborted request.
pub(crate) struct OpenRequest {
    pub(crate) context: RequestContext,
    observer: Arc<Observer>,
    is_closed: bool,
}

impl OpenRequest {
    pub(crate) fn new(context: RequestContext, edge: &EdgeState) -> Self {
        Self {
            context,
            observer: Arc::clone(&edge.observer),
            is_closed: false,
        }
    }

    /// Reports the outcome: the verdict, and the response that the sender gets.
    pub(crate) fn close<B: http_body::Body>(
        mut self,
        verdict: Verdict,
        response: &http::Response<B>,
    ) {
        let size = response.body().size_hint().exact();
        self.report(verdict, Some(response.status()), size);
        self.is_closed = true;
    }

    fn report(
        &mut self,
        verdict: Verdict,
        status: Option<http::StatusCode>,
        response_bytes: Option<u64>,
    ) {
        let context = &mut self.context;
        let outcome = RequestOutcome {
            verdict,
            status,
            took: context.since.elapsed(),
            sizes: BodySizes {
                request: context.body_bytes,
                response: response_bytes,
            },
            observed: context.observed.take(),
            note: context.note.take(),
        };

        let owner = context.tunnel.owner();
        let facts = RequestFacts {
            id: context.id,
            host: context.host.as_ref().map_or("", HostName::as_str),
            method: &context.method,
            target: &context.target,
            client: context.client,
            trace: context.trace,
            tunnel: context
                .host
                .as_ref()
                .filter(|_| context.has_tunnel)
                .map(HostName::as_str),
            agent: owner.map(|live| live.agent.name.as_str()),
            permitted: context.permitted.as_ref(),
            refused: context.refused.as_ref(),
            owner: owner.map(|live| &live.owner_events),
        };
        self.observer.request(facts, &outcome);
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if !self.is_closed {
            self.report(Verdict::Aborted, None, None);
        }
    }
}
