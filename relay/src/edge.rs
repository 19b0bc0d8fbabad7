//! The relay's side that strangers reach. The way of a request, in the order of its files:
//!
//! [`listener`] takes the connection and bounds how many there are, in all ([`crate::overload::connections`]) and of one
//! address ([`crate::overload::per_client`]), [`crate::overload::write_timeout`] cuts off who takes nothing, [`tls`] does the handshake,
//! [`connection`] reads requests from it, [`crate::overload::h2_flood`] ends floods of control frames,
//! [`header_case`] remembers how header names were written, `head` puts a head in order, for which
//! [`authority`] finds out which host is meant, [`client_address`] and [`proxy_protocol`] where the
//! request comes from; [`authorize`] takes it through the gates, [`crate::body`] reads what they need, and
//! [`response`] writes every answer that the relay makes itself. [`state`] is what a request finds,
//! `request_context` is what is known of it, and told to the tunnel's owner. [`request`] is the way through
//! all of them.

pub(crate) mod authority;
pub(crate) mod authorize;
pub(crate) mod baseline;
mod clear_text;
pub(crate) mod client_address;
pub(crate) mod connection;
mod head;
pub(crate) mod header_case;
pub(crate) mod listener;
pub mod proxy_protocol;
pub(crate) mod request;
mod request_context;
pub(crate) mod response;
pub(crate) mod state;
pub(crate) mod tls;

pub(crate) use listener::EdgeListener;
