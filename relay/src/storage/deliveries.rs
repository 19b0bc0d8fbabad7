//! Accepted webhooks that are stored until they are delivered, and claims of deliveries.
//!
//! [`DeliveryStore`] is the boundary: verbs of the domain, and no SQL above it. One commit holds
//! the webhook, its place in the order and its duplicate claim, and it is on the disk before the
//! sender gets a 2xx. SQLite is the only engine today.

mod claim_guard;
mod model;
mod sqlite;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_core::names::HostName;
use hookward_gate::engine::{Claimed, DeliveryClaim, OrderingKey};
use uuid::Uuid;

pub(crate) use self::claim_guard::ClaimGuard;
pub(crate) use self::model::{
    Change, DeliveryDetail, DeliveryFilter, DeliveryRow, DeliveryState, Due, DueDelivery,
    DurabilityLevel, LastResponse, Lease, NewDelivery, Outcome, Page, Payload, StoreLimits,
    StoreRefusal, Stored,
};
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
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn wake(&self, tunnel: &Arc<str>) -> Result<(), StorageError> {
        match self {
            Self::Sqlite(engine) => engine.wake(tunnel).await,
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

    /// Returns a delivery with all that is stored of it; with an `owner` only if it is of this agent.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) async fn detail(
        &self,
        id: Uuid,
        owner: Option<AgentId>,
    ) -> Result<Option<DeliveryDetail>, StorageError> {
        match self {
            Self::Sqlite(engine) => engine.detail(id, owner).await,
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
