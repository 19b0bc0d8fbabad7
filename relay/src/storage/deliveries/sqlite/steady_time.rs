//! Time that a changed clock does not move.

use hookward_core::clock::{Clock, Moment, UnixMillis};

/// Time of day at startup, plus monotonic time since.
#[derive(Clone)]
pub(super) struct SteadyTime {
    clock: Clock,
    start: Moment,
}

impl SteadyTime {
    pub(super) fn since(clock: Clock) -> Self {
        let start = clock.moment();
        Self { clock, start }
    }

    pub(super) fn now(&self) -> UnixMillis {
        let passed = self
            .clock
            .moment()
            .steady
            .0
            .saturating_sub(self.start.steady.0);
        UnixMillis(self.start.wall.0.saturating_add(passed))
    }
}
