//! Deduplication of deliveries, in a SQLite file of its own with its own writer.
//!
//! A claim is pending until the application answers 2xx; then it is confirmed before the sender
//! gets the response. Pending claims of an ended process are void: their deliveries were not
//! acknowledged. No claim is dropped within its window. When a tunnel has too many, the relay
//! refuses new ones of this tunnel for now, and of no other.
//!
//! Windows use monotonic time; a changed clock affects them only at the next start.

mod claim_guard;
mod claims;
mod schema;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::names::HostName;
use hookward_gate::engine::{Claimed, DeliveryClaim};
use hookward_runtime::sqlite::{self};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tokio::time::timeout;

pub(crate) use self::claim_guard::ClaimGuard;
use self::claims::{Claims, SteadyTime};
use self::schema::prepare;
use crate::storage::StorageError;
use crate::storage::writer::{CommitStats, Writer, WriterOptions, WriterQueue};

/// File of deliveries in the data directory.
pub(crate) const DEDUP_FILE: &str = "deliveries.db";

type Key = [u8; 32];
/// Number of rows in the file, by tunnel.
type Counts = HashMap<Arc<str>, u64>;

/// Handle of the deduplication; clones share it.
#[derive(Clone)]
pub(crate) struct DeliveryDedup {
    queue: WriterQueue<DedupRequest>,
    /// Number of the next claim.
    holders: Arc<AtomicI64>,
}

/// Request to the writer thread.
enum DedupRequest {
    Claim {
        key: Key,
        tunnel: Arc<str>,
        holder: i64,
        window_ms: u64,
        answer: oneshot::Sender<Claimed>,
    },
    Confirm {
        key: Key,
        holder: i64,
        answer: oneshot::Sender<()>,
    },
    Release {
        key: Key,
        holder: i64,
    },
}

/// Writer of the file. Dropping it ends its thread.
pub(crate) struct DedupWriter {
    pub dedup: DeliveryDedup,
    _writer: Writer<DedupRequest>,
}

impl DedupWriter {
    /// Opens the file and starts the thread, which remembers up to `most` deliveries of each tunnel. A
    /// damaged file is set aside: losing it may repeat deliveries, while refusing to start would lose
    /// them.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) fn open(path: &Path, clock: Clock, most: u64) -> Result<Self, StorageError> {
        let (connection, counts) = match prepare(path) {
            Err(error) if error.is_damage() => {
                let aside = sqlite::set_aside(path, clock.now()).map_err(StorageError::Dedup)?;
                tracing::warn!(
                    %error,
                    kept_as = %aside.display(),
                    "the deduplication file is damaged; made an empty one: duplicates of earlier deliveries are accepted \
                     once more"
                );

                prepare(path).map_err(StorageError::Dedup)?
            }
            prepared => prepared.map_err(StorageError::Dedup)?,
        };

        let claims = Claims {
            time: SteadyTime::since(clock),
            counts,
            limit: most,
        };
        let options = WriterOptions {
            name: "dedup",
            path: path.to_owned(),
            batch: BATCH_REQUESTS,
            idle: Some(SWEEP_INTERVAL),
            pause: RETRY_PAUSE,
        };
        let writer = Writer::start(connection, claims, options)?;

        let dedup = DeliveryDedup {
            queue: writer.queue().clone(),
            holders: Arc::new(AtomicI64::new(1)),
        };
        Ok(Self {
            dedup,
            _writer: writer,
        })
    }

    /// Returns the measurements of the file's commits.
    pub(crate) fn commits(&self) -> CommitStats {
        self.dedup.commits()
    }
}

/// Maximum number of requests in one commit.
const BATCH_REQUESTS: usize = 1024;

/// Interval at which expired rows are removed without other commits.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Pause after a failed commit.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

impl DeliveryDedup {
    /// Returns the measurements of the file's commits.
    pub(crate) fn commits(&self) -> CommitStats {
        self.queue.stats()
    }

    /// Claims a delivery of a host.
    pub(crate) async fn claim(
        &self,
        host: &HostName,
        claim: &DeliveryClaim,
    ) -> (Claimed, ClaimGuard) {
        let mut digest = Sha256::new();
        digest.update((host.as_str().len() as u64).to_be_bytes());
        digest.update(host.as_str().as_bytes());
        digest.update(claim.key.0);

        let key: Key = digest.finalize().into();
        let holder = self.holders.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let request = DedupRequest::Claim {
            key,
            tunnel: host.as_str().into(),
            holder,
            window_ms: claim.window_ms,
            answer,
        };
        // Created first: a request that is dropped while it waits releases its claim.
        let mut held = ClaimGuard {
            dedup: self.clone(),
            holder,
            key: Some(key),
        };

        if self.queue.try_push(request, QUEUE_LENGTH).is_err() {
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
}

/// Maximum number of claims that wait for a commit; the relay refuses more for now.
const QUEUE_LENGTH: usize = 8192;

/// Maximum wait of a request for a commit.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Converts a time to the form in which SQLite stores it.
fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_gate::engine::dedup::DeliveryKey;
    use hookward_gate::policy::OnDuplicate;

    fn claim(n: u64) -> DeliveryClaim {
        let key = DeliveryKey(Sha256::digest(n.to_be_bytes()).into());
        DeliveryClaim {
            key,
            window_ms: 1000,
            on_duplicate: OnDuplicate::Refuse,
        }
    }

    fn host() -> HostName {
        HostName::parse("h.example").unwrap()
    }

    struct Kept {
        dir: tempfile::TempDir,
        clock: Clock,
        most: u64,
    }

    impl Kept {
        fn new(most: u64) -> Self {
            Self {
                dir: tempfile::TempDir::new().unwrap(),
                clock: Clock::at(UnixMillis(0)),
                most,
            }
        }

        fn open(&self) -> DedupWriter {
            DedupWriter::open(
                &self.dir.path().join("dedup.db"),
                self.clock.clone(),
                self.most,
            )
            .unwrap()
        }
    }

    #[tokio::test]
    async fn a_delivery_is_new_once() {
        let kept = Kept::new(100);
        let writer = kept.open();
        let dedup = &writer.dedup;
        let (first, held) = dedup.claim(&host(), &claim(1)).await;
        assert_eq!(first, Claimed::New);

        assert_eq!(
            dedup.claim(&host(), &claim(1)).await.0,
            Claimed::Pending,
            "still on its way"
        );
        held.confirm().await;
        assert_eq!(dedup.claim(&host(), &claim(1)).await.0, Claimed::Duplicate);

        let other = HostName::parse("other.example").unwrap();
        assert_eq!(
            dedup.claim(&other, &claim(1)).await.0,
            Claimed::New,
            "of another tunnel"
        );
        assert_eq!(dedup.claim(&host(), &claim(2)).await.0, Claimed::New);
        kept.clock.pass(Duration::from_secs(2));

        assert_eq!(
            dedup.claim(&host(), &claim(1)).await.0,
            Claimed::New,
            "its window is over"
        );
    }

    #[tokio::test]
    async fn a_claim_that_is_given_up_can_be_made_again() {
        let kept = Kept::new(100);
        let writer = kept.open();
        drop(writer.dedup.claim(&host(), &claim(1)).await);
        assert_eq!(writer.dedup.claim(&host(), &claim(1)).await.0, Claimed::New);
    }

    #[tokio::test]
    async fn what_was_confirmed_survives_a_restart_and_what_was_pending_does_not() {
        let kept = Kept::new(100);
        let writer = kept.open();
        let (_, done) = writer.dedup.claim(&host(), &claim(1)).await;
        done.confirm().await;

        let (_, pending) = writer.dedup.claim(&host(), &claim(2)).await;
        drop(writer);
        let writer = kept.open();
        assert_eq!(
            writer.dedup.claim(&host(), &claim(1)).await.0,
            Claimed::Duplicate
        );
        assert_eq!(writer.dedup.claim(&host(), &claim(2)).await.0, Claimed::New);

        drop(pending);
    }

    #[tokio::test]
    async fn a_full_file_fails_closed_and_forgets_nothing() {
        let kept = Kept::new(3);
        let writer = kept.open();

        for n in 0..3 {
            let (claimed, held) = writer.dedup.claim(&host(), &claim(n)).await;
            assert_eq!(claimed, Claimed::New);
            held.confirm().await;
        }

        assert_eq!(
            writer.dedup.claim(&host(), &claim(9)).await.0,
            Claimed::Pending
        );
        assert_eq!(
            writer.dedup.claim(&host(), &claim(0)).await.0,
            Claimed::Duplicate
        );
        kept.clock.pass(Duration::from_secs(1));

        // A later commit removes the row; the test runner sets the deadline.
        while writer.dedup.claim(&host(), &claim(10)).await.0 != Claimed::New {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_tunnel_that_is_full_is_full_alone() {
        let kept = Kept::new(2);
        let writer = kept.open();

        for n in 0..5 {
            let (_, held) = writer.dedup.claim(&host(), &claim(n)).await;
            held.confirm().await;
        }

        assert_eq!(
            writer.dedup.claim(&host(), &claim(9)).await.0,
            Claimed::Pending
        );

        let other = HostName::parse("other.example").unwrap();
        for n in 0..2 {
            let (claimed, held) = writer.dedup.claim(&other, &claim(n)).await;
            assert_eq!(claimed, Claimed::New, "{n}");
            held.confirm().await;
        }

        drop(writer);
        let writer = kept.open();
        assert_eq!(
            writer.dedup.claim(&other, &claim(9)).await.0,
            Claimed::Pending,
            "counted again after a restart"
        );
    }

    #[tokio::test]
    async fn a_clock_that_is_set_forgets_nothing() {
        let kept = Kept::new(10);
        let writer = kept.open();
        writer
            .dedup
            .claim(&host(), &claim(1))
            .await
            .1
            .confirm()
            .await;

        for day in [0, 2 * 86_400_000] {
            kept.clock.set(UnixMillis(day));
            assert_eq!(
                writer.dedup.claim(&host(), &claim(1)).await.0,
                Claimed::Duplicate,
                "{day}"
            );
        }
    }
}
