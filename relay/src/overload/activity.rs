//! Activity of a connection, which distinguishes idle from busy ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hookward_core::limits::Limits;
use tokio::sync::Notify;

/// Activity of a connection. Times are in milliseconds since its start.
pub(crate) struct ConnectionActivity {
    begin: Instant,
    /// Number of requests whose responses have not been read to their end.
    open: AtomicUsize,
    /// Number of responses that have bytes which the peer has not read.
    unread_responses: AtomicUsize,
    /// Time at which a request last started or ended; 0 before the first.
    last_request: AtomicU64,
    /// Time at which a response body was last polled.
    last_body: AtomicU64,
    /// `true` once the peer is too slow to keep.
    unwanted: AtomicBool,
    /// Notified when the last request of such a peer has ended.
    done: Notify,
}

impl ConnectionActivity {
    /// Creates the activity of a new connection.
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

    /// Records the start of a request.
    #[must_use]
    pub(crate) fn open_request(self: &Arc<Self>) -> InFlightRequest {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.last_request.store(self.now(), Ordering::Relaxed);
        InFlightRequest {
            activity: Arc::clone(self),
            backlog: false,
        }
    }

    /// Closes the connection once its current requests are answered.
    pub(crate) fn close_soon(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if the peer is too slow to keep.
    #[must_use]
    pub(crate) fn is_unwanted(&self) -> bool {
        self.unwanted.load(Ordering::Relaxed)
    }

    /// Resolves when the last request of a peer that was too slow has ended.
    pub(crate) async fn done(&self) {
        self.done.notified().await;
    }

    /// Returns `true` if no request is in flight.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Returns the idle time, or `None` while a request is in flight.
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
            // A stalled response does not end the connection while other requests wait for the
            // application.
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
    /// The next check is due after this time.
    In(Duration),
}

/// Reason to close a connection.
pub(crate) enum TimeoutReason {
    /// No request arrived.
    NoRequest,
    /// The last request was too long ago.
    Idle,
    /// The peer stopped reading responses.
    ResponseStalled,
}

/// Guard that counts a request from its head until its response was read or dropped.
pub(crate) struct InFlightRequest {
    activity: Arc<ConnectionActivity>,
    backlog: bool,
}

impl InFlightRequest {
    /// Records that the peer has read the available part of a response body. `more` is `true` if
    /// more is available, `false` if the application must send next.
    pub(crate) fn set_taken(&mut self, more: bool) {
        self.activity
            .last_body
            .store(self.activity.now(), Ordering::Relaxed);

        match (self.backlog, more) {
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

        self.backlog = more;
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        let before = self.activity.open.fetch_sub(1, Ordering::Relaxed);
        if self.backlog {
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
