//! Accepted webhooks that are stored until they are delivered, and claims of deliveries.
//!
//! [`DeliveryStore`] is the boundary: verbs of the domain, and no SQL above it. One commit holds
//! the webhook, its place in the order and its duplicate claim, and it is on the disk before the
//! sender gets a 2xx. SQLite is the only engine today.

mod claim_guard;
mod sqlite;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::names::HostName;
use hookward_gate::engine::{Claimed, DeliveryClaim, OrderingKey};
use uuid::Uuid;

pub(crate) use self::claim_guard::ClaimGuard;
use self::sqlite::SqliteDeliveries;
pub(crate) use self::sqlite::{DELIVERIES_FILE, Held, TunnelHeld};
use crate::storage::agents::AgentId;
use crate::storage::{CommitStats, StorageError};

/// Store of deliveries; clones share it.
#[derive(Clone)]
pub(crate) enum DeliveryStore {
    /// A file of this relay.
    Sqlite(SqliteDeliveries),
}

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
    fn for_tests() -> Self {
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

/// Parts of a webhook that a later attempt needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    /// DueDelivery, as the tunnel carries it.
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

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
            Self::Dropped => "dropped",
        }
    }

    const fn number(self) -> i64 {
        self as i64
    }

    fn of(number: i64) -> Self {
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
    pub owner: AgentId,
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

impl DeliveryStore {
    /// Opens the store of a relay.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) fn open(
        path: &Path,
        clock: Clock,
        limits: StoreLimits,
    ) -> Result<Self, StorageError> {
        SqliteDeliveries::open(path, clock, limits).map(Self::Sqlite)
    }

    /// Claims a delivery of a host.
    pub(crate) async fn claim(
        &self,
        host: &HostName,
        claim: &DeliveryClaim,
    ) -> (Claimed, ClaimGuard) {
        match self {
            Self::Sqlite(engine) => engine.claim(host, claim).await,
        }
    }

    /// Returns the reason why a webhook of this size would not be stored now.
    pub(crate) fn refusal(&self, tunnel: &str, owner: AgentId, bytes: u64) -> Option<StoreRefusal> {
        match self {
            Self::Sqlite(engine) => engine.refusal(tunnel, owner, bytes),
        }
    }

    /// Stores a webhook, with the claim that it holds. Returns once it is on the disk.
    ///
    /// # Errors
    /// [`StoreRefusal`]. After [`StoreRefusal::Failing`] the webhook may be stored all the same, and
    /// is delivered then.
    pub(crate) async fn accept(
        &self,
        delivery: NewDelivery,
        claim: Option<ClaimGuard>,
    ) -> Result<Stored, StoreRefusal> {
        match self {
            Self::Sqlite(engine) => engine.accept(delivery, claim).await,
        }
    }

    /// Takes ownership of a tunnel's deliveries. Earlier leases of it have no effect from now on.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn lease(&self, tunnel: &str) -> Result<Lease, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.lease(tunnel).await,
        }
    }

    /// Returns up to `most` deliveries whose turn has come, oldest first. A paused tunnel has none.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn heads(&self, tunnel: &str, most: usize) -> Result<Due, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.heads(tunnel, most).await,
        }
    }

    /// Returns `true` if a pending delivery has this place in the order.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn is_waiting(
        &self,
        tunnel: &str,
        order: OrderingKey,
    ) -> Result<bool, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.is_waiting(tunnel, order).await,
        }
    }

    /// Returns the payload of a pending delivery; `None` if it has ended meanwhile.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn payload(&self, seq: i64) -> Result<Option<Payload>, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.payload(seq).await,
        }
    }

    /// Counts an attempt that begins. Returns at once: the count is in the next commit.
    pub(crate) fn begin(&self, tunnel: &Arc<str>, lease: Lease, seq: i64) {
        match self {
            Self::Sqlite(engine) => engine.begin(tunnel, lease, seq),
        }
    }

    /// Records the end of an attempt. Returns the next delivery of the lane, if it is due.
    ///
    /// # Errors
    /// [`StorageError`]; the outcome stays queued, unless the store has ended.
    pub(crate) async fn settle(
        &self,
        tunnel: &Arc<str>,
        lease: Lease,
        head: DueDelivery,
        outcome: Outcome,
    ) -> Result<Option<DueDelivery>, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.settle(tunnel, lease, head, outcome).await,
        }
    }

    /// Makes some deliveries due that wait after a failed connection: the application has returned.
    /// Returns at once.
    pub(crate) fn wake(&self, tunnel: &Arc<str>) {
        match self {
            Self::Sqlite(engine) => engine.wake(tunnel),
        }
    }

    /// Returns the time since the receipt.
    pub(crate) fn age(&self, head: &DueDelivery) -> Duration {
        match self {
            Self::Sqlite(engine) => engine.age(head),
        }
    }

    /// Returns up to `most` deliveries that match, newest first, older than the one with number
    /// `before`.
    ///
    /// # Errors
    /// [`StorageError`], also if the search takes too long.
    pub(crate) async fn page(
        &self,
        filter: DeliveryFilter,
        before: Option<i64>,
        most: usize,
    ) -> Result<Page, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.page(filter, before, most).await,
        }
    }

    /// Returns a delivery with all that is stored of it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn detail(&self, id: Uuid) -> Result<Option<DeliveryDetail>, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.detail(id).await,
        }
    }

    /// Returns the age of the oldest pending delivery of each tunnel. Blocks for a query.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) fn oldest(&self) -> Result<Vec<(String, Duration)>, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.oldest(),
        }
    }

    /// Changes deliveries by hand. Returns the number of those that the change applied to.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn change(
        &self,
        seqs: Vec<i64>,
        change: Change,
    ) -> Result<usize, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.change(seqs, change).await,
        }
    }

    /// Pauses or resumes the attempts of a tunnel. Webhooks are still stored.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn pause(&self, tunnel: &str, paused: bool) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(engine) => engine.pause(tunnel, paused).await,
        }
    }

    /// Returns `true` if the attempts of a tunnel are paused.
    pub(crate) fn is_paused(&self, tunnel: &str) -> bool {
        match self {
            Self::Sqlite(engine) => engine.is_paused(tunnel),
        }
    }

    /// Returns what is stored, by tunnel.
    pub(crate) fn tunnels(&self) -> Vec<TunnelHeld> {
        match self {
            Self::Sqlite(engine) => engine.tunnels(),
        }
    }

    /// Returns what is stored, of a tunnel or in all.
    pub(crate) fn counts(&self, tunnel: Option<&str>) -> Held {
        match self {
            Self::Sqlite(engine) => engine.counts(tunnel),
        }
    }

    /// Returns the tunnels with pending deliveries.
    pub(crate) fn tunnels_with_pending(&self) -> Vec<Arc<str>> {
        match self {
            Self::Sqlite(engine) => engine.tunnels_with_pending(),
        }
    }

    /// Returns what a 202 guarantees.
    pub(crate) const fn durability(&self) -> DurabilityLevel {
        match self {
            Self::Sqlite(_) => DurabilityLevel::Local,
        }
    }

    /// Returns the measurements of the commits.
    pub(crate) fn commits(&self) -> CommitStats {
        match self {
            Self::Sqlite(engine) => engine.commits(),
        }
    }
}

#[cfg(test)]
mod tests;
