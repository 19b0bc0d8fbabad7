//! The relay's side that strangers reach. The way of a request, in the order of its files:
//!
//! [`listener`] takes the connection and bounds how many there are, [`stall`] cuts off who takes
//! nothing, [`tls`] does the handshake, [`http`] reads requests from it, [`spelling`] remembers how
//! header names were written, [`authority`] finds out which host is meant, [`client_address`] where
//! the request comes from, [`body`] reads what the gate needs, and [`answer`] writes every answer
//! that the relay makes itself.

pub mod answer;
pub mod authority;
pub mod body;
pub mod client_address;
pub mod http;
pub mod listener;
pub mod spelling;
pub mod stall;
pub mod tls;

pub use listener::EdgeListener;
