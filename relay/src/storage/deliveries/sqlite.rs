//! The SQLite engine of the delivery store: one file, one writer thread with group commit, and one
//! reader thread.
//!
//! Claims that no stored webhook holds are pending until the application answers 2xx; then they are
//! confirmed before the sender gets the response. Pending claims of an ended process are void: their
//! deliveries were not acknowledged. No claim is dropped within its window. When a tunnel has too
//! many, the relay refuses new ones of this tunnel for now, and of no other.
//!
//! Times are monotonic from the start of the process; a changed clock affects them only at the next
//! start.

mod accept;
mod change;
mod claims;
mod disk;
mod heads;
mod listing;
mod places;
mod reader;
mod schema;
mod settle;
#[cfg(test)]
mod speed;
mod steady_time;
mod usage;
mod work;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::names::HostName;
use hookward_gate::engine::{Claimed, DeliveryClaim, OrderingKey};
use hookward_runtime::sqlite;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::timeout;
use uuid::Uuid;

use self::claims::Claims;
use self::disk::DiskGuard;
use self::places::{QueryPlace, QueryPlaces};
use self::reader::Reader;
use self::schema::prepare;
use self::steady_time::SteadyTime;
use self::usage::Usage;
pub(crate) use self::usage::{Held, TunnelHeld};
use self::work::{AcceptRequest, DeliveryWork, Request, SettleRequest, Swept};
use super::{
    Change, ClaimGuard, DeliveryDetail, DeliveryFilter, Due, DueDelivery, Lease, NewDelivery,
    Outcome, Page, Payload, StoreLimits, StoreRefusal, Stored,
};
use crate::storage::agents::AgentId;
use crate::storage::{CommitStats, StorageError};
use hookward_runtime::sqlite::writer::{Writer, WriterOptions};

/// File of deliveries in the data directory.
pub(crate) const DELIVERIES_FILE: &str = "deliveries.db";

/// Key of a claim.
pub(super) type ClaimKey = [u8; 32];

/// Handle of the engine; clones share it. Its writer ends with the last clone.
#[derive(Clone)]
pub(crate) struct SqliteDeliveries(Arc<Engine>);

struct Engine {
    writer: Writer<Request>,
    reader: Reader,
    /// Number of the next claim.
    holders: AtomicI64,
    // A std mutex: the writer and the requests change a few numbers, and nothing waits while it is
    // held.
    usage: Arc<Mutex<Usage>>,
    disk: DiskGuard,
    limits: StoreLimits,
    time: SteadyTime,
    places: QueryPlaces,
    path: Arc<Path>,
}

impl SqliteDeliveries {
    /// Opens the file and starts its threads. A damaged file is set aside, because refusing to start
    /// would lose the webhooks that arrive meanwhile.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(super) fn open(
        path: &Path,
        clock: Clock,
        limits: StoreLimits,
    ) -> Result<Self, StorageError> {
        let (connection, claims, usage) = match prepare(path) {
            Err(error) if error.is_damage() => {
                let aside =
                    sqlite::set_aside(path, clock.now()).map_err(StorageError::Deliveries)?;
                tracing::error!(
                    %error,
                    kept_as = %aside.display(),
                    "the delivery file is damaged; made an empty one: its pending webhooks are not delivered, and \
                     duplicates of earlier ones are accepted once more"
                );

                prepare(path).map_err(StorageError::Deliveries)?
            }
            prepared => prepared.map_err(StorageError::Deliveries)?,
        };

        let time = SteadyTime::since(clock);
        let next_seq = heads::recover(&connection, time.now())
            .map_err(|error| StorageError::Deliveries(sqlite::failed(path)(error)))?;

        let disk = DiskGuard::new(path);
        let usage = Arc::new(Mutex::new(usage));
        let work = DeliveryWork {
            claims: Claims {
                counts: claims,
                limit: limits.claims,
            },
            time: time.clone(),
            usage: Arc::clone(&usage),
            next_seq,
            limits: limits.clone(),
            disk: disk.clone(),
            has_free_pages: false,
            swept: Swept::default(),
            path: path.into(),
        };
        let options = WriterOptions {
            name: "deliveries",
            path: path.to_owned(),
            batch: BATCH_REQUESTS,
            batch_bytes: BATCH_BYTES,
            idle: Some(SWEEP_INTERVAL),
            pause: RETRY_PAUSE,
            flush_on_demand: true,
        };

        Ok(Self(Arc::new(Engine {
            writer: Writer::start(connection, work, options).map_err(StorageError::Deliveries)?,
            reader: Reader::start(path, time.clone())?,
            holders: AtomicI64::new(1),
            usage,
            disk,
            limits,
            time,
            places: QueryPlaces::new(),
            path: path.into(),
        })))
    }

    /// Returns the measurements of the file's commits.
    pub(super) fn commits(&self) -> CommitStats {
        self.0.writer.queue().stats()
    }

    /// Claims a delivery of a host.
    pub(super) async fn claim(
        &self,
        host: &HostName,
        claim: &DeliveryClaim,
    ) -> (Claimed, ClaimGuard) {
        let mut digest = Sha256::new();
        digest.update((host.as_str().len() as u64).to_be_bytes());
        digest.update(host.as_str().as_bytes());
        digest.update(claim.key.0);

        let key: ClaimKey = digest.finalize().into();
        let holder = self.0.holders.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let request = Request::Claim {
            key,
            tunnel: host.as_str().into(),
            holder,
            window_ms: claim.window_ms,
            answer,
        };
        // Created first: a request that is dropped while it waits releases its claim.
        let mut held = ClaimGuard {
            store: self.clone(),
            holder,
            key: Some(key),
        };

        if self
            .0
            .writer
            .queue()
            .try_push(request, QUEUE_LENGTH)
            .is_err()
        {
            held.key = None;
            return (Claimed::Pending, held);
        }

        let claimed = match timeout(COMMIT_TIMEOUT, answered).await {
            Ok(claimed) => claimed.unwrap_or(Claimed::Pending),
            // The claim may still be made; its guard releases it.
            Err(_) => return (Claimed::Pending, held),
        };
        if claimed != Claimed::New {
            held.key = None;
        }

        (claimed, held)
    }

    /// Confirms a claim. Waits until that is committed.
    pub(super) async fn confirm_claim(&self, key: ClaimKey, holder: i64) {
        let (answer, answered) = oneshot::channel();
        self.push(Request::Confirm {
            key,
            holder,
            answer,
        });

        // If the disk fails, the confirmation stays queued, and the sender gets its response.
        if timeout(COMMIT_TIMEOUT, answered).await.is_err() {
            tracing::warn!("delivery file: a commit takes too long; one claim is not yet on disk");
        }
    }

    pub(super) fn release_claim(&self, key: ClaimKey, holder: i64) {
        self.push(Request::Release { key, holder });
    }

    pub(super) fn refusal(&self, tunnel: &str, owner: AgentId, bytes: u64) -> Option<StoreRefusal> {
        self.unavailable(bytes)
            .or_else(|| self.usage().refusal(&self.0.limits, tunnel, owner, bytes))
    }

    /// Returns the reason why the file accepts no webhook of this size now.
    fn unavailable(&self, bytes: u64) -> Option<StoreRefusal> {
        let queue = self.0.writer.queue();
        if queue.is_failing() {
            return Some(StoreRefusal::Failing);
        }
        let waiting = (queue.waiting_bytes() as u64).saturating_add(bytes);
        if self.0.disk.is_full(waiting) {
            return Some(StoreRefusal::DiskFull);
        }
        (waiting > WAITING_BYTES).then_some(StoreRefusal::Busy)
    }

    pub(super) async fn accept(
        &self,
        delivery: NewDelivery,
        claim: Option<ClaimGuard>,
    ) -> Result<Stored, StoreRefusal> {
        if let Some(refusal) = self.unavailable(delivery.payload.bytes() as u64) {
            return Err(refusal);
        }
        self.usage().reserve(&self.0.limits, &delivery)?;

        let (answer, answered) = oneshot::channel();
        let request = Request::Accept(Box::new(AcceptRequest {
            delivery,
            claim: claim.as_ref().and_then(ClaimGuard::held),
            answer,
        }));
        if let Err(request) = self.0.writer.queue().try_push(request, QUEUE_LENGTH) {
            if let Request::Accept(request) = request {
                self.usage().undo(&request.delivery);
            }
            return Err(StoreRefusal::Busy);
        }

        match timeout(COMMIT_TIMEOUT, answered).await {
            Ok(Ok((stored, _))) => {
                // The commit has confirmed it.
                if let Some(claim) = claim {
                    claim.forget();
                }
                stored
            }
            // The webhook may be stored all the same; the claim then makes the sender's next try a
            // duplicate.
            Ok(Err(_)) | Err(_) => Err(StoreRefusal::Failing),
        }
    }

    pub(super) async fn lease(&self, tunnel: &str) -> Result<Lease, StorageError> {
        let (answer, answered) = oneshot::channel();
        self.push(Request::Lease {
            tunnel: tunnel.into(),
            answer,
        });
        self.reply(answered).await
    }

    pub(super) async fn heads(&self, tunnel: &str, most: usize) -> Result<Due, StorageError> {
        let Some(id) = self.usage().active_tunnel(tunnel) else {
            return Ok(Due::default());
        };
        let reading = self
            .0
            .reader
            .run(move |db, now| heads::due(db, id, now, most));
        reading.await
    }

    pub(super) async fn is_waiting(
        &self,
        tunnel: &str,
        order: OrderingKey,
    ) -> Result<bool, StorageError> {
        let (Some(row), OrderingKey::Hash(hash)) = (self.usage().row(tunnel), order) else {
            return Ok(false);
        };
        let reading = self
            .0
            .reader
            .run(move |db, _| heads::is_waiting(db, row.id, accept::lane_of(hash)));
        reading.await
    }

    pub(super) async fn payload(&self, seq: i64) -> Result<Option<Payload>, StorageError> {
        self.0
            .reader
            .run(move |db, _| heads::pending_payload(db, seq))
            .await
    }

    /// Counts an attempt that begins.
    pub(super) fn begin(&self, tunnel: &Arc<str>, lease: Lease, seq: i64) {
        self.push(Request::Begin {
            tunnel: Arc::clone(tunnel),
            lease,
            seq,
        });
    }

    pub(super) async fn settle(
        &self,
        tunnel: &Arc<str>,
        lease: Lease,
        head: DueDelivery,
        outcome: Outcome,
    ) -> Result<Option<DueDelivery>, StorageError> {
        let (answer, answered) = oneshot::channel();
        self.push(Request::Settle(Box::new(SettleRequest {
            tunnel: Arc::clone(tunnel),
            lease,
            head,
            outcome,
            answer,
        })));
        self.reply(answered).await
    }

    pub(super) async fn wake(&self, tunnel: &Arc<str>) -> Result<(), StorageError> {
        let (answer, answered) = oneshot::channel();
        self.push(Request::Wake {
            tunnel: Arc::clone(tunnel),
            answer,
        });
        self.reply(answered).await
    }

    pub(super) fn age(&self, head: &DueDelivery) -> Duration {
        let now = self.0.time.now();
        Duration::from_millis(now.0.saturating_sub(head.received.0))
    }

    pub(super) async fn page(
        &self,
        filter: DeliveryFilter,
        before: Option<i64>,
        most: usize,
    ) -> Result<Page, StorageError> {
        let place = self.0.places.take(filter.owner).await?;
        self.read(place, move |path| {
            listing::page(path, &filter, before, most)
        })
        .await
    }

    pub(super) async fn detail(
        &self,
        id: Uuid,
        owner: Option<AgentId>,
    ) -> Result<Option<DeliveryDetail>, StorageError> {
        let place = self.0.places.take(owner).await?;
        self.read(place, move |path| listing::detail(path, id, owner))
            .await
    }

    pub(super) fn oldest(&self) -> Result<Vec<(String, Duration)>, StorageError> {
        let now = self.0.time.now();
        let age = |received: UnixMillis| Duration::from_millis(now.0.saturating_sub(received.0));
        let oldest = listing::oldest(&self.0.path)?.into_iter();
        Ok(oldest
            .map(|(tunnel, received)| (tunnel, age(received)))
            .collect())
    }

    /// Runs a query on a thread that may block, with a connection of its own.
    async fn read<T: Send + 'static>(
        &self,
        place: QueryPlace,
        read: impl FnOnce(&Path) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let path = Arc::clone(&self.0.path);
        let reading = tokio::task::spawn_blocking(move || {
            // Held by the thread, which goes on when the request was dropped.
            let _place = place;
            read(&path)
        });
        reading.await.map_err(|_| StorageError::Stopping)?
    }

    pub(super) async fn change(
        &self,
        seqs: Vec<i64>,
        change: Change,
    ) -> Result<usize, StorageError> {
        let (answer, answered) = oneshot::channel();
        self.push(Request::Change {
            seqs,
            change,
            answer,
        });
        self.reply(answered).await
    }

    pub(super) async fn pause(&self, tunnel: &str, paused: bool) -> Result<(), StorageError> {
        let (answer, answered) = oneshot::channel();
        self.push(Request::Pause {
            tunnel: tunnel.into(),
            paused,
            answer,
        });
        self.reply(answered).await
    }

    pub(super) fn is_paused(&self, tunnel: &str) -> bool {
        self.usage().row(tunnel).is_some_and(|row| row.paused)
    }

    pub(super) fn tunnels(&self) -> Vec<TunnelHeld> {
        self.usage().list()
    }

    pub(super) fn counts(&self, tunnel: Option<&str>) -> Held {
        let usage = self.usage();
        match tunnel {
            Some(tunnel) => usage.of(tunnel),
            None => usage.total,
        }
    }

    pub(super) fn tunnels_with_pending(&self) -> Vec<Arc<str>> {
        self.usage().with_pending()
    }

    fn push(&self, request: Request) {
        self.0.writer.queue().push(request);
    }

    async fn reply<T>(&self, answered: oneshot::Receiver<T>) -> Result<T, StorageError> {
        match timeout(COMMIT_TIMEOUT, answered).await {
            Ok(answer) => answer.map_err(|_| StorageError::Stopping),
            Err(_) => Err(StorageError::Timeout {
                path: self.0.path.to_path_buf(),
            }),
        }
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.0.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of requests in one commit.
const BATCH_REQUESTS: usize = 1024;

/// Maximum size of the webhooks in one commit, in bytes: a larger batch delays the first of them by
/// more than a tenth of a second.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Maximum size of the webhooks that wait for a commit, in bytes: about 2 s of a slow disk, so that
/// an answer takes no longer.
const WAITING_BYTES: u64 = 64 * 1024 * 1024;

/// Interval at which expired rows are removed without other commits.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a failed commit.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Maximum number of requests that wait for a commit; the relay refuses more for now.
const QUEUE_LENGTH: usize = 8192;

/// Maximum wait of a request for a commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Converts a time to the form in which SQLite stores it.
fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

/// Converts a stored time.
fn time_of(millis: i64) -> UnixMillis {
    UnixMillis(u64::try_from(millis).unwrap_or_default())
}
