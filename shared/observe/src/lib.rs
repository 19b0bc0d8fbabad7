//! Observation of both programs: the [`audit`] log, [`metrics`], the server of a private HTTP
//! [`api`], and [`table`]s for people.

pub mod api;
pub mod audit;
pub mod metrics;
pub mod table;
