//! What the relay keeps across restarts, in SQLite.
//!
//! [`agents`] has the agents and the hosts they own, [`dedup`] the deliveries that were accepted.

pub mod agents;
pub mod dedup;

/// Name of the state file in the data directory.
pub(crate) const STATE_FILE: &str = "relay.db";
