//! The relay's side towards its agents.
//!
//! [`listener`] takes QUIC connections, and the edge passes those on that come over TLS to its own
//! port; [`entrance`] is what all pass, [`admission`] finds out who it is, [`session`] serves a
//! known agent until it leaves, [`live`] is what the rest of the relay sees of it, [`host`] what it
//! sees of the relay, and [`registry`] knows which sessions serve which public host. The entrance
//! owns the tasks.

pub mod admission;
pub mod entrance;
pub mod host;
pub mod listener;
pub mod live;
pub mod refusals;
pub mod registry;
pub(crate) mod roster;
pub mod session;

pub use entrance::Entrance;
pub use listener::AgentListener;
pub use registry::Registry;

/// Message of an agent to the relay, with its policy.
pub(crate) type FromAgent =
    hookward_tunnel::protocol::control::FromAgent<hookward_gate::policy::Policy>;
