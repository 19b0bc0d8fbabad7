//! Handle of the audit log: queues records for the writer thread. Recording never waits.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::limits::MIB;
use serde::Serialize;

use super::chain::ChainHead;
use super::error::AuditError;
use super::limited::{CountedEvents, LimitedCounts, LimitedKind};
use super::record::{Act, Actor, encode};
use super::settings::{AuditSettings, OnFailure};
use super::writer::Writer;

/// The log; clones share it.
#[derive(Clone)]
pub struct AuditLog {
    handle: Option<Arc<Handle>>,
    clock: Clock,
}

/// Owner of the writer thread. Dropping the last clone of the log ends it.
struct Handle {
    shared: Arc<LogState>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

/// State that requests and the writer thread share.
pub(super) struct LogState {
    // Std mutexes: they guard buffers, and nothing waits while one is held.
    queue: Mutex<Queue>,
    changed: Condvar,
    limited: Mutex<LimitedCounts>,
    status: Mutex<AuditStatus>,
    /// `true` while a sink fails and the settings refuse requests then.
    is_refusing: AtomicBool,
    /// Number of records without a line, or that a sink lost.
    lost: AtomicU64,
    on_failure: OnFailure,
    /// Number of records that the queue took, and that the file has.
    accepted: AtomicU64,
    written: AtomicU64,
}

/// Records that wait for the writer.
#[derive(Default)]
pub(super) struct Queue {
    /// Records without their chain, each with a line feed.
    pub lines: Vec<u8>,
    /// `true` to open the file again.
    pub reopen: bool,
    /// `true` once the log must end.
    pub stop: bool,
    /// `true` once the writer has taken its last records.
    is_closed: bool,
}

/// State of the log, for metrics and the status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditStatus {
    /// Number and hash of the last record that was written.
    pub head: ChainHead,
    /// Size of all records since the start, in bytes.
    pub bytes: u64,
    /// Number of records that have no line, or that a sink lost.
    pub lost: u64,
    /// Reason of the present failure.
    pub failure: Option<String>,
    /// Number of failures since the start.
    pub failures: u64,
}

/// Maximum size of the queue, in bytes: a second at 10,000 records a second.
const QUEUE_BYTES: usize = 8 * MIB as usize;

/// Size of the queue, in bytes, from which requests are refused where the settings say so: the writer
/// is too slow. Requests in flight still have room.
const HIGH_BYTES: usize = QUEUE_BYTES / 4 * 3;

/// Time for the writer to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of the queue for limited events, so that they never displace others.
const LIMITED_BYTES: usize = QUEUE_BYTES / 2;

impl AuditLog {
    /// Starts the log of a program.
    ///
    /// # Errors
    /// If a sink fails.
    pub fn start(
        settings: &AuditSettings,
        program: &'static str,
        clock: Clock,
    ) -> Result<Self, AuditError> {
        if settings.is_off() {
            return Ok(Self::off(clock));
        }

        let shared = Arc::new(LogState {
            queue: Mutex::default(),
            changed: Condvar::new(),
            limited: Mutex::default(),
            status: Mutex::default(),
            is_refusing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            on_failure: settings.on_failure,
            accepted: AtomicU64::new(0),
            written: AtomicU64::new(0),
        });
        let writer = Writer::open(settings, program, Arc::clone(&shared), clock.clone())?;
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run())
            .map_err(AuditError::Thread)?;
        let handle = Handle {
            shared,
            thread: Mutex::new(Some(thread)),
        };
        Ok(Self {
            handle: Some(Arc::new(handle)),
            clock,
        })
    }

    /// Returns a log without sinks.
    #[must_use]
    pub const fn off(clock: Clock) -> Self {
        Self {
            handle: None,
            clock,
        }
    }

    /// Returns `true` if nothing is recorded.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.handle.is_none()
    }

    fn shared(&self) -> Option<&Arc<LogState>> {
        self.handle.as_ref().map(|handle| &handle.shared)
    }

    /// Returns `false` while no request may be forwarded, because a sink fails, or is too slow.
    #[must_use]
    pub fn accepts(&self) -> bool {
        let is_refusing = |shared: &Arc<LogState>| shared.is_refusing.load(Ordering::Relaxed);
        !self.shared().is_some_and(is_refusing)
    }

    /// Returns the number of records so far that the log has taken, for [`AuditLog::has_written`].
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.shared()
            .map_or(0, |shared| shared.accepted.load(Ordering::Relaxed))
    }

    /// Returns `true` once the file has this many records. A log without sinks has all.
    #[must_use]
    pub fn has_written(&self, accepted: u64) -> bool {
        let written = |shared: &Arc<LogState>| shared.written.load(Ordering::Relaxed);
        self.shared()
            .is_none_or(|shared| written(shared) >= accepted)
    }

    /// Records an event with the fields of an object.
    pub fn record(&self, event: &'static str, fields: &impl Serialize) {
        if let Some(shared) = self.shared() {
            shared.push(encode(self.clock.now(), event, fields), QUEUE_BYTES);
        }
    }

    /// Records an administrative act.
    pub fn act(&self, event: &'static str, actor: Actor, details: impl Serialize) {
        self.record(event, &Act { actor, details });
    }

    /// Records an event that others cause at will, or counts it if this second has too many.
    pub fn limited<F: Serialize>(
        &self,
        client: IpAddr,
        kind: LimitedKind,
        fields: impl FnOnce() -> F,
    ) {
        let Some(shared) = self.shared() else {
            return;
        };
        let now = self.clock.now();
        let mut limited = lock(&shared.limited);
        let earlier = limited.advance(now.seconds());
        let is_single = limited.take(client, kind);
        drop(limited);

        shared.push_counts(earlier, now);
        if is_single {
            shared.push(encode(now, kind.event, &fields()), LIMITED_BYTES);
        }
    }

    /// Opens the file again, as after logrotate.
    pub fn reopen(&self) {
        if let Some(shared) = self.shared() {
            lock(&shared.queue).reopen = true;
            shared.changed.notify_one();
        }
    }

    /// Returns the state of the log; `None` if it is off.
    #[must_use]
    pub fn status(&self) -> Option<AuditStatus> {
        let shared = self.shared()?;
        let status = lock(&shared.status).clone();
        Some(AuditStatus {
            lost: shared.lost.load(Ordering::Relaxed),
            ..status
        })
    }

    /// Writes what is queued, and ends the log. Records after that are lost.
    pub async fn close(&self) {
        let Some(handle) = &self.handle else {
            return;
        };
        handle.shared.stop();
        let thread = lock(&handle.thread).take();
        if let Some(thread) = thread {
            let joining = tokio::task::spawn_blocking(move || thread.join());
            if tokio::time::timeout(CLOSE_TIMEOUT, joining).await.is_err() {
                tracing::error!(
                    event = "audit_failing",
                    "the audit log did not end in time; its last records may be lost"
                );
            }
        }
    }
}

impl LogState {
    /// Ends the writer, after what is queued.
    fn stop(&self) {
        lock(&self.queue).stop = true;
        self.changed.notify_one();
    }

    /// Records how many records of the queue the file has.
    pub(super) fn note_written(&self, records: u64) {
        self.written.store(records, Ordering::Relaxed);
    }

    fn push(&self, line: serde_json::Result<Vec<u8>>, most: usize) {
        let mut queue = lock(&self.queue);
        match line {
            Ok(line) if queue.lines.len() + line.len() < most && !queue.is_closed => {
                let was_empty = queue.lines.is_empty();
                queue.lines.extend_from_slice(&line);
                queue.lines.push(b'\n');
                self.accepted.fetch_add(1, Ordering::Relaxed);
                if queue.lines.len() > HIGH_BYTES && self.on_failure == OnFailure::Refuse {
                    self.is_refusing.store(true, Ordering::Relaxed);
                }
                drop(queue);
                if was_empty {
                    self.changed.notify_one();
                }
            }
            _ => {
                drop(queue);
                self.lose(1);
            }
        }
    }

    /// Records the counts of limited events of the seconds before `second`.
    pub(super) fn flush_counts(&self, second: u64, now: UnixMillis) {
        let earlier = lock(&self.limited).advance(second);
        self.push_counts(earlier, now);
    }

    fn push_counts(&self, counts: Vec<CountedEvents>, now: UnixMillis) {
        for counted in counts {
            let fields = CountedFields {
                of: counted.kind.event,
                reason: counted.kind.reason,
                client: counted.client,
                second: UnixMillis(counted.second * 1000).to_rfc3339(),
                count: counted.count,
            };
            self.push(encode(now, "counted", &fields), QUEUE_BYTES);
        }
    }

    /// Counts records that are lost.
    pub(super) fn lose(&self, records: u64) {
        self.lost.fetch_add(records, Ordering::Relaxed);
    }

    /// Returns the number of lost records, in all.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits for records, an order, or the end of the period. Then takes the queue, unless the writer
    /// still has a backlog.
    pub(super) fn wait(&self, period: Duration, has_backlog: bool) -> Queue {
        let is_idle = |queue: &mut Queue| {
            (queue.lines.is_empty() || has_backlog) && !queue.reopen && !queue.stop
        };
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.queue), period, is_idle);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let lines = match has_backlog {
            true => Vec::new(),
            false => std::mem::take(&mut queue.lines),
        };
        Queue {
            lines,
            reopen: std::mem::take(&mut queue.reopen),
            stop: queue.stop,
            is_closed: queue.is_closed,
        }
    }

    /// Returns the records that were queued since [`LogState::wait`].
    pub(super) fn take_more(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.queue).lines)
    }

    /// Returns the last records, and refuses further ones.
    pub(super) fn take_last(&self) -> Vec<u8> {
        let mut queue = lock(&self.queue);
        queue.is_closed = true;
        std::mem::take(&mut queue.lines)
    }

    /// Publishes the state after a write.
    pub(super) fn publish(&self, head: ChainHead, bytes: u64) {
        let mut status = lock(&self.status);
        status.head = head;
        status.bytes += bytes;
    }

    /// Publishes a failure, or its end. Returns the failure before.
    pub(super) fn set_failure(&self, failure: Option<String>) -> Option<String> {
        let is_refusing = failure.is_some() && self.on_failure == OnFailure::Refuse;
        self.is_refusing.store(is_refusing, Ordering::Relaxed);
        let mut status = lock(&self.status);
        if failure.is_some() && status.failure.is_none() {
            status.failures += 1;
        }
        std::mem::replace(&mut status.failure, failure)
    }
}

/// Fields of the record for events that were only counted.
#[derive(Serialize)]
struct CountedFields {
    of: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    /// Absent for the sum of all further clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    second: String,
    count: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
