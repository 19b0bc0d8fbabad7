//! What travels in the tunnel.
//!
//! The agent dials the relay (QUIC, ALPN [`ALPN`]) and opens one stream, the control stream: JSON
//! messages, each behind its length ([`control`]). After that the relay opens one bidirectional
//! stream for every request, the exchange:
//!
//! ```text
//! relay → agent   HEAD (request)   DATA*  TRAILERS?  END
//! agent → relay   HEAD (response)  DATA*  TRAILERS?  END     or   FAILURE END
//! ```
//!
//! Frames are laid out as HTTP/3's ([`frame`]), heads hold names as written and in order
//! ([`head`]). A stream that ends without END is an abort, as is a reset; an abort is never taken
//! for an end. After a response with status 101, DATA carries the upgraded bytes in both
//! directions.

pub mod control;
pub mod frame;
pub mod head;
pub mod varint;

/// The version of the protocol, as TLS negotiates it.
pub const ALPN: &[u8] = b"hookward/1";
