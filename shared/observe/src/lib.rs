//! Observation of both programs: the [`audit`] log.

pub mod audit;
