//! Private API of the relay: the admin API with its Unix socket, health checks and metrics.
//!
//! [`overview`] reads the state of the running relay; [`status`] has the form in which the API shows
//! it. [`metrics`] turns it into gauges, [`health`] and [`storage_probe`] into readiness. [`api`] and
//! [`listeners`] serve it, and [`console`] shows it as pages.

pub(crate) mod api;
mod console;
pub(crate) mod deliveries;
mod events;
pub(crate) mod health;
pub(crate) mod listeners;
mod metrics;
pub(crate) mod overview;
pub(crate) mod status;
pub(crate) mod storage_probe;

/// Unix socket of the admin API in the data directory.
pub(crate) const SOCKET_FILE: &str = "admin.sock";

/// File of the token for the whole admin API in the data directory.
pub(crate) const TOKEN_FILE: &str = "admin-token";

/// File of the token for metrics in the data directory.
pub(crate) const METRICS_TOKEN_FILE: &str = "metrics-token";
