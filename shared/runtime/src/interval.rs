//! Periodic work.

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Returns an interval whose first tick is at once. After a late tick, the next one is a whole period
/// later: a busy machine does not get a burst of missed work.
#[must_use]
pub fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
