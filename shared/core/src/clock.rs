//! The time of day as a value, so that a test can set it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// Time that only passes: milliseconds since some moment before. Setting the clock of the machine
/// does not change it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SteadyMillis(pub u64);

/// A moment by both clocks. Dates are compared by the first, spans measured by the second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// The time of day, which may be set.
    pub wall: UnixMillis,
    /// The time that has passed.
    pub steady: SteadyMillis,
}

impl From<UnixMillis> for Moment {
    /// A moment of a clock that is never set.
    fn from(wall: UnixMillis) -> Self {
        Self {
            wall,
            steady: SteadyMillis(wall.0),
        }
    }
}

/// Source of the time of day.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// Clocks of the system.
    #[default]
    System,
    /// Clocks that stand still until they are set.
    Set(Arc<SetClock>),
}

/// Clocks that stand still.
#[derive(Debug, Default)]
pub struct SetClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl Clock {
    /// Clocks that show `at` until [`Clock::set`] or [`Clock::pass`].
    #[must_use]
    pub fn at(at: UnixMillis) -> Self {
        Self::Set(Arc::new(SetClock {
            wall: AtomicU64::new(at.0),
            steady: AtomicU64::new(at.0),
        }))
    }

    /// The time of day by this clock.
    #[must_use]
    pub fn now(&self) -> UnixMillis {
        match self {
            Self::System => UnixMillis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |elapsed| {
                        u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
                    }),
            ),
            Self::Set(clock) => UnixMillis(clock.wall.load(Ordering::Relaxed)),
        }
    }

    /// This moment by both clocks.
    #[must_use]
    pub fn moment(&self) -> Moment {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);

        let steady = match self {
            Self::System => u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX),
            Self::Set(clock) => clock.steady.load(Ordering::Relaxed),
        };

        Moment {
            wall: self.now(),
            steady: SteadyMillis(steady),
        }
    }

    /// Sets the time of day, as an administrator does; the system's clock is left alone.
    pub fn set(&self, to: UnixMillis) {
        if let Self::Set(clock) = self {
            clock.wall.store(to.0, Ordering::Relaxed);
        }
    }

    /// Lets time pass; the system's clock is left alone.
    pub fn pass(&self, span: Duration) {
        if let Self::Set(clock) = self {
            let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            clock.wall.fetch_add(millis, Ordering::Relaxed);
            clock.steady.fetch_add(millis, Ordering::Relaxed);
        }
    }
}
