//! A private HTTP API: a server with bounds and deadlines ([`server`], `slots`), access by token or
//! Unix socket ([`access`]), a client for the program's own commands ([`client`]), and the form of
//! stored [`deliveries`].

pub mod access;
pub mod client;
pub mod deliveries;
mod local_user;
pub mod server;
mod slots;
