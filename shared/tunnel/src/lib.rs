//! Tunnel between relay and agent: [`protocol`] defines the messages, [`transport`] carries them
//! over QUIC or TLS.

pub mod body_buffer;
pub mod join_token;
pub mod protocol;
pub mod transport;
