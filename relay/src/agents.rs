//! The relay's side towards its agents.
//!
//! [`listener`] takes QUIC connections, [`admission`] finds out who it is, [`session`] serves a known
//! agent until it leaves, and [`registry`] knows which session serves which public host. The
//! listener owns the endpoint's task and every session's.

pub mod admission;
pub mod listener;
pub mod refusals;
pub mod registry;
pub mod session;

pub use listener::AgentListener;
pub use registry::Registry;
