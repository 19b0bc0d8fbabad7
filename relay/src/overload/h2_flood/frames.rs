//! Counts the frames of an HTTP/2 connection.

use super::{CONTINUATION, DATA, END_HEADERS, HEAD, HEADERS, PUSH_PROMISE};

/// Follows one direction from frame to frame.
pub(super) struct FrameCounter {
    pub(super) head: [u8; HEAD],
    /// Bytes of the head that are there.
    pub(super) filled: usize,
    /// Bytes to pass over before the next head.
    pub(super) skip: usize,
    /// Bytes of the request's head that comes, as its frames announce them, and whether this frame
    /// is its last.
    pub(super) block: u64,
    pub(super) last_of_block: bool,
}

/// Kind of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// A request or an answer moves.
    Progress,
    Control,
    /// The frame may not come from a client.
    Wrong,
}

impl FrameCounter {
    pub(super) const fn after(skip: usize) -> Self {
        Self {
            head: [0; HEAD],
            filled: 0,
            skip,
            block: 0,
            last_of_block: false,
        }
    }

    /// Takes bytes in up to where a request's head begins, and says of each frame that begins in
    /// them what it is. Gives what is left, and whether a head begins there.
    pub(super) fn follow<'b>(
        &mut self,
        mut bytes: &'b [u8],
        mut each: impl FnMut(FrameKind),
    ) -> (&'b [u8], bool) {
        while !bytes.is_empty() {
            let over = self.skip.min(bytes.len());
            self.skip -= over;
            bytes = bytes.get(over..).unwrap_or_default();

            if self.skip == 0 && self.last_of_block {
                (self.block, self.last_of_block) = (0, false);
            }

            let wanted = (HEAD - self.filled).min(bytes.len());
            let (part, rest) = bytes.split_at(wanted);

            if let Some(room) = self.head.get_mut(self.filled..self.filled + wanted) {
                room.copy_from_slice(part);
            }

            self.filled += wanted;
            bytes = rest;

            if self.filled == HEAD {
                let [high, middle, low, kind, flags, ..] = self.head;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.filled = 0;

                if kind == HEADERS || kind == CONTINUATION {
                    self.block += self.skip as u64;
                    self.last_of_block = flags & END_HEADERS != 0;
                }

                each(match kind {
                    HEADERS => FrameKind::Progress,
                    DATA if self.skip > 0 => FrameKind::Progress,
                    PUSH_PROMISE => FrameKind::Wrong,
                    _ => FrameKind::Control,
                });

                if kind == HEADERS {
                    return (bytes, true);
                }
            }
        }

        (bytes, false)
    }
}
