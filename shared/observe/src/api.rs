//! A private HTTP API: a server with bounds and deadlines ([`server`], `slots`), access by token or
//! Unix socket ([`access`]), and a client for the program's own commands ([`client`]).

pub mod access;
pub mod client;
pub mod server;
mod slots;
