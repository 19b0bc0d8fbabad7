//! Consumes the outcome of every request: one audit record, one log line, counters, one event for the
//! tunnel's owner, and one event for subscribers.

use std::net::IpAddr;
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_core::reason::{Check, Refusal};
use hookward_core::text::{Escaped, printable, shown_path};
use hookward_observe::audit::{AuditLog, Causer, LimitedKind};
use hookward_tunnel::protocol::control::{RefusedContent, RefusedRequest};
use http::StatusCode;
use serde_json::json;

use crate::observe::activity::{LastHour, MinuteCounts};
use crate::observe::audit;
use crate::observe::clients::{ClientCount, ClientCounts};
use crate::observe::events::{EventBus, EventStamp, RelayEventKind, RequestRecord, Subscription};
use crate::observe::metrics::RelayMetrics;
use crate::observe::millis;
use crate::observe::outcome::{RefusedExchange, Reporter, RequestFacts, RequestOutcome, Verdict};
use crate::observe::owner_events::OwnerEvents;
use crate::observe::request_log::RequestLog;
use crate::storage::deliveries::{DueDelivery, Outcome, StoreRefusal};

/// Length of a minute, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// Observer of requests and sessions. Nothing else reports the outcome of a request.
pub(crate) struct Observer {
    audit: AuditLog,
    log: RequestLog,
    metrics: RelayMetrics,
    clients: ClientCounts,
    hour: LastHour,
    clock: Clock,
    events: EventBus,
}

impl Observer {
    pub(crate) fn new(clock: Clock, audit: AuditLog) -> Self {
        Self {
            audit,
            log: RequestLog::default(),
            metrics: RelayMetrics::new(),
            clients: ClientCounts::default(),
            hour: LastHour::default(),
            clock: clock.clone(),
            events: EventBus::new(clock),
        }
    }

    /// Returns the audit log.
    pub(crate) const fn audit(&self) -> &AuditLog {
        &self.audit
    }

    /// Returns the log of requests.
    pub(crate) const fn log(&self) -> &RequestLog {
        &self.log
    }

    /// Returns the counters.
    pub(crate) const fn metrics(&self) -> &RelayMetrics {
        &self.metrics
    }

    /// Returns the `most` most active clients, and the sum of those that are not counted.
    pub(crate) fn top_clients(&self, most: usize) -> (Vec<(IpAddr, ClientCount)>, ClientCount) {
        self.clients.top(most, self.minute())
    }

    /// Returns the counts of each minute of the last hour, the oldest first.
    pub(crate) fn last_hour(&self) -> Vec<MinuteCounts> {
        self.hour.counts(self.minute())
    }

    /// Returns the number of the present minute, by the clock that nothing sets.
    fn minute(&self) -> u64 {
        self.clock.moment().steady.0 / MINUTE_MS
    }

    /// Subscribes to the events from now on.
    pub(crate) fn subscribe(&self) -> Subscription {
        self.events.subscribe()
    }

    /// Publishes an event of a session.
    pub(crate) fn publish(&self, kind: impl FnOnce() -> RelayEventKind) {
        self.events.publish(kind);
    }

    /// Observes a connection that failed to authenticate as an agent.
    pub(crate) fn agent_failed(&self, client: IpAddr, kind: &'static str, reason: &str) {
        self.log.agent_failed(kind, reason);
        self.metrics.agent_handshake(kind);
        let kind = LimitedKind {
            event: "agent_failed",
            reason: kind,
        };
        let fields =
            || json!({ "address": client, "kind": kind.reason, "reason": printable(reason) });
        self.audit.limited(Causer::Stranger, client, kind, fields);
    }

    /// Observes a webhook that could not be stored, and whose sender gets another response.
    pub(crate) fn not_stored(&self, tunnel: &str, refusal: &StoreRefusal) {
        tracing::warn!(target: "requests", event = "not_stored", tunnel, reason = %refusal);
    }

    /// Observes the end of an attempt of a stored delivery.
    pub(crate) fn delivery(
        &self,
        tunnel: &str,
        head: &DueDelivery,
        attempt: u32,
        took: Duration,
        outcome: &Outcome,
    ) {
        let (event, status, reason) = match outcome {
            Outcome::Delivered { status } => ("delivered", Some(*status), None),
            Outcome::Retry { status, error, .. } => ("delivery_failed", *status, Some(error)),
            Outcome::Dead { status, reason, .. } => ("dead_letter", *status, Some(reason)),
        };
        let id = head.id.to_string();
        match outcome {
            Outcome::Dead { .. } if self.log.take(event, "") => {
                tracing::warn!(target: "requests", event, tunnel, id, attempt, status, reason);
            }
            _ => tracing::debug!(target: "requests", event, tunnel, id, attempt, status, reason),
        }
        let fields = json!({
            "delivery": id,
            "tunnel": tunnel,
            "attempt": attempt,
            "status": status,
            "reason": reason.map(|reason| printable(reason)),
            "ms": millis(took),
        });
        self.audit.record(event, &fields);
        self.metrics.attempt(tunnel, event);
    }

    /// Observes the outcome of a request.
    pub(crate) fn request(&self, facts: RequestFacts<'_>, outcome: &RequestOutcome) {
        audit::request(&self.audit, facts, outcome);
        self.log.request(facts, outcome);
        self.metrics.request(facts, outcome);
        let minute = self.minute();
        self.clients.request(facts, outcome, minute);
        self.hour.request(outcome, minute);
        let stamp = self
            .events
            .publish(|| RelayEventKind::Request(Box::new(record(facts, outcome))));
        if let Some(owner) = facts.owner {
            notify(owner, facts, outcome, stamp);
        }
    }
}

/// Reports an outcome to the tunnel's owner, and to no one else. The agent itself reports what
/// reached it.
fn notify(
    owner: &OwnerEvents,
    facts: RequestFacts<'_>,
    outcome: &RequestOutcome,
    stamp: EventStamp,
) {
    let took = outcome.took;
    let event = |check| event(facts, check, took, stamp);
    let refused = |refusal: &Refusal| RefusedRequest {
        status: refusal.status.as_u16(),
        reason: refusal.reason.clone(),
        ..event(refusal.check)
    };

    if let Some(note) = outcome.note {
        owner.push(Check::Syntax, |_| RefusedRequest {
            reason: note.to_owned(),
            note: true,
            ..event(Check::Syntax)
        });
    }

    if let Some(refusal) = &outcome.observed {
        owner.push(refusal.check, |_| RefusedRequest {
            status: StatusCode::OK.as_u16(),
            observed: true,
            ..refused(refusal)
        });
    }

    match &outcome.verdict {
        Verdict::Refused(refusal) => {
            owner.push(refusal.check, |has_room| RefusedRequest {
                content: facts.refused.filter(|_| has_room).map(content),
                ..refused(refusal)
            });
        }
        // The agent shows the attempt to deliver it.
        Verdict::Stored(stored) if !stored.is_fallback => {}
        Verdict::Challenge(_) | Verdict::Duplicate | Verdict::Stored(_) => {
            let check = outcome.verdict.check().unwrap_or(Check::Tunnel);
            owner.push(check, |_| RefusedRequest {
                status: outcome.status.map_or(0, |status| status.as_u16()),
                reason: outcome.verdict.reason().unwrap_or_default().to_owned(),
                answered: true,
                ..event(check)
            });
        }
        Verdict::Failed(failure) if failure.reported_by == Reporter::Relay => {
            let refusal = Refusal::new(Check::Tunnel, failure.code, failure.reason.as_str());
            owner.push(Check::Tunnel, |_| refused(&refusal));
        }
        Verdict::Forwarded(_)
        | Verdict::RefusedByAgent { .. }
        | Verdict::Failed(_)
        | Verdict::Overloaded
        | Verdict::Aborted => {}
    }
}

/// Returns the fields that all events of the owner have.
fn event(
    facts: RequestFacts<'_>,
    check: Check,
    took: Duration,
    stamp: EventStamp,
) -> RefusedRequest {
    RefusedRequest {
        id: facts.id.to_string(),
        host: facts.host.to_owned(),
        method: Escaped(facts.method.as_str().as_bytes()).to_string(),
        path: shown_path(facts.target).into_owned(),
        client: facts.client.to_string(),
        status: 0,
        check,
        reason: String::new(),
        ms: millis(took),
        observed: false,
        answered: false,
        note: false,
        age_ms: 0,
        at_ms: stamp.at.0,
        order: stamp.order,
        content: None,
    }
}

fn content(refused: &RefusedExchange) -> RefusedContent {
    let RefusedExchange {
        head,
        body,
        body_bytes,
    } = refused;
    RefusedContent::new(head, body.as_deref(), *body_bytes)
}

/// Returns the record for subscribers.
fn record(facts: RequestFacts<'_>, outcome: &RequestOutcome) -> RequestRecord {
    let verdict = &outcome.verdict;
    let upstream = match verdict {
        Verdict::Forwarded(upstream) => Some(*upstream),
        _ => None,
    };

    RequestRecord {
        id: facts.id.to_string(),
        host: facts.host.to_owned(),
        method: Escaped(facts.method.as_str().as_bytes()).to_string(),
        path: shown_path(facts.target).into_owned(),
        client: facts.client,
        event: verdict.event(),
        status: outcome.status.map(|status| status.as_u16()),
        check: verdict.check().map(Check::as_str),
        code: verdict.code().map(|code| code.as_str()),
        reason: verdict.recorded_reason().map(str::to_owned),
        ms: millis(outcome.took),
        request_bytes: outcome.sizes.request,
        response_bytes: outcome.sizes.response,
        upstream_ms: upstream.map(|upstream| millis(upstream.took)),
        attempts: upstream.map(|upstream| upstream.attempts),
    }
}
