//! The tunnel protocol.
//!
//! The agent dials the relay (QUIC, ALPN [`ALPN`]) and opens one control stream of length-prefixed
//! JSON messages ([`control`]). Then the relay opens one bidirectional stream for every request, the
//! exchange:
//!
//! ```text
//! relay → agent   HEAD (request)   DATA*  TRAILERS?  END
//! agent → relay   HEAD (response)  DATA*  TRAILERS?  END     or   FAILURE END
//! ```
//!
//! Frames have the layout of HTTP/3 ([`frame`]). Heads contain names as written, in order
//! ([`head`]). A stream without END is aborted, as is a reset one; neither side treats an abort as
//! an end. After a response with status 101, DATA carries the upgraded bytes in both directions.

pub mod control;
pub mod frame;
pub mod head;
pub mod varint;

/// Protocol version, for ALPN.
pub const ALPN: &[u8] = b"hookward/1";
