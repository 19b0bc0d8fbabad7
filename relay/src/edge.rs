//! The relay's side that strangers reach. The way of a request, in the order of its files:
//!
//! [`listener`] takes the connection and bounds how many there are, in all ([`slots`]) and of one
//! address ([`places`]), [`stall`] cuts off who takes nothing, [`tls`] does the handshake,
//! [`connection`] reads requests from it, [`frame_guard`] ends floods of control frames,
//! [`spelling`] remembers how header names were written, `head` puts a head in order, for which
//! [`authority`] finds out which host is meant, [`client_address`] and [`proxy_protocol`] where the
//! request comes from; [`judge`] takes it through the gates, [`body`] reads what they need, and
//! [`answer`] writes every answer that the relay makes itself. [`context`] is what a request finds,
//! `facts` are what is known of it, and told to the tunnel's owner. [`request`] is the way through
//! all of them.

pub mod activity;
pub mod answer;
pub mod arriving;
pub mod authority;
pub mod body;
mod clear_text;
pub mod client_address;
pub mod connection;
pub mod context;
mod facts;
pub mod frame_guard;
mod head;
pub mod judge;
pub mod listener;
pub mod places;
pub mod proxy_protocol;
pub mod request;
pub mod slots;
pub mod spelling;
pub mod stall;
pub mod tls;

pub use listener::EdgeListener;
