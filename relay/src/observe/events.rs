//! Broadcast of the relay's events. Publishing never waits: a slow subscriber loses the oldest
//! events, and learns how many.

use std::sync::{Arc, Mutex, PoisonError};

use hookward_core::clock::{Clock, UnixMillis};
use tokio::sync::broadcast::{self, error::RecvError};

/// Event of the relay, with its time and its place in the order of all events.
#[derive(Debug, Clone)]
pub struct RelayEvent {
    /// Time and order of the event.
    pub stamp: EventStamp,
    /// The event itself.
    pub kind: RelayEventKind,
}

/// Time of an event, and its place in the order of all events of the relay's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventStamp {
    /// Number of the event, from 1. A later event has a higher one.
    pub order: u64,
    /// Time of the event, by the relay's clock.
    pub at: UnixMillis,
}

/// Kind of an event.
#[derive(Debug, Clone)]
pub enum RelayEventKind {
    /// A request ended.
    Request(Box<RequestRecord>),
    /// An agent connected.
    AgentConnected {
        /// Name of the agent.
        agent: String,
    },
    /// A session of an agent ended.
    AgentDisconnected {
        /// Name of the agent.
        agent: String,
        /// Reason of the end.
        reason: String,
    },
}

/// Record of a request, for subscribers. Text of the sender is escaped; there is no query.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// Id of the request.
    pub id: String,
    /// Public host.
    pub host: String,
    /// Method, escaped.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Client address.
    pub client: std::net::IpAddr,
    /// Name of the verdict: `forwarded`, `answered`, `refused`, `failed` or `aborted`.
    pub event: &'static str,
    /// Status of the response.
    pub status: Option<u16>,
    /// Check that decided.
    pub check: Option<&'static str>,
    /// Error code of the response.
    pub code: Option<&'static str>,
    /// Reason for the tunnel's owner.
    pub reason: Option<String>,
    /// Milliseconds from the head of the request to the head of the response.
    pub ms: u64,
    /// Size of the request's body in bytes, if known.
    pub request_bytes: Option<u64>,
    /// Size of the response's body in bytes, if known.
    pub response_bytes: Option<u64>,
    /// Milliseconds from the permit to the application's response.
    pub upstream_ms: Option<u64>,
    /// Number of sessions over which the relay sent the request.
    pub attempts: Option<usize>,
}

/// Broadcast channel of events.
pub(crate) struct EventBus {
    clock: Clock,
    sender: broadcast::Sender<Arc<RelayEvent>>,
    /// Number of the last event. A std mutex: it orders numbers and sending, and nothing waits while
    /// it is held.
    last: Mutex<u64>,
}

impl EventBus {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            sender: broadcast::Sender::new(BUFFERED_EVENTS),
            last: Mutex::default(),
        }
    }

    /// Publishes an event, and returns its stamp. Calls `kind` only if there is a subscriber.
    pub(crate) fn publish(&self, kind: impl FnOnce() -> RelayEventKind) -> EventStamp {
        let kind = (self.sender.receiver_count() > 0).then(kind);
        let at = self.clock.now();

        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last += 1;
        let stamp = EventStamp { order: *last, at };
        if let Some(kind) = kind {
            // An error means that the last subscriber has just left.
            let _ = self.sender.send(Arc::new(RelayEvent { stamp, kind }));
        }

        stamp
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription(self.sender.subscribe())
    }
}

/// Number of events that the relay keeps for the slowest subscriber: a second at 1,000 a second.
const BUFFERED_EVENTS: usize = 1024;

/// Subscription to the relay's events.
pub struct Subscription(broadcast::Receiver<Arc<RelayEvent>>);

/// Item of a subscription.
#[derive(Debug, Clone)]
pub enum SubscriptionItem {
    /// The next event.
    Event(Arc<RelayEvent>),
    /// Number of events that this subscriber lost, because it was too slow.
    Lost(u64),
}

impl Subscription {
    /// Waits for the next item. Returns `None` after the end of the relay. Cancel-safe.
    pub async fn next(&mut self) -> Option<SubscriptionItem> {
        match self.0.recv().await {
            Ok(event) => Some(SubscriptionItem::Event(event)),
            Err(RecvError::Lagged(lost)) => Some(SubscriptionItem::Lost(lost)),
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(bus: &EventBus) {
        bus.publish(|| RelayEventKind::AgentConnected {
            agent: "jira".to_owned(),
        });
    }

    #[tokio::test]
    async fn a_slow_subscriber_learns_how_many_events_it_lost() {
        let bus = EventBus::new(Clock::default());
        publish(&bus);
        let (mut slow, mut other) = (bus.subscribe(), bus.subscribe());
        for _ in 0..BUFFERED_EVENTS + 3 {
            publish(&bus);
            let Some(SubscriptionItem::Event(_)) = other.next().await else {
                panic!("a fast subscriber lost events")
            };
        }

        assert!(matches!(slow.next().await, Some(SubscriptionItem::Lost(3))));
        let Some(SubscriptionItem::Event(event)) = slow.next().await else {
            panic!("no event after the loss")
        };
        assert_eq!(
            event.stamp.order, 5,
            "one before the subscription, three lost"
        );
    }

    #[tokio::test]
    async fn events_are_numbered_in_the_order_in_which_they_are_received() {
        let bus = Arc::new(EventBus::new(Clock::default()));
        let mut events = bus.subscribe();
        let publishers: Vec<_> = (0..4)
            .map(|_| {
                let bus = Arc::clone(&bus);
                std::thread::spawn(move || (0..100).for_each(|_| publish(&bus)))
            })
            .collect();
        publishers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());

        drop(bus);
        let mut last = 0;
        while let Some(SubscriptionItem::Event(event)) = events.next().await {
            assert_eq!(event.stamp.order, last + 1);
            last = event.stamp.order;
        }
        assert_eq!(last, 400);
    }
}
