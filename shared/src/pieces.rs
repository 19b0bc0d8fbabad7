//! Pieces of a body, put together. One piece is kept as it is; several are copied into one, so that a
//! small piece does not hold on to the large buffer that it was read into.

use bytes::{Bytes, BytesMut};

/// What has been collected of a body.
#[derive(Default)]
pub struct Pieces {
    first: Bytes,
    rest: BytesMut,
}

impl Pieces {
    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a piece.
    pub fn add(&mut self, data: Bytes) {
        if self.is_empty() {
            self.first = data;
            return;
        }
        self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        self.rest.extend_from_slice(&data);
    }

    /// All of it.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}
