//! Time as a value, so that tests can set it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time of day: milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// Returns the whole seconds.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Returns the time as RFC 3339 text in UTC, with milliseconds: `2026-11-29T08:00:00.123Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let seconds = i64::try_from(self.seconds()).unwrap_or_default();
        let time = time::OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let ((year, month, day), (hour, minute, second)) = (time.to_calendar_date(), time.to_hms());
        let date = [
            (year.unsigned_abs(), 4),
            (u8::from(month).into(), 2),
            (day.into(), 2),
        ];
        let of_day = [(hour.into(), 2), (minute.into(), 2), (second.into(), 2)];
        let millis = u32::try_from(self.0 % 1000).unwrap_or_default();

        let mut text = String::with_capacity(RFC3339_LENGTH);
        for ((value, width), after) in date.into_iter().zip(['-', '-', 'T']) {
            push_digits(&mut text, value, width);
            text.push(after);
        }
        for ((value, width), after) in of_day.into_iter().zip([':', ':', '.']) {
            push_digits(&mut text, value, width);
            text.push(after);
        }
        push_digits(&mut text, millis, 3);
        text.push('Z');
        text
    }
}

/// Length of an RFC 3339 time with milliseconds, in bytes.
const RFC3339_LENGTH: usize = "1970-01-01T00:00:00.000Z".len();

/// Appends a number with leading zeros.
fn push_digits(text: &mut String, value: u32, width: u32) {
    for place in (0..width).rev() {
        let digit = value / 10_u32.pow(place) % 10;
        text.extend(char::from_digit(digit, 10));
    }
}

/// Monotonic time: milliseconds since an arbitrary start. Setting the machine's clock does not
/// change it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct SteadyMillis(pub u64);

/// A moment by both clocks. Compare dates by `wall`, and measure durations by `steady`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moment {
    /// Time of day, which may be set.
    pub wall: UnixMillis,
    /// Monotonic time.
    pub steady: SteadyMillis,
}

impl From<UnixMillis> for Moment {
    /// Creates a moment of a clock that is never set.
    fn from(wall: UnixMillis) -> Self {
        Self {
            wall,
            steady: SteadyMillis(wall.0),
        }
    }
}

/// Source of time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The system's clocks.
    #[default]
    System,
    /// Clocks that stand still until they are set, for tests.
    Set(Arc<SetClock>),
}

/// State of clocks that stand still.
#[derive(Debug, Default)]
pub struct SetClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl Clock {
    /// Creates clocks that show `at` until [`Clock::set`] or [`Clock::pass`].
    #[must_use]
    pub fn at(at: UnixMillis) -> Self {
        Self::Set(Arc::new(SetClock {
            wall: AtomicU64::new(at.0),
            steady: AtomicU64::new(at.0),
        }))
    }

    /// Returns the time of day.
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

    /// Returns this moment by both clocks.
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

    /// Sets the time of day, as an administrator does. Has no effect on the system's clock.
    pub fn set(&self, to: UnixMillis) {
        if let Self::Set(clock) = self {
            clock.wall.store(to.0, Ordering::Relaxed);
        }
    }

    /// Advances the time. Has no effect on the system's clock.
    pub fn pass(&self, span: Duration) {
        if let Self::Set(clock) = self {
            let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            clock.wall.fetch_add(millis, Ordering::Relaxed);
            clock.steady.fetch_add(millis, Ordering::Relaxed);
        }
    }
}
