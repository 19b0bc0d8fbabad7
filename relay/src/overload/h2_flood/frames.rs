//! Parses the frame headers of an HTTP/2 connection.

use super::{CONTINUATION, DATA, END_HEADERS, HEAD, HEADERS, PUSH_PROMISE};

/// Parser of one direction, frame by frame.
pub(super) struct FrameCounter {
    pub(super) head: [u8; HEAD],
    /// Number of buffered bytes of the frame header.
    pub(super) filled: usize,
    /// Number of bytes to skip before the next frame header.
    pub(super) skip: usize,
    /// Size of the header block that is arriving, as its frames announce it.
    pub(super) block: u64,
    pub(super) last_of_block: bool,
}

/// Kind of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// A frame that moves a request or a response.
    Progress,
    Control,
    /// A frame that a client must not send.
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

    /// Parses bytes up to the start of a header block, and reports the kind of each frame that
    /// begins in them. Returns the rest, and `true` if a header block starts there.
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
