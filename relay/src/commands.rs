//! One file for each command.

pub mod agent;
pub mod serve;
