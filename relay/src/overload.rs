//! Overload control: bounds on what senders may use, and what is closed when a bound is reached.

pub(crate) mod activity;
pub(crate) mod connections;
pub(crate) mod h2_flood;
pub(crate) mod load;
pub(crate) mod per_client;
pub(crate) mod slow_readers;
pub(crate) mod write_timeout;
