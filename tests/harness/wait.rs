//! The only way to wait: for a condition, with a deadline far beyond the need of any healthy
//! machine.

use std::future::Future;
use std::time::{Duration, Instant};

/// Long enough for a busy machine; only a failing test waits this long.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
///
/// # Panics
/// At the deadline, with `what`.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < DEADLINE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the condition holds, in a test without a runtime.
///
/// # Panics
/// At the deadline, with `what`.
pub fn happens(what: &str, mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < DEADLINE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a future to completion.
///
/// # Panics
/// At the deadline, with `what`.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("took too long: {what}"),
    }
}
