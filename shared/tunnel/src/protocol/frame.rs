//! Frames of an exchange: type, length, payload, as in HTTP/3 (RFC 9114 §7.1).
//!
//! [`Decoder`] accepts chunks and returns frames; it copies only heads that arrive in pieces. It
//! enforces the order: one head, data, optional trailers, the end.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::protocol::varint;
use hookward_core::limits::{HEAD_FRAME_BYTES, TRAILERS_FRAME_BYTES};

/// A frame, or a part of one: data is returned as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The head, encoded by [`crate::protocol::head`].
    Head(Bytes),
    /// Bytes of the body.
    Data(Bytes),
    /// Trailer fields.
    Trailers(Bytes),
    /// The message is complete.
    End,
}

/// Violation of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A type unknown to this version.
    #[error("unknown frame type {0}")]
    Unknown(u64),
    /// A frame in a position where it is not allowed.
    #[error("unexpected frame of type {0}")]
    Order(u64),
    /// A head or trailers beyond the maximum size.
    #[error(
        "the head or the trailers have {0} bytes, more than the maximum of {HEAD_FRAME_BYTES} or {TRAILERS_FRAME_BYTES}"
    )]
    TooLarge(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Start,
    Body,
    Trailed,
    Ended,
}

/// Decoder of frames.
#[derive(Debug)]
pub struct Decoder {
    input: Bytes,
    /// Prefix or head that arrived in pieces.
    partial: BytesMut,
    /// Current frame: its type, and the missing number of bytes.
    current: Option<(u64, usize)>,
    stage: Stage,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            input: Bytes::new(),
            partial: BytesMut::new(),
            current: None,
            stage: Stage::Start,
        }
    }
}

impl Decoder {
    /// Adds a chunk. Call this when [`Decoder::next_frame`] returns `None`.
    pub fn push(&mut self, chunk: Bytes) {
        if self.input.is_empty() {
            self.input = chunk;
        } else {
            let mut joined = BytesMut::with_capacity(self.input.len() + chunk.len());
            joined.put_slice(&self.input);
            joined.put_slice(&chunk);
            self.input = joined.freeze();
        }
    }

    /// Returns `true` if the END frame was read. The end of the stream is then no abort.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Returns the next frame, or `None` if more input is needed.
    ///
    /// # Errors
    /// [`FrameError`]; the stream is then unusable.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        loop {
            let (kind, missing) = match self.current {
                Some(current) => current,
                None => match self.read_prefix()? {
                    Some(current) => current,
                    None => return Ok(None),
                },
            };

            match kind {
                END => {
                    self.current = None;
                    self.stage = Stage::Ended;
                    return Ok(Some(Frame::End));
                }
                DATA if missing == 0 => self.current = None,
                DATA if self.input.is_empty() => return Ok(None),
                DATA => {
                    let data = self.input.split_to(missing.min(self.input.len()));
                    let left = missing - data.len();
                    self.current = (left > 0).then_some((DATA, left));
                    return Ok(Some(Frame::Data(data)));
                }
                _ => return Ok(self.read_whole(kind, missing)),
            }
        }
    }

    /// Reads type and length, and checks order and size.
    fn read_prefix(&mut self) -> Result<Option<(u64, usize)>, FrameError> {
        let Some((kind, length)) = self.take_prefix() else {
            return Ok(None);
        };
        self.stage = match (kind, self.stage) {
            (HEAD, Stage::Start) => Stage::Body,
            (DATA, Stage::Body) => Stage::Body,
            (TRAILERS, Stage::Body) => Stage::Trailed,
            (END, Stage::Body | Stage::Trailed) if length == 0 => self.stage,
            (DATA | HEAD | TRAILERS | END, _) => return Err(FrameError::Order(kind)),
            _ => return Err(FrameError::Unknown(kind)),
        };

        let cap = match kind {
            DATA => usize::MAX,
            TRAILERS => TRAILERS_FRAME_BYTES,
            _ => HEAD_FRAME_BYTES,
        };

        match usize::try_from(length) {
            Ok(length) if length <= cap => {
                self.current = Some((kind, length));
                Ok(self.current)
            }
            _ => Err(FrameError::TooLarge(length)),
        }
    }

    fn take_prefix(&mut self) -> Option<(u64, u64)> {
        fn parse(mut buf: &[u8]) -> Option<(u64, u64, usize)> {
            let before = buf.len();
            let kind = varint::get(&mut buf)?;
            let length = varint::get(&mut buf)?;
            Some((kind, length, before - buf.len()))
        }

        if self.partial.is_empty() {
            if let Some((kind, length, used)) = parse(&self.input) {
                self.input.advance(used);
                return Some((kind, length));
            }
            self.partial.put(self.input.split_off(0));
            return None;
        }

        while self.partial.len() < PREFIX_BYTES && self.input.has_remaining() {
            self.partial.put_u8(self.input.get_u8());
            if let Some((kind, length, _)) = parse(&self.partial) {
                self.partial.clear();
                return Some((kind, length));
            }
        }

        None
    }

    /// Returns a complete head or trailers.
    fn read_whole(&mut self, kind: u64, length: usize) -> Option<Frame> {
        let payload = if self.partial.is_empty() && self.input.len() >= length {
            self.input.split_to(length)
        } else {
            let wanted = length - self.partial.len();
            let piece = self.input.split_to(wanted.min(self.input.len()));
            self.partial.put(piece);
            if self.partial.len() < length {
                return None;
            }
            self.partial.split().freeze()
        };

        self.current = None;
        Some(if kind == HEAD {
            Frame::Head(payload)
        } else {
            Frame::Trailers(payload)
        })
    }
}

const DATA: u64 = 0x00;

const HEAD: u64 = 0x01;

const TRAILERS: u64 = 0x02;

const END: u64 = 0x03;

/// Maximum size of a frame's type and length, in bytes.
const PREFIX_BYTES: usize = 16;

/// Returns the prefix of a DATA frame of this length.
#[must_use]
pub(crate) fn data_prefix(length: usize) -> Bytes {
    prefix(DATA, length)
}

/// Encodes a HEAD frame.
#[must_use]
pub(crate) fn head(payload: &[u8]) -> Bytes {
    whole(HEAD, payload)
}

/// Encodes a TRAILERS frame.
#[must_use]
pub(crate) fn trailers(payload: &[u8]) -> Bytes {
    whole(TRAILERS, payload)
}

#[must_use]
pub(crate) const fn end() -> Bytes {
    Bytes::from_static(&[END as u8, 0])
}

fn prefix(kind: u64, length: usize) -> Bytes {
    let mut buf = BytesMut::with_capacity(PREFIX_BYTES);
    varint::put(&mut buf, kind);
    varint::put(&mut buf, length as u64);
    buf.freeze()
}

fn whole(kind: u64, payload: &[u8]) -> Bytes {
    let mut buf = BytesMut::with_capacity(PREFIX_BYTES + payload.len());
    varint::put(&mut buf, kind);
    varint::put(&mut buf, payload.len() as u64);
    buf.put_slice(payload);
    buf.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Heads, data, trailers, and `true` if the end was read.
    type Decoded = (Vec<u8>, Vec<u8>, Vec<u8>, bool);

    fn decode(chunks: impl Iterator<Item = Bytes>) -> Result<Decoded, FrameError> {
        let mut decoder = Decoder::default();
        let (mut heads, mut data, mut trailers) = (Vec::new(), Vec::new(), Vec::new());

        for chunk in chunks {
            decoder.push(chunk);
            while let Some(frame) = decoder.next_frame()? {
                match frame {
                    Frame::Head(bytes) => heads.extend_from_slice(&bytes),
                    Frame::Data(bytes) => data.extend_from_slice(&bytes),
                    Frame::Trailers(bytes) => trailers.extend_from_slice(&bytes),
                    Frame::End => {}
                }
            }
        }

        Ok((heads, data, trailers, decoder.is_ended()))
    }

    fn message() -> Vec<u8> {
        let body = vec![7_u8; 300];
        [
            head(&[1; 100]),
            data_prefix(body.len()),
            Bytes::from(body),
            data_prefix(0),
            data_prefix(2),
            Bytes::from_static(b"ab"),
            trailers(b"t"),
            end(),
        ]
        .concat()
    }

    #[test]
    fn chunk_borders_do_not_matter() {
        let whole = Bytes::from(message());
        let expected = decode(std::iter::once(whole.clone())).unwrap();
        assert!(expected.3 && expected.1.len() == 302);
        for size in 1..20 {
            let chunks = whole.chunks(size).map(Bytes::copy_from_slice);
            assert_eq!(decode(chunks).unwrap(), expected, "chunks of {size}");
        }
    }

    #[test]
    fn a_cut_message_never_ends() {
        let whole = message();
        for cut in 0..whole.len() {
            let ended = decode(std::iter::once(Bytes::copy_from_slice(&whole[..cut])))
                .unwrap()
                .3;
            assert!(!ended, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_an_error_and_no_panic() {
        let bad: [&[u8]; 7] = [
            &[0, 0],
            &[3, 0],
            &[1, 0, 1, 0],
            &[1, 0, 3, 1, 0],
            &[1, 0, 9, 0],
            &[1, 0, 3, 0, 0, 0],
            &[1, 0x80, 0x0f, 0xff, 0xff],
        ];
        for bytes in bad {
            assert!(
                decode(std::iter::once(Bytes::copy_from_slice(bytes))).is_err(),
                "{bytes:?}"
            );
        }

        let mut seed = 1_u64;
        for _ in 0..20_000 {
            let noise: Vec<u8> = (0..24)
                .map(|_| {
                    seed = seed
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 60) as u8
                })
                .collect();
            let _ = decode(noise.chunks(5).map(Bytes::copy_from_slice));
        }
    }
}
