//! The event stream of the admin API (server-sent events).

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use serde_json::{Value, json};

use crate::observe::{RelayEvent, RelayEventKind, RequestRecord, Subscription, SubscriptionItem};

/// Interval of comments that keep a quiet stream open.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Returns the events from now on. A slow reader loses the oldest, and learns how many.
pub(super) fn stream(
    subscription: Subscription,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = unfold(subscription, |mut subscription| async {
        let item = subscription.next().await?;
        Some((Ok(event(&item)), subscription))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

fn event(item: &SubscriptionItem) -> Event {
    match item {
        SubscriptionItem::Event(event) => {
            let (name, data) = describe(event);
            let event = Event::default().id(event.stamp.order.to_string());
            event.event(name).data(data.to_string())
        }
        SubscriptionItem::Lost(count) => Event::default()
            .event("lost")
            .data(json!({ "events": count }).to_string()),
    }
}

fn describe(event: &RelayEvent) -> (&'static str, Value) {
    let at_ms = event.stamp.at.0;
    match &event.kind {
        RelayEventKind::Request(record) => ("request", request(record, at_ms)),
        RelayEventKind::AgentConnected { agent } => (
            "agent_connected",
            json!({ "time_ms": at_ms, "agent": agent }),
        ),
        RelayEventKind::AgentDisconnected { agent, reason } => (
            "agent_disconnected",
            json!({ "time_ms": at_ms, "agent": agent, "reason": reason }),
        ),
    }
}

fn request(record: &RequestRecord, at_ms: u64) -> Value {
    json!({
        "time_ms": at_ms,
        "id": record.id,
        "tunnel": record.host,
        "method": record.method,
        "path": record.path,
        "client": record.client.to_string(),
        "verdict": record.event,
        "status": record.status,
        "check": record.check,
        "code": record.code,
        "reason": record.reason,
        "ms": record.ms,
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "upstream_ms": record.upstream_ms,
        "attempts": record.attempts,
    })
}
