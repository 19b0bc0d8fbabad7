//! Signed texts, composed of pieces of the body and the request.

use std::borrow::Cow;
use std::ops::Range;

/// A signed text. Parts of the body are not copied.
#[derive(Debug, Default)]
pub(crate) struct SignedMessage {
    pieces: Vec<MessagePiece>,
}

#[derive(Debug)]
pub(super) enum MessagePiece {
    Body(Range<usize>),
    Own(Vec<u8>),
}

impl SignedMessage {
    /// Adds bytes. Does not copy those of the body; returns the number of copied ones.
    pub(crate) fn push(&mut self, bytes: Cow<'_, [u8]>, body: &[u8]) -> usize {
        let piece = match bytes {
            Cow::Borrowed(inside) if inside.len() > size_of::<MessagePiece>() => {
                match position(inside, body) {
                    Some(range) => MessagePiece::Body(range),
                    None => MessagePiece::Own(inside.to_vec()),
                }
            }
            other => MessagePiece::Own(other.into_owned()),
        };
        let copied = match &piece {
            MessagePiece::Own(bytes) => bytes.len(),
            MessagePiece::Body(_) => 0,
        };

        self.pieces.push(piece);
        copied
    }

    /// Returns the number of pieces.
    #[must_use]
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Removes pieces from the end, down to this number.
    pub(crate) fn truncate(&mut self, pieces: usize) {
        self.pieces.truncate(pieces);
    }

    /// Returns the pieces.
    #[must_use]
    pub(crate) fn slices<'m>(&'m self, body: &'m [u8]) -> Vec<&'m [u8]> {
        let bytes = |piece: &'m MessagePiece| match piece {
            MessagePiece::Body(range) => body.get(range.clone()).unwrap_or_default(),
            MessagePiece::Own(bytes) => bytes.as_slice(),
        };
        self.pieces.iter().map(bytes).collect()
    }

    #[must_use]
    pub(crate) fn concat(&self, body: &[u8]) -> Vec<u8> {
        self.slices(body).concat()
    }

    /// Returns the number of bytes.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        let length = |piece: &MessagePiece| match piece {
            MessagePiece::Body(range) => range.len(),
            MessagePiece::Own(bytes) => bytes.len(),
        };
        self.pieces.iter().map(length).sum()
    }
}

/// Returns the range of a slice within the body that contains it.
pub(super) fn position(inside: &[u8], body: &[u8]) -> Option<Range<usize>> {
    let start = (inside.as_ptr() as usize).checked_sub(body.as_ptr() as usize)?;
    let end = start.checked_add(inside.len())?;
    // An equal slice at the same address: adjacent memory could not pass the comparison by chance.
    (end <= body.len() && std::ptr::eq(body.get(start..end)?, inside)).then_some(start..end)
}
