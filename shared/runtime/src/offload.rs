//! Runs checks of large bodies on threads of their own, so that other requests and the tunnel's
//! signs of life never wait for them.
//!
//! So many run at one time, one core less than there are; the others wait in the order in which
//! they came. What waits holds its body, which the budget of bodies bounds. A check that does not
//! get its turn in time is given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Bodies above this size are checked on other threads, in bytes: below it a check takes less than
/// a millisecond.
pub const OFFLOAD_BYTES: usize = 64 * 1024;

/// The threads; clones share them.
#[derive(Debug, Clone)]
pub struct Offload {
    turns: Arc<Semaphore>,
}

/// No thread had time for a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many large bodies are being checked")]
pub struct QueueTimeout;

impl Default for Offload {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            turns: Arc::new(Semaphore::new(cores.saturating_sub(1).max(1))),
        }
    }
}

impl Offload {
    /// Runs `check` on another thread, when it is its turn. A check that has begun runs to its end,
    /// also when its request is gone.
    ///
    /// # Errors
    /// [`QueueTimeout`] after 5 s, and when the program ends.
    pub async fn run<T: Send + 'static>(
        &self,
        queue: &OffloadQueue,
        check: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueueTimeout> {
        let waiting = async {
            let place = Arc::clone(&queue.0).acquire_owned().await.ok()?;
            let turn = Arc::clone(&self.turns).acquire_owned().await.ok();
            // The next of the tunnel may wait now, behind those of other tunnels.
            drop(place);
            turn
        };

        let turn = timeout(QUEUE_TIMEOUT, waiting)
            .await
            .ok()
            .flatten()
            .ok_or(QueueTimeout)?;

        on_thread(turn, check).await
    }

    /// Runs `check` if a thread is free at once.
    ///
    /// # Errors
    /// [`QueueTimeout`].
    pub async fn run_at_once<T: Send + 'static>(
        &self,
        check: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, QueueTimeout> {
        let turn = Arc::clone(&self.turns)
            .try_acquire_owned()
            .map_err(|_| QueueTimeout)?;
        on_thread(turn, check).await
    }
}

/// Wait for a turn: senders give up after 10 s.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `check` on a thread that may block, and gives `turn` back behind it.
async fn on_thread<T: Send + 'static, U: Send + 'static>(
    turn: U,
    check: impl FnOnce() -> T + Send + 'static,
) -> Result<T, QueueTimeout> {
    let checking = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        check()
    });

    checking.await.map_err(|error| {
        // A panic is a mistake of this program; otherwise the program is ending.
        if error.is_panic() {
            tracing::error!(%error, "a check of a large body");
        }
        QueueTimeout
    })
}

/// The checks of one tunnel: one of them waits for a thread at a time, so no tunnel takes the turns
/// of all.
#[derive(Clone)]
pub struct OffloadQueue(Arc<Semaphore>);

impl Default for OffloadQueue {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use super::*;

    /// However many checks a tunnel has waiting, another tunnel's comes behind one of them at most.
    #[tokio::test]
    async fn no_tunnel_takes_the_turns_of_all() {
        let offload = Offload {
            turns: Arc::new(Semaphore::new(1)),
        };
        let (flooding, other) = (OffloadQueue::default(), OffloadQueue::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let (release, released) = mpsc::channel::<()>();
        let mut released = Some(released);
        let mut running = Vec::new();

        for name in ["a1", "a2", "a3", "a4", "b"] {
            let (offload, order) = (offload.clone(), Arc::clone(&order));
            let queue = if name == "b" {
                other.clone()
            } else {
                flooding.clone()
            };

            let first = released.take();
            running.push(tokio::spawn(async move {
                let check = move || {
                    if let Some(first) = first {
                        first.recv().unwrap();
                    }
                    order.lock().unwrap().push(name);
                };
                offload.run(&queue, check).await.is_ok()
            }));

            // The only thread of this runtime: it waits in its place now.
            tokio::task::yield_now().await;
        }

        release.send(()).unwrap();
        for task in running {
            assert!(task.await.unwrap());
        }

        let order = order.lock().unwrap().clone();
        let place = order.iter().position(|name| *name == "b").unwrap();
        assert!(place <= 2, "{order:?}");
    }
}
