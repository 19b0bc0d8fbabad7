//! Buffer for the pieces of a body. A single piece is kept as it is. Several are copied into one,
//! so that a small piece does not keep its large receive buffer alive.

use bytes::{Bytes, BytesMut};

/// Joins complete pieces.
#[must_use]
pub(crate) fn join(pieces: &[Bytes]) -> Bytes {
    if let [one] = pieces {
        return one.clone();
    }

    let mut joined = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in pieces {
        joined.extend_from_slice(piece);
    }

    joined.freeze()
}

/// Received part of a body.
#[derive(Default)]
pub struct BodyBuffer {
    first: Bytes,
    rest: BytesMut,
    /// Announced length, if known.
    expected: Option<u64>,
}

impl BodyBuffer {
    /// Creates a buffer for a body of this length, if known.
    #[must_use]
    pub fn expecting(length: Option<u64>) -> Self {
        Self {
            expected: length,
            ..Self::default()
        }
    }

    /// Returns the number of bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    /// Returns `true` if there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a piece of the body.
    pub fn add(&mut self, data: Bytes) {
        if self.is_empty() {
            self.first = data;
            return;
        }

        let needed = self.len() + data.len();
        if self.rest.capacity() < needed {
            let expected = match self.expected {
                Some(length) => usize::try_from(length).unwrap_or(usize::MAX),
                None => needed.saturating_mul(2),
            };
            self.rest
                .reserve(expected.clamp(needed, needed.saturating_mul(GROWTH)) - self.rest.len());
        }

        self.rest
            .extend_from_slice(&std::mem::take(&mut self.first));
        self.rest.extend_from_slice(&data);
    }

    /// Returns all bytes, in one piece.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        }
    }
}

/// Maximum ratio of allocated to received bytes for a body of known length, so that an announced
/// length allocates no memory. A body of unknown length gets twice its bytes.
const GROWTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_one_in_order_and_take_no_memory_in_advance() {
        for expected in [None, Some(6), Some(0), Some(u64::MAX)] {
            let mut pieces = BodyBuffer::expecting(expected);
            for piece in ["a", "bc", "def"] {
                pieces.add(Bytes::from_static(piece.as_bytes()));
                assert!(
                    pieces.rest.capacity() <= GROWTH * pieces.len(),
                    "{expected:?}"
                );
            }

            assert_eq!(pieces.into_bytes(), "abcdef");
        }

        assert_eq!(join(&[]), "");
        assert_eq!(join(&["ab".into()]), "ab");
        assert_eq!(join(&["ab".into(), "c".into()]), "abc");
    }
}
