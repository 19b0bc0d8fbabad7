//! The relay's side towards its agents.
//!
//! [`listener`] takes QUIC connections, and the edge passes those on that come over TLS to its own
//! port; [`acceptor`] is what all pass, [`handshake`] finds out who it is, [`session`] serves a
//! known agent until it leaves, [`active`] is what the rest of the relay sees of it, [`context`] what it
//! sees of the relay, and [`registry`] knows which sessions serve which public host. The entrance
//! owns the tasks.

pub(crate) mod acceptor;
pub(crate) mod active;
pub(crate) mod context;
pub(crate) mod handshake;
pub(crate) mod listener;
pub(crate) mod owner_events;
pub(crate) mod registry;
pub(crate) mod session;

pub(crate) use acceptor::AgentAcceptor;
pub(crate) use listener::AgentListener;
pub(crate) use registry::Registry;

/// Message of an agent to the relay, with its policy.
pub(crate) type AgentMessage =
    hookward_tunnel::protocol::control::AgentMessage<hookward_gate::policy::Policy>;
