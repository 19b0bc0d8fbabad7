//! The relay's side of its agents.
//!
//! [`listener`] accepts QUIC connections; the edge passes on TLS connections to its own port. All
//! pass [`acceptor`]. [`handshake`] authenticates the agent, with [`failed_joins`] against guesses.
//! [`session`] serves it until it leaves, or [`revision`] shows that it was revoked. [`active`] is the
//! session as the rest of the relay uses it, [`context`] the relay as sessions use it. `calls`
//! answers an agent's calls of the API. [`registry`] maps public hosts to sessions. The acceptor owns
//! the tasks.

pub(crate) mod acceptor;
pub(crate) mod active;
mod calls;
pub(crate) mod context;
pub(crate) mod failed_joins;
pub(crate) mod handshake;
pub(crate) mod listener;
pub(crate) mod registry;
pub(crate) mod revision;
pub(crate) mod session;

pub(crate) use acceptor::AgentAcceptor;
pub(crate) use listener::AgentListener;
pub(crate) use registry::{Registry, TunnelEndpoint};

/// Message of an agent to the relay, with its policy.
pub(crate) type AgentMessage =
    hookward_tunnel::protocol::control::AgentMessage<hookward_gate::policy::Policy>;
