//! Hookward's relay: the public side. It takes webhooks over HTTPS at the [`edge`], decides about each
//! by the gate of its tunnel, and [`forward`]s what passes to the agent whose session serves the
//! host ([`sessions`]).
//!
//! [`Relay`] is a value: bind it, read its addresses, shut it down. The program `hookward-relay` and
//! the agent's `--local` are wiring around it.

pub mod body;
pub mod certs;
pub mod cli;
pub mod commands;
mod data_dir;
pub mod edge;
pub mod fetch;
pub mod forward;
pub mod observe;
pub mod overload;
mod server;
pub mod sessions;
pub mod settings;
pub mod storage;

pub use server::{Relay, StartError};
