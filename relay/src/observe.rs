//! Observation of the relay's work. The edge produces one [`outcome`] for each request. The
//! [`observer`] consumes it. It writes a record of the [`audit`] log and a line of the log
//! ([`request_log`]), counts it ([`metrics`], [`clients`], [`activity`]), notifies the tunnel's owner
//! ([`owner_events`]), and publishes an event for subscribers ([`events`]). [`acts`] records administrative acts of other processes.

use std::time::Duration;

pub(crate) mod activity;
pub(crate) mod acts;
mod audit;
pub(crate) mod clients;
pub(crate) mod events;
pub(crate) mod metrics;
pub(crate) mod observer;
pub(crate) mod outcome;
pub(crate) mod owner_events;
mod request_log;

pub use events::{
    EventStamp, RelayEvent, RelayEventKind, RequestRecord, Subscription, SubscriptionItem,
};
pub(crate) use observer::Observer;

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
