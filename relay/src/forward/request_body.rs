//! Body of an outgoing request, independent of its source.

use bytes::Bytes;
use hookward_runtime::body_memory::MemoryCharge;

use crate::body::request::{BodyStart, SenderBody};

/// Body of an outgoing request.
pub(crate) enum RequestBody {
    /// The whole body, in memory.
    Buffered(Bytes, MemoryCharge),
    /// First bytes in memory; the rest is still being received.
    Streaming(BodyStart, MemoryCharge, Box<SenderBody>),
    /// None: the bytes of an upgraded connection follow the response.
    Upgrade,
    /// Already being sent, and not kept.
    Consumed,
}

impl RequestBody {
    /// Returns the length in bytes, if known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Buffered(body, _) => Some(body.len() as u64),
            Self::Streaming(start, _, rest) => {
                rest.length().map(|rest| rest + start.bytes.len() as u64)
            }
            Self::Upgrade | Self::Consumed => Some(0),
        }
    }
}
