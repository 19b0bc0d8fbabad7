//! Queue between requests and the writer thread, with the state that both share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_core::limits::MIB;
use serde::Serialize;

use super::chain::ChainHead;
use super::limited::{Causer, CountedEvents, LimitedCounts, LimitedKind};
use super::lock;
use super::recent::RecentRecords;
use super::record::encode;
use super::settings::OnFailure;

/// State that requests and the writer thread share.
pub(super) struct LogState {
    // Std mutexes: they guard buffers, and nothing waits while one is held.
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Counts of events by strangers, and by agents.
    strangers: Mutex<LimitedCounts>,
    agents: Mutex<LimitedCounts>,
    status: Mutex<AuditStatus>,
    pub recent: RecentRecords,
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
pub(super) const QUEUE_BYTES: usize = 8 * MIB as usize;

/// Size of the queue, in bytes, from which requests are refused where the settings say so: the writer
/// is too slow. Requests in flight still have room.
const HIGH_BYTES: usize = QUEUE_BYTES / 4 * 3;

/// Maximum size of the queue for limited events, so that they never displace others.
pub(super) const LIMITED_BYTES: usize = QUEUE_BYTES / 2;

/// Pause after the first record, in which others join its batch: at most 100 writes a second.
const BATCH_TIME: Duration = Duration::from_millis(10);

impl LogState {
    pub(super) fn new(on_failure: OnFailure) -> Self {
        Self {
            queue: Mutex::default(),
            changed: Condvar::new(),
            strangers: Mutex::default(),
            agents: Mutex::default(),
            status: Mutex::default(),
            recent: RecentRecords::default(),
            is_refusing: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            on_failure,
            accepted: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    /// Returns `true` while no request may be forwarded.
    pub(super) fn is_refusing(&self) -> bool {
        self.is_refusing.load(Ordering::Relaxed)
    }

    /// Returns the number of records that the queue took.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Returns the number of records that the file has.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub(super) fn status(&self) -> AuditStatus {
        AuditStatus {
            lost: self.lost(),
            ..lock(&self.status).clone()
        }
    }

    /// Orders the writer to open the file again.
    pub(super) fn reopen(&self) {
        lock(&self.queue).reopen = true;
        self.changed.notify_one();
    }

    /// Ends the writer, after what is queued.
    pub(super) fn stop(&self) {
        lock(&self.queue).stop = true;
        self.changed.notify_one();
    }

    const fn limited(&self, causer: Causer) -> &Mutex<LimitedCounts> {
        match causer {
            Causer::Stranger => &self.strangers,
            Causer::Agent => &self.agents,
        }
    }

    /// Returns `true` if a limited event gets a record of its own; otherwise counts it.
    pub(super) fn take_limited(
        &self,
        causer: Causer,
        client: IpAddr,
        kind: LimitedKind,
        now: UnixMillis,
    ) -> bool {
        let mut limited = lock(self.limited(causer));
        let earlier = limited.advance(now.seconds());
        let is_single = limited.take(client, kind);
        drop(limited);

        self.push_counts(earlier, now);
        is_single
    }

    /// Records how many records of the queue the file has.
    pub(super) fn note_written(&self, records: u64) {
        self.written.store(records, Ordering::Relaxed);
    }

    /// Queues a record, if the queue has less than `most` bytes then.
    pub(super) fn push(&self, line: serde_json::Result<Vec<u8>>, most: usize) {
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
        for causer in [Causer::Stranger, Causer::Agent] {
            let earlier = lock(self.limited(causer)).advance(second);
            self.push_counts(earlier, now);
        }
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
    /// still has a backlog. Further records get a moment to join, and the empty buffer `spare`.
    pub(super) fn wait(&self, period: Duration, has_backlog: bool, spare: Vec<u8>) -> Queue {
        let is_idle = |queue: &mut Queue| {
            (queue.lines.is_empty() || has_backlog) && !queue.reopen && !queue.stop
        };
        let waited = self
            .changed
            .wait_timeout_while(lock(&self.queue), period, is_idle);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !queue.lines.is_empty() && !queue.stop {
            drop(queue);
            std::thread::sleep(BATCH_TIME);
            queue = lock(&self.queue);
        }

        let lines = match has_backlog {
            true => spare,
            false => std::mem::replace(&mut queue.lines, spare),
        };
        Queue {
            lines,
            reopen: std::mem::take(&mut queue.reopen),
            stop: queue.stop,
            is_closed: queue.is_closed,
        }
    }

    /// Returns the last records, and refuses further ones.
    pub(super) fn take_last(&self) -> Vec<u8> {
        let mut queue = lock(&self.queue);
        queue.is_closed = true;
        std::mem::take(&mut queue.lines)
    }

    /// Publishes the state after lines were written.
    pub(super) fn publish(&self, head: ChainHead, lines: &[u8]) {
        let mut status = lock(&self.status);
        status.head = head;
        status.bytes += lines.len() as u64;
        drop(status);
        self.recent.add(lines, head.seq);
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
