//! The time of day as a value, so that a test can set it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The whole seconds of this moment.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }
}

/// Where a program reads the time of day. Deadlines do not use it: they are monotonic.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's clock.
    #[default]
    System,
    /// A clock that stands still until somebody sets it.
    Set(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that shows `at` until [`Clock::set`].
    #[must_use]
    pub fn at(at: UnixMillis) -> Self {
        Self::Set(Arc::new(AtomicU64::new(at.0)))
    }

    /// The time of day by this clock.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        match self {
            Self::System => UnixMillis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)),
            ),
            Self::Set(millis) => UnixMillis(millis.load(Ordering::Relaxed)),
        }
    }

    /// Sets the clock; the system's clock is left alone.
    pub fn set(&self, to: UnixMillis) {
        if let Self::Set(millis) = self {
            millis.store(to.0, Ordering::Relaxed);
        }
    }
}
