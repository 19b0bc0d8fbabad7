//! What the relay reports about its work: [`audit`] writes one record for each request,
//! [`agent_changes`] one for each change to the agents.

pub(crate) mod agent_changes;
pub(crate) mod audit;
