//! Process, files, memory budgets and threads of both programs.

pub mod body_memory;
pub mod interval;
pub mod offload;
pub mod process;
pub mod reload;
pub mod secrets;
pub mod sqlite;
