//! Overload control: bounds on what senders may use, and what is closed when a bound is reached.

pub mod activity;
pub mod connections;
pub mod h2_flood;
pub mod load;
pub mod per_client;
pub mod slow_readers;
pub mod write_timeout;
