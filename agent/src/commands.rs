//! One file for each command.

pub mod http;
pub mod join;
#[cfg(feature = "local")]
pub mod local;
