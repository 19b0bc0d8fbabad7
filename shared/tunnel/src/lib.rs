//! Hookward's tunnel between relay and agent: [`protocol`] defines what travels, [`transport`]
//! moves the bytes over QUIC or TLS.

pub mod body_buffer;
pub mod join_token;
pub mod protocol;
pub mod transport;
