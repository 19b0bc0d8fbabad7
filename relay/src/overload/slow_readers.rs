//! Unread parts of responses. They occupy the receive window of the agent's connection, which all
//! its responses share: when it is full, readers that stalled block all others. So the relay evicts
//! stalled responses before that, and sooner the fuller the window is.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use hookward_tunnel::transport::quic::{CONNECTION_WINDOW, STREAM_WINDOW};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Responses of one session that senders are reading.
pub(crate) struct ResponseBacklog<T> {
    begin: Instant,
    // A std mutex: the map is small, and nothing waits while it is held.
    responses: Mutex<HashMap<u64, Arc<BacklogEntry<T>>>>,
    next: AtomicU64,
    /// Number of tracked responses.
    count: AtomicUsize,
    /// Notified when there are more than [`MIN_RESPONSES`].
    pressure: Notify,
    /// Number of evictions since the last report.
    evicted: AtomicU64,
}

struct BacklogEntry<T> {
    /// The body; `None` once it is evicted.
    // A std mutex: it is held while the body is polled, and only the eviction contends for it.
    body: Mutex<Option<T>>,
    /// Number of bytes still to arrive or buffered here, as far as known.
    left: AtomicU64,
    /// Time at which the reader got its last bytes without requesting more since, in milliseconds;
    /// 0 while the agent must send next.
    given: AtomicU64,
}

impl<T> BacklogEntry<T> {
    fn body(&self) -> MutexGuard<'_, Option<T>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the maximum number of unread bytes: a stream's window if the length is unknown.
    fn buffered_bytes(&self) -> u64 {
        self.left.load(Ordering::Relaxed).min(STREAM_WINDOW.into())
    }
}

/// Response body that can be evicted while its reader is stalled.
pub(crate) struct TrackedResponse<T> {
    all: Arc<ResponseBacklog<T>>,
    number: u64,
    answer: Arc<BacklogEntry<T>>,
}

impl<T> Default for ResponseBacklog<T> {
    fn default() -> Self {
        Self {
            begin: Instant::now(),
            responses: Mutex::default(),
            next: AtomicU64::new(0),
            count: AtomicUsize::new(0),
            pressure: Notify::new(),
            evicted: AtomicU64::new(0),
        }
    }
}

impl<T> ResponseBacklog<T> {
    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<u64, Arc<BacklogEntry<T>>>> {
        self.responses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts responses, the longest-stalled first, while too many bytes are unread. Runs as long
    /// as it is polled.
    pub(crate) async fn run_eviction(&self) -> Infallible {
        loop {
            self.pressure.notified().await;
            while self.count.load(Ordering::Relaxed) > MIN_RESPONSES {
                self.evict_stalled(self.now());
                sleep(CHECK_INTERVAL).await;
            }
        }
    }

    /// Returns the number of evictions since the last call.
    pub(crate) fn count_evicted(&self) -> u64 {
        self.evicted.swap(0, Ordering::Relaxed)
    }

    fn evict_stalled(&self, now: u64) -> usize {
        // A snapshot: responses make progress meanwhile.
        let mut given: Vec<Candidate<T>> =
            self.answers().values().filter_map(Candidate::of).collect();
        let mut unread_bytes: u64 = given.iter().map(|answer| answer.buffered).sum();
        let Some(patience) = patience(unread_bytes) else {
            return 0;
        };
        let still = now.saturating_sub(u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        given.retain(|answer| answer.since <= still && answer.buffered > 0);
        given.sort_unstable_by_key(|answer| answer.since);

        let mut count = 0;
        for answer in given {
            if unread_bytes <= TARGET_BYTES {
                break;
            }
            unread_bytes = unread_bytes.saturating_sub(answer.buffered);
            count += usize::from(answer.evict());
        }

        self.evicted.fetch_add(count as u64, Ordering::Relaxed);
        count
    }

    /// Returns the number of responses in multiples of [`MIN_RESPONSES`]; 0 if they always fit.
    #[must_use]
    pub(crate) fn congestion(&self) -> usize {
        self.count.load(Ordering::Relaxed) / MIN_RESPONSES
    }
}

/// Number of unread bytes at which eviction starts: half of the connection's window, so that other
/// readers have the rest.
const TARGET_BYTES: u64 = CONNECTION_WINDOW as u64 / 2;

/// Interval of checks while there are more responses than windows in [`TARGET_BYTES`].
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Number of responses that always fit, even if each fills its stream's window.
const MIN_RESPONSES: usize = (TARGET_BYTES / STREAM_WINDOW as u64) as usize;

/// A response whose reader got bytes and has not requested more.
struct Candidate<T> {
    answer: Arc<BacklogEntry<T>>,
    /// Start of the stall, in milliseconds.
    since: u64,
    /// Maximum number of unread bytes.
    buffered: u64,
}

impl<T> Candidate<T> {
    fn of(answer: &Arc<BacklogEntry<T>>) -> Option<Self> {
        let since = answer.given.load(Ordering::Relaxed);
        (since != 0).then(|| Self {
            answer: Arc::clone(answer),
            since,
            buffered: answer.buffered_bytes(),
        })
    }

    /// Evicts the body, unless its reader has requested more meanwhile.
    fn evict(self) -> bool {
        let mut body = self.answer.body();
        let moved = self.answer.given.load(Ordering::Relaxed) != self.since;
        let victim = if moved { None } else { body.take() };
        if victim.is_some() {
            // Its buffered bytes are gone.
            self.answer.given.store(0, Ordering::Relaxed);
        }

        drop(body);
        // Dropping the body stops the agent, and frees the window.
        victim.is_some()
    }
}

/// Returns how long a response may stall at this number of unread bytes; `None`: without limit.
fn patience(unread_bytes: u64) -> Option<Duration> {
    let over = unread_bytes
        .checked_sub(TARGET_BYTES)
        .filter(|over| *over > 0)?;
    let full = (over as f64 / (FULL_BYTES - TARGET_BYTES) as f64).min(1.0);
    Some(READER_GRACE.mul_f64(1.0 - full).max(READER_GRACE_WHEN_FULL))
}

/// Number of unread bytes from which no stall is acceptable: as many responses as before could fill
/// the rest at once.
const FULL_BYTES: u64 = CONNECTION_WINDOW as u64 / 4 * 3;

/// Stall after which a reader may be evicted. It requests more after each 64 KiB, so 16 kB/s is
/// fast enough.
const READER_GRACE: Duration = Duration::from_secs(4);

/// Like [`READER_GRACE`], from [`FULL_BYTES`] on: 256 kB/s is fast enough.
const READER_GRACE_WHEN_FULL: Duration = Duration::from_millis(250);

impl<T> TrackedResponse<T> {
    /// Tracks a body of this session.
    pub(crate) fn new(body: T, all: &Arc<ResponseBacklog<T>>) -> Self {
        let number = all.next.fetch_add(1, Ordering::Relaxed);
        let answer = BacklogEntry {
            body: Mutex::new(Some(body)),
            left: AtomicU64::new(u64::MAX),
            given: AtomicU64::new(0),
        };
        let answer = Arc::new(answer);
        let mut answers = all.answers();
        answers.insert(number, Arc::clone(&answer));

        all.count.store(answers.len(), Ordering::Relaxed);
        if answers.len() > MIN_RESPONSES {
            all.pressure.notify_one();
        }

        drop(answers);
        Self {
            all: Arc::clone(all),
            number,
            answer,
        }
    }

    /// Polls the body for its next piece; `left` returns the number of bytes that remain. Returns
    /// `None` if it was evicted.
    pub(crate) fn take<F>(
        &self,
        poll: impl FnOnce(&mut T) -> Poll<F>,
        left: impl FnOnce(&T) -> Option<u64>,
    ) -> Option<Poll<F>> {
        let mut body = self.answer.body();
        let body = body.as_mut()?;
        let next = poll(body);
        let given = if next.is_ready() { self.all.now() } else { 0 };

        self.answer
            .left
            .store(left(body).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.answer.given.store(given, Ordering::Relaxed);

        Some(next)
    }

    /// Inspects the body. Returns `None` if it was evicted.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.answer.body().as_ref().map(look)
    }
}

impl<T> Drop for TrackedResponse<T> {
    fn drop(&mut self) {
        let mut answers = self.all.answers();
        answers.remove(&self.number);
        self.all.count.store(answers.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u64 = 1 << 30;

    fn answers(
        all: &Arc<ResponseBacklog<u64>>,
        count: u64,
        left: u64,
    ) -> Vec<TrackedResponse<u64>> {
        let answers: Vec<_> = (0..count)
            .map(|_| TrackedResponse::new(left, all))
            .collect();
        for answer in &answers {
            assert!(
                answer
                    .take(|_| Poll::Ready(()), |left| Some(*left))
                    .unwrap()
                    .is_ready()
            );
        }

        answers
    }

    fn gone(answers: &[TrackedResponse<u64>]) -> usize {
        answers
            .iter()
            .filter(|answer| answer.look(|_| ()).is_none())
            .count()
    }

    fn later(all: &ResponseBacklog<u64>) -> u64 {
        all.now() + u64::try_from(READER_GRACE.as_millis()).unwrap()
    }

    #[test]
    fn stalled_readers_are_evicted_until_there_is_room() {
        let all = Arc::new(ResponseBacklog::default());
        let few = answers(&all, MIN_RESPONSES as u64, LARGE);
        assert_eq!(all.evict_stalled(later(&all)), 0, "there is room");

        let more = answers(&all, 3, LARGE);
        assert_eq!(
            all.evict_stalled(all.now()),
            0,
            "no reader has been idle for long"
        );
        assert_eq!(all.evict_stalled(later(&all)), 3);
        assert_eq!((all.count_evicted(), all.count_evicted()), (3, 0));

        let unread_bytes: u64 = all
            .answers()
            .values()
            .filter_map(Candidate::of)
            .map(|answer| answer.buffered)
            .sum();
        assert_eq!(
            unread_bytes, TARGET_BYTES,
            "what was taken away does not lie here any more"
        );

        assert_eq!(gone(&few) + gone(&more), 3);
        assert_eq!(all.evict_stalled(later(&all)), 0, "once is enough");
        let most = answers(&all, 1, LARGE);
        assert_eq!(
            all.evict_stalled(later(&all)),
            1,
            "who has given way gives no room again"
        );
        assert_eq!(all.congestion(), 1);

        drop((more, most));
        assert_eq!((all.answers().len(), all.congestion()), (few.len(), 1));
    }

    #[test]
    fn the_fuller_it_is_the_sooner() {
        let seconds = |unread_bytes| patience(unread_bytes).map(|patience| patience.as_secs_f64());
        let middle = TARGET_BYTES + (FULL_BYTES - TARGET_BYTES) / 2;
        assert_eq!(
            [TARGET_BYTES, middle, FULL_BYTES, u64::MAX].map(seconds),
            [None, Some(2.0), Some(0.25), Some(0.25)]
        );
        assert!(seconds(TARGET_BYTES + 1).unwrap() > 3.9);

        let all = Arc::new(ResponseBacklog::default());
        let many = answers(&all, FULL_BYTES / u64::from(STREAM_WINDOW), LARGE);
        let soon = all.now() + u64::try_from(READER_GRACE_WHEN_FULL.as_millis()).unwrap();
        assert_eq!(all.evict_stalled(all.now()), 0);

        let asks_on = &many[0];
        let looked_at = Candidate::of(&asks_on.answer).unwrap();
        asks_on.answer.given.fetch_add(1, Ordering::Relaxed);
        assert!(!looked_at.evict(), "it has moved since");
        assert_eq!(all.evict_stalled(soon + 1), many.len() - MIN_RESPONSES);
    }

    #[test]
    fn waiting_and_small_responses_are_not_evicted() {
        let all = Arc::new(ResponseBacklog::default());
        let waiting = answers(&all, 200, LARGE);
        for answer in &waiting {
            assert!(
                answer
                    .take(|_| Poll::<()>::Pending, |left| Some(*left))
                    .unwrap()
                    .is_pending()
            );
        }

        let small = answers(&all, 1000, 10_000);
        assert_eq!(all.evict_stalled(later(&all)), 0);
        assert_eq!(gone(&waiting) + gone(&small), 0);
    }
}
