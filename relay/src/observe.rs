//! Observation of the relay's work. The edge produces one [`outcome`] for each request. The
//! [`observer`] consumes it. It writes a record of the [`audit`] log, notifies the tunnel's owner
//! ([`owner_events`]), and publishes an event for subscribers ([`events`]). [`agent_changes`] logs
//! changes to the agents.

pub(crate) mod agent_changes;
pub(crate) mod audit;
pub(crate) mod events;
pub(crate) mod observer;
pub(crate) mod outcome;
pub(crate) mod owner_events;

pub use events::{
    EventStamp, RelayEvent, RelayEventKind, RequestRecord, Subscription, SubscriptionItem,
};
pub(crate) use observer::Observer;
