//! What both programs do as processes of a Unix system.

pub mod body_memory;
pub mod offload;
pub mod process;
pub mod reload;
pub mod secrets;
pub mod sqlite;
