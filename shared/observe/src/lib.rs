//! Observation of both programs: the [`audit`] log, [`metrics`], and the server of a private HTTP
//! [`api`].

pub mod api;
pub mod audit;
pub mod metrics;
