//! Order of writers that wait for window: small messages before large ones.
//!
//! The unacknowledged bytes of a connection are bounded for all its streams together, and freed
//! capacity goes to the quickest writer. quinn's priorities only order what was admitted. Beside
//! hundreds of large responses, a small one waited for seconds (measured, `scripts/availability
//! slowhttptest`).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Order of a connection's writers.
pub(crate) struct WritePriority {
    begin: Instant,
    /// Number of small messages that wait.
    waiting: AtomicUsize,
    /// Time since when there has always been one, in milliseconds.
    since: AtomicU64,
    /// Notified when no small message waits.
    idle: Notify,
}

impl Default for WritePriority {
    fn default() -> Self {
        let (waiting, since) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self {
            begin: Instant::now(),
            waiting,
            since,
            idle: Notify::new(),
        }
    }
}

/// Guard of a small message that waits.
struct Waiting<'p>(&'p WritePriority);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

impl WritePriority {
    /// Writes a small message. It must fit into its own stream's window, because large ones wait
    /// for it.
    pub(crate) async fn write_urgent<F: Future>(&self, writing: F) -> F::Output {
        let mut writing = pin!(writing);
        // Nearly always there is capacity, so no large message has to wait.
        if let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
            return written;
        }

        if self.waiting.fetch_add(1, Ordering::AcqRel) == 0 {
            let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.since.store(now, Ordering::Release);
        }

        let _waiting = Waiting(self);
        writing.await
    }

    /// Writes a part of a large message while no small one waits, or after [`MAX_WAIT`].
    pub(crate) async fn write_bulk<F: Future>(&self, writing: F) -> F::Output {
        let mut writing = pin!(writing);
        loop {
            let idle = self.idle.notified();
            if let Some(due) = self.turn() {
                // Either none waits any more, or the wait was long enough.
                let _ = timeout_at(due, idle).await;
                continue;
            }

            let written = poll_fn(|cx| match self.turn() {
                Some(_) => Poll::Ready(None),
                None => writing.as_mut().poll(cx).map(Some),
            });
            if let Some(written) = written.await {
                return written;
            }
        }
    }

    /// Returns the end of the small messages' turn, or `None` if all may write.
    fn turn(&self) -> Option<Instant> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let due = self.begin + Duration::from_millis(self.since.load(Ordering::Acquire)) + MAX_WAIT;
        (Instant::now() < due).then_some(due)
    }
}

/// Maximum wait of large messages while small ones keep coming; after that, both are written.
const MAX_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Waker};

    use super::*;

    /// Capacity for messages. It wakes all that wait, in any order.
    #[derive(Default)]
    struct Room(Mutex<(usize, Vec<Waker>)>);

    impl Room {
        fn enter(&self) -> impl Future<Output = ()> {
            poll_fn(|cx| {
                let mut room = self.0.lock().unwrap();
                if room.0 > 0 {
                    room.0 -= 1;
                    return Poll::Ready(());
                }
                room.1.push(cx.waker().clone());
                Poll::Pending
            })
        }

        fn free(&self, places: usize) {
            let mut room = self.0.lock().unwrap();
            room.0 += places;
            room.1.drain(..).for_each(Waker::wake);
        }
    }

    type Writing<'w> = Pin<Box<dyn Future<Output = ()> + 'w>>;

    /// Returns the number of writers that are admitted now.
    fn entered(waiting: &mut Vec<Writing<'_>>) -> usize {
        let before = waiting.len();
        let mut context = Context::from_waker(Waker::noop());
        waiting.retain_mut(|writing| writing.as_mut().poll(&mut context).is_pending());
        before - waiting.len()
    }

    #[tokio::test]
    async fn a_small_message_precedes_earlier_large_ones() {
        let (order, room) = (WritePriority::default(), Room::default());
        let mut large: Vec<Writing<'_>> = (0..3)
            .map(|_| Box::pin(order.write_bulk(room.enter())) as _)
            .collect();
        assert_eq!(entered(&mut large), 0);

        let mut small: Vec<Writing<'_>> = vec![Box::pin(order.write_urgent(room.enter()))];
        assert_eq!(entered(&mut small), 0);
        room.free(1);
        assert_eq!(entered(&mut large), 0, "it is the small one's");
        assert_eq!(entered(&mut small), 1);
        assert_eq!(entered(&mut large), 0, "there is no room");
        room.free(2);
        assert_eq!(entered(&mut large), 2);

        let mut given_up: Vec<Writing<'_>> = vec![Box::pin(order.write_urgent(room.enter()))];
        assert_eq!(entered(&mut given_up), 0);
        drop(given_up);
        room.free(1);
        assert_eq!(entered(&mut large), 1, "a cancelled writer delays no other");
    }

    #[tokio::test]
    async fn a_large_one_does_not_wait_for_ever() {
        let (order, room) = (WritePriority::default(), Room::default());
        let mut small: Vec<Writing<'_>> = vec![Box::pin(order.write_urgent(room.enter()))];
        assert_eq!(entered(&mut small), 0);
        // The small message is never polled, as if there were always another.
        room.free(1);
        let entered = tokio::time::timeout(MAX_WAIT * 30, order.write_bulk(room.enter())).await;
        assert!(entered.is_ok());
    }
}
