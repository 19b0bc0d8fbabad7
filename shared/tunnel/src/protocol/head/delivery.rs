//! The delivery that a request is an attempt of.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hookward_core::clock::UnixMillis;
use uuid::Uuid;

use super::HeadError;
use super::fields::take;

/// Delivery that a request is an attempt of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryMeta {
    /// Public id, the same for every attempt.
    pub id: Uuid,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Number of redeliveries by hand. Each is sent to the application once more.
    pub redelivered: u32,
    /// Time of receipt by the relay's clock, if the relay has stored the webhook. `None` for a
    /// request that has just arrived.
    pub received: Option<UnixMillis>,
    /// Generation of the relay's ownership. The agent refuses a lower one than before.
    pub epoch: u64,
}

/// Length of an encoded delivery, in bytes.
const LENGTH: usize = 16 + 4 + 4 + 8 + 8;

impl DeliveryMeta {
    pub(super) fn put(&self, buf: &mut BytesMut) {
        buf.put_slice(self.id.as_bytes());
        buf.put_u32(self.attempt);
        buf.put_u32(self.redelivered);
        // No webhook was received in 1970.
        buf.put_u64(self.received.map_or(0, |received| received.0));
        buf.put_u64(self.epoch);
    }

    pub(super) fn get(buf: &mut Bytes) -> Result<Self, HeadError> {
        let mut encoded = take(buf, LENGTH)?;
        let mut id = [0; 16];
        encoded.copy_to_slice(&mut id);
        let (attempt, redelivered) = (encoded.get_u32(), encoded.get_u32());
        let (received, epoch) = (encoded.get_u64(), encoded.get_u64());
        Ok(Self {
            id: Uuid::from_bytes(id),
            attempt,
            redelivered,
            received: (received > 0).then_some(UnixMillis(received)),
            epoch,
        })
    }
}
