//! What goes on on a connection, so that one on which nothing does can be told from one that works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hookward_core::limits::Limits;
use tokio::sync::Notify;

/// Activity of a connection. Times are milliseconds since its begin.
pub(crate) struct ConnectionActivity {
    begin: Instant,
    /// Requests whose answers have not been taken to their end.
    open: AtomicUsize,
    /// Answers of which there is more than the peer has taken.
    unread_responses: AtomicUsize,
    /// When a request last began or ended; 0 before the first.
    last_request: AtomicU64,
    /// When an answer's body was last asked for more.
    last_body: AtomicU64,
    /// The peer is too slow to be kept.
    unwanted: AtomicBool,
    /// Told when such a peer's last request has ended.
    done: Notify,
}

impl ConnectionActivity {
    /// A connection that begins.
    #[must_use]
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            open: AtomicUsize::new(0),
            unread_responses: AtomicUsize::new(0),
            last_request: AtomicU64::new(0),
            last_body: AtomicU64::new(0),
            unwanted: AtomicBool::new(false),
            done: Notify::new(),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn since(&self, at: &AtomicU64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(at.load(Ordering::Relaxed)))
    }

    /// Time since the connection began.
    #[must_use]
    pub(crate) fn age(&self) -> Duration {
        self.begin.elapsed()
    }

    /// A request has begun.
    #[must_use]
    pub(crate) fn open_request(self: &Arc<Self>) -> InFlightRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.last_request.store(self.now(), Ordering::Relaxed);
        InFlightRequest {
            activity: Arc::clone(self),
            untaken: false,
        }
    }

    /// The connection ends when the requests that it has are answered.
    pub(crate) fn close_soon(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if the peer is too slow to be kept.
    #[must_use]
    pub(crate) fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Relaxed)
    }

    /// Until the last request of a peer that was too slow has ended.
    pub(crate) async fn done(&self) {
        self.done.notified().await;
    }

    /// Returns `true` if no request is in flight.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// For how long nothing has happened; `None` while a request is being answered.
    #[must_use]
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        self.is_idle().then(|| self.since(&self.last_request))
    }

    /// Returns the reason to close the connection now, or the time of the next check. A verified
    /// connection may be idle for longer.
    #[must_use]
    pub(crate) fn deadline(&self, limits: &Limits, known: bool) -> Deadline {
        let (reason, since, most) = if self.last_request.load(Ordering::Relaxed) == 0 {
            (
                TimeoutReason::NoRequest,
                self.begin.elapsed(),
                limits.request_head_timeout,
            )
        } else if self.open.load(Ordering::Relaxed) == 0 {
            let most = if known {
                limits.http2_idle_timeout
            } else {
                limits.request_head_timeout
            };

            let most = if !known && self.age() > limits.unverified_lifetime {
                Duration::ZERO
            } else {
                most
            };

            let since = self.since(&self.last_request);
            (
                TimeoutReason::Idle,
                since,
                if self.is_unwanted() {
                    Duration::ZERO
                } else {
                    most
                },
            )
        } else if self.unread_responses.load(Ordering::Relaxed) > 0 {
            // While others of its requests wait for the application, one stalled answer is no
            // reason to break them off.
            let all =
                self.unread_responses.load(Ordering::Relaxed) >= self.open.load(Ordering::Relaxed);
            let idle = if known && !all {
                limits.response_idle_timeout
            } else {
                Duration::ZERO
            };

            (
                TimeoutReason::ResponseStalled,
                self.since(&self.last_body),
                limits.write_timeout + idle,
            )
        } else {
            return Deadline::In(limits.write_timeout);
        };

        if since >= most {
            Deadline::Now(reason)
        } else {
            Deadline::In(most - since)
        }
    }
}

/// Result of a check.
pub(crate) enum Deadline {
    /// The connection must be closed.
    Now(TimeoutReason),
    /// Not before this time has passed.
    In(Duration),
}

/// Reason to close a connection.
pub(crate) enum TimeoutReason {
    /// No request has come.
    NoRequest,
    /// The last request was long ago.
    Idle,
    /// Answers are not taken.
    ResponseStalled,
}

/// Counts a request from its head until its answer has been taken, or dropped.
pub(crate) struct InFlightRequest {
    activity: Arc<ConnectionActivity>,
    untaken: bool,
}

impl InFlightRequest {
    /// The peer has taken what there was of the answer's body. Whether there is more for it to
    /// take, or the application's turn.
    pub(crate) fn set_taken(&mut self, more: bool) {
        self.activity
            .last_body
            .store(self.activity.now(), Ordering::Relaxed);

        match (self.untaken, more) {
            (false, true) => self
                .activity
                .unread_responses
                .fetch_add(1, Ordering::Relaxed),
            (true, false) => self
                .activity
                .unread_responses
                .fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };

        self.untaken = more;
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        let before = self.activity.open.fetch_sub(1, Ordering::Relaxed);
        if self.untaken {
            self.activity
                .unread_responses
                .fetch_sub(1, Ordering::Relaxed);
        }

        self.activity
            .last_request
            .store(self.activity.now(), Ordering::Relaxed);

        if before == 1 && self.activity.is_unwanted() {
            self.activity.done.notify_one();
        }
    }
}
