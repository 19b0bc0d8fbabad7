//! Runs checks of large bodies on other threads, so that requests and keep-alives never wait for
//! them.
//!
//! The number of threads is one less than the number of cores. Further checks wait in order of
//! arrival; their bodies are bounded by the body memory. A check that waits too long is abandoned.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Body size, in bytes, above which checks run on other threads. Below it a check takes less than a
/// millisecond.
pub const OFFLOAD_BYTES: usize = 64 * 1024;

/// Threads for checks; clones share them.
#[derive(Debug, Clone)]
pub struct Offload {
    turns: Arc<Semaphore>,
}

/// No thread became free in time.
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
    /// Runs `check` on another thread when one is free. A started check runs to its end, even if its
    /// request is dropped.
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
            // The tunnel's next check may queue now, behind those of other tunnels.
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

    /// Runs `check` if a thread is free now.
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

/// Maximum wait for a thread; senders give up after 10 s.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs `check` on a blocking thread, and returns the permits after it.
async fn on_thread<T: Send + 'static, U: Send + 'static>(
    turn: U,
    check: impl FnOnce() -> T + Send + 'static,
) -> Result<T, QueueTimeout> {
    let checking = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        check()
    });

    checking.await.map_err(|error| {
        // A panic is a bug of this program; otherwise the program is ending.
        if error.is_panic() {
            tracing::error!(%error, "a check of a large body panicked");
        }
        QueueTimeout
    })
}

/// Queue of one tunnel's checks. Only one of them waits for a thread at a time, so no tunnel uses
/// all of them.
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

    /// A check waits behind at most one check of another tunnel.
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

            // The only thread of this runtime; the check now waits in its queue.
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
