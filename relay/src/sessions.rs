//! The relay's side towards its agents.
//!
//! [`listener`] takes QUIC connections, and the edge passes those on that come over TLS to its own
//! port; [`acceptor`] is what all pass, [`handshake`] finds out who it is, [`session`] serves a
//! known agent until it leaves, [`active`] is what the rest of the relay sees of it, [`context`] what it
//! sees of the relay, and [`registry`] knows which sessions serve which public host. The entrance
//! owns the tasks.

pub mod acceptor;
pub mod active;
pub mod context;
pub mod handshake;
pub mod listener;
pub mod owner_events;
pub mod registry;
pub mod session;

pub use acceptor::AgentAcceptor;
pub use listener::AgentListener;
pub use registry::Registry;

/// Message of an agent to the relay, with its policy.
pub(crate) type AgentMessage =
    hookward_tunnel::protocol::control::AgentMessage<hookward_gate::policy::Policy>;
