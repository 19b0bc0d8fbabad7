//! Observation of the relay's work. The edge produces one [`outcome`] for each request. The
//! [`observer`] turns it into a record of the [`audit`] log, an event for the tunnel's owner
//! ([`owner_events`]), and an event for subscribers ([`events`]). [`agent_changes`] logs changes to
//! the agents.

pub(crate) mod agent_changes;
pub(crate) mod audit;
pub(crate) mod events;
pub(crate) mod observer;
pub(crate) mod outcome;
pub(crate) mod owner_events;

pub use events::{EventStamp, Received, RelayEvent, RelayEventKind, RequestRecord, Subscription};
pub(crate) use observer::Observer;
