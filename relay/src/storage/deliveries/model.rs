//! Values of the store: webhooks to store, deliveries, outcomes, filters and refusals.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::clock::UnixMillis;
use hookward_gate::engine::OrderingKey;
use uuid::Uuid;

use crate::storage::agents::AgentId;

/// Bounds of what may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreLimits {
    /// Maximum number of remembered claims of one tunnel.
    pub claims: u64,
    /// Maximum size of all payloads, in bytes.
    pub bytes: u64,
    /// Maximum number of deliveries with a payload.
    pub count: u64,
    /// Maximum size of the payloads of one tunnel, and of one agent, in bytes.
    pub tunnel_bytes: u64,
    /// Maximum number of deliveries with a payload of one tunnel, and of one agent.
    pub tunnel_count: u64,
    /// Age from which a pending webhook is not tried any more.
    pub max_age: Duration,
    /// Time for which the payload of a delivered webhook stays.
    pub keep_done: Duration,
    /// Time for which a dead letter stays.
    pub keep_dead: Duration,
    /// Time for which the row of an ended delivery stays.
    pub keep_history: Duration,
}

#[cfg(test)]
impl StoreLimits {
    pub(super) fn for_tests() -> Self {
        Self {
            claims: 100,
            bytes: 1 << 20,
            count: 1000,
            tunnel_bytes: 1 << 19,
            tunnel_count: 500,
            max_age: Duration::from_secs(7200),
            keep_done: Duration::ZERO,
            keep_dead: Duration::from_secs(30),
            keep_history: Duration::from_secs(7),
        }
    }
}

/// A webhook that the gate has permitted, to be stored.
#[derive(Debug, Clone)]
pub(crate) struct NewDelivery {
    /// Public id, which grows with time (UUID, version 7).
    pub id: Uuid,
    pub tunnel: Arc<str>,
    /// Agent whose policy has permitted the webhook, and which alone gets it.
    pub owner: AgentId,
    pub route: String,
    pub provider: Option<String>,
    /// Name of the provider's event.
    pub event: Option<String>,
    pub order: OrderingKey,
    pub payload: Payload,
    /// Number of attempts that have begun.
    pub attempts: u32,
    /// Time until the next attempt; one that is in progress ends before.
    pub due_in: Duration,
}

#[cfg(test)]
impl NewDelivery {
    pub(super) fn for_tests(order: OrderingKey, body: &'static [u8]) -> Self {
        Self {
            id: Uuid::now_v7(),
            tunnel: "h.example".into(),
            owner: AgentId::for_tests(1),
            route: "git".to_owned(),
            provider: Some("github".to_owned()),
            event: None,
            order,
            payload: Payload {
                head: Bytes::from_static(b"head"),
                grant: Bytes::from_static(b"{}"),
                body: Bytes::from_static(body),
            },
            attempts: 0,
            due_in: Duration::ZERO,
        }
    }
}

/// Parts of a webhook that a later attempt needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    /// Head, as the tunnel carries it.
    pub head: Bytes,
    /// Grant of the gate, in JSON.
    pub grant: Bytes,
    pub body: Bytes,
}

impl Payload {
    /// Returns the size in the store, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.head.len() + self.grant.len() + self.body.len()
    }
}

/// A stored delivery whose turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DueDelivery {
    /// Number in the store.
    pub seq: i64,
    pub id: Uuid,
    /// Number of its place in the order; deliveries of one lane are delivered one after another.
    pub lane: i64,
    /// Number of attempts that have begun.
    pub attempts: u32,
    /// Number of redeliveries by hand.
    pub redelivered: u32,
    pub owner: AgentId,
    /// Time of receipt, by the store's own clock.
    pub received: UnixMillis,
    /// Size of the payload, in bytes.
    pub bytes: u64,
}

/// A delivery that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub head: DueDelivery,
    /// `true` if no older delivery of its lane is pending.
    pub is_first: bool,
}

/// Deliveries whose turn has come, and when the next one's comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub heads: Vec<DueDelivery>,
    /// `true` if more are due now.
    pub has_more: bool,
    /// Time until the next lane is due.
    pub next_in: Option<Duration>,
}

/// End of an attempt.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The application accepted the webhook.
    Delivered { status: u16 },
    /// The attempt failed, and another one follows.
    Retry {
        after: Duration,
        status: Option<u16>,
        error: String,
    },
    /// The delivery is given up.
    Dead {
        status: Option<u16>,
        reason: String,
        response: Option<LastResponse>,
    },
}

/// Beginning of the application's last response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastResponse {
    /// Header fields, one a line.
    pub head: String,
    /// First bytes of the body.
    pub body: Bytes,
}

impl LastResponse {
    /// Returns the size, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        (self.head.len() + self.body.len()) as u64
    }
}

/// Ownership of a tunnel's deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Generation of the owner; a later owner has a higher one.
    pub epoch: i64,
}

/// Guarantee of a 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DurabilityLevel {
    /// The webhook is on this relay's disk.
    Local,
}

impl DurabilityLevel {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
        }
    }
}

/// State of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryState {
    /// Waiting for the next attempt.
    Pending,
    /// Accepted by the application.
    Delivered,
    /// Given up; the payload is kept.
    Dead,
    /// Given up by hand; the payload is deleted.
    Dropped,
}

impl DeliveryState {
    pub(crate) const ALL: [Self; 4] = [Self::Pending, Self::Delivered, Self::Dead, Self::Dropped];

    /// Returns the state of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
        }
    }

    pub(super) const fn number(self) -> i64 {
        self as i64
    }

    pub(super) fn of(number: i64) -> Self {
        let known = Self::ALL.into_iter().find(|state| state.number() == number);
        known.unwrap_or(Self::Dropped)
    }
}

/// Filter of deliveries; all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeliveryFilter {
    /// Agent that the tunnels and deliveries belong to.
    pub owner: Option<AgentId>,
    pub id: Option<Uuid>,
    pub tunnel: Option<String>,
    pub route: Option<String>,
    pub provider: Option<String>,
    pub event: Option<String>,
    pub state: Option<DeliveryState>,
    /// Earliest time of receipt.
    pub since: Option<UnixMillis>,
    /// Time of receipt before which all match.
    pub until: Option<UnixMillis>,
    /// Text in the body or in the last error.
    pub text: Option<String>,
}

impl DeliveryFilter {
    /// Returns `true` if a condition beside the owner must hold.
    pub(crate) fn has_condition(&self) -> bool {
        let without = Self {
            owner: self.owner,
            ..Self::default()
        };
        *self != without
    }

    /// Returns the conditions for the audit log. The text may be a secret, so it is not named.
    pub(crate) fn summary(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.id.map(|id| id.to_string()),
            "tunnel": self.tunnel,
            "route": self.route,
            "provider": self.provider,
            "event": self.event,
            "state": self.state.map(DeliveryState::as_str),
            "since_ms": self.since.map(|since| since.0),
            "until_ms": self.until.map(|until| until.0),
            "by_text": self.text.is_some(),
        })
    }
}

/// A delivery for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeliveryRow {
    pub seq: i64,
    pub id: Uuid,
    pub tunnel: String,
    pub route: String,
    pub provider: Option<String>,
    pub event: Option<String>,
    pub state: DeliveryState,
    pub attempts: u32,
    /// Number of redeliveries by hand.
    pub redelivered: u32,
    pub last_status: Option<u16>,
    pub last_error: Option<String>,
    pub received: UnixMillis,
    pub ended: Option<UnixMillis>,
    /// Time of the next attempt.
    pub due: Option<UnixMillis>,
    /// Size of the payload, in bytes.
    pub bytes: u64,
    pub has_payload: bool,
}

/// A delivery with all that is stored of it.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryDetail {
    pub row: DeliveryRow,
    /// Hash of the ordering key; `None` without an order.
    pub order: Option<u64>,
    pub payload: Option<Payload>,
    pub response: Option<LastResponse>,
}

/// Some deliveries, newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    pub rows: Vec<DeliveryRow>,
    pub has_more: bool,
}

/// Change of deliveries by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new attempt now. It does not pass the deduplication of senders' requests.
    Redeliver,
    /// No further attempt; the payload is deleted.
    Drop,
}

impl Change {
    /// Returns the name of the record of a request for a change.
    pub(crate) const fn requested_event(self) -> &'static str {
        match self {
            Self::Redeliver => "deliveries_redeliver_requested",
            Self::Drop => "deliveries_drop_requested",
        }
    }

    /// Returns the name of the record of an applied change.
    pub(crate) const fn event(self) -> &'static str {
        match self {
            Self::Redeliver => "deliveries_redelivered",
            Self::Drop => "deliveries_dropped",
        }
    }
}

/// Reason why a webhook is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreRefusal {
    #[error("the tunnel has stored as many deliveries as the relay allows")]
    TunnelFull,
    #[error("the agent has stored as many deliveries as the relay allows")]
    AgentFull,
    #[error("the relay has stored as many deliveries as its settings allow")]
    Full,
    #[error("the relay has a delivery with this id already")]
    Known,
    #[error("the relay's disk is nearly full")]
    DiskFull,
    #[error("too many webhooks wait for the disk")]
    Busy,
    #[error("the relay's delivery file cannot be written")]
    Failing,
}
