//! The agent's private HTTP API on loopback: ngrok's shape for scripts that wait for a URL
//! ([`ngrok`]), health checks, metrics, and the state for `hookward status` ([`status`]). [`routes`]
//! declares it, [`listener`] serves it.

pub(crate) mod listener;
mod metrics;
mod ngrok;
mod routes;
pub(crate) mod status;
