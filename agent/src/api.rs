//! The agent's private HTTP API on loopback: the pages of the inspector (`inspector`), ngrok's shape for scripts that wait for a URL
//! ([`ngrok`]), health checks, metrics, the state for `hookward status` ([`status`]), and stored webhooks
//! of the relay (`relay_calls`). [`routes`]
//! declares it, [`listener`] serves it.

pub(crate) mod inspector;
pub(crate) mod listener;
mod metrics;
mod ngrok;
mod relay_calls;
mod requests;
mod routes;
pub(crate) mod status;
