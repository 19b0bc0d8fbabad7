//! The relay's public side, in the order of a request:
//!
//! 1. [`listener`] accepts the connection, within the bounds of [`crate::overload`].
//! 2. [`tls`] performs the handshake; [`clear_text`] answers plain HTTP.
//! 3. [`connection`] reads requests. [`header_case`] records how header names were written.
//! 4. `head` validates a head. [`authority`] determines its host, [`client_address`] and
//!    [`proxy_protocol`] its client address; [`sole_client`] notices a proxy that hides clients.
//! 5. [`authorize`] runs the baseline policy and the tunnel's policy; [`crate::body`] reads the
//!    bodies that they need.
//! 6. [`response`] writes every response that the relay makes itself.
//!
//! [`state`] is shared by all requests; `request_context` collects the facts about one request for
//! the log and the tunnel's owner. [`request`] runs the steps from 4 on.

pub(crate) mod authority;
pub(crate) mod authorize;
pub(crate) mod baseline;
mod clear_text;
pub(crate) mod client_address;
pub(crate) mod connection;
mod deliver;
mod head;
pub(crate) mod header_case;
pub(crate) mod http_port;
pub(crate) mod listener;
pub mod proxy_protocol;
pub(crate) mod request;
mod request_context;
pub(crate) mod response;
pub(crate) mod sole_client;
pub(crate) mod state;
pub(crate) mod tls;

pub(crate) use listener::EdgeListener;
