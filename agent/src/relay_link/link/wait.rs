//! Helper futures of a link's loop.

use crate::upstream::health::HealthStatus;
use futures_util::future::select_all;
use tokio::sync::watch;

/// Waits for a future, or forever without one.
pub(super) async fn of<F: Future + Unpin>(in_flight: &mut Option<F>) -> F::Output {
    match in_flight {
        Some(in_flight) => in_flight.await,
        None => std::future::pending().await,
    }
}

/// Waits until the health of an application differs from the reported one.
pub(super) async fn other_than(said: bool, events: &mut watch::Receiver<HealthStatus>) -> bool {
    let is_other = |events: &HealthStatus| (*events == HealthStatus::Unreachable) != said;
    let changed = events.wait_for(is_other).await.is_ok();
    if changed {
        !said
    } else {
        std::future::pending().await
    }
}

/// Resolves when the relay of the connection search responds.
pub(super) async fn is_reached(reached: &mut watch::Receiver<bool>) {
    if reached.wait_for(|reached| *reached).await.is_err() {
        std::future::pending().await
    }
}

/// Waits for the first of several futures. Returns its position and value; waits forever if there
/// are none.
pub(super) async fn first<F: Future + Unpin>(
    futures: impl Iterator<Item = F>,
) -> (usize, F::Output) {
    let futures: Vec<F> = futures.collect();
    if futures.is_empty() {
        // `select_all` would panic.
        return std::future::pending().await;
    }

    let (value, number, _) = select_all(futures).await;
    (number, value)
}
