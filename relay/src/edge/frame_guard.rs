//! Counts an HTTP/2 connection's frames, and cuts it off when it brings control frames and nothing else: floods of
//! PING, SETTINGS, PRIORITY or WINDOW_UPDATE cost us more than whoever sends them, and hyper answers them all.
//!
//! It reads nothing but frame heads (RFC 9113 §4.1), and changes no byte.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Control frames in a [`WINDOW`] beyond those that go with what moves: real clients send a few.
const MOST: u32 = 1000;
/// Control frames that may go with a frame of DATA or HEADERS, in either direction.
const WITH_EACH: u32 = 10;
/// The time in which they are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// What a client says first (RFC 9113 §3.4).
const PREFACE: usize = 24;
/// A frame's head: length, kind, flags, stream.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// Counts the frames of a connection.
pub struct FrameGuard<S> {
    inner: S,
    coming: Frames,
    going: Frames,
    /// Control frames that went with nothing.
    idle: u32,
    since: Instant,
}

/// Follows one direction from frame to frame.
struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    filled: usize,
    /// Bytes to pass over before the next head.
    skip: usize,
}

/// What a frame does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    /// A request or an answer moves.
    Progress,
    /// It does not.
    Control,
}

impl Frames {
    const fn after(skip: usize) -> Self {
        Self { head: [0; HEAD], filled: 0, skip }
    }

    /// Takes bytes in, and says of each frame that begins in them what it is.
    fn follow(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let over = self.skip.min(bytes.len());
            self.skip -= over;
            bytes = bytes.get(over..).unwrap_or_default();
            let wanted = (HEAD - self.filled).min(bytes.len());
            let (part, rest) = bytes.split_at(wanted);
            if let Some(room) = self.head.get_mut(self.filled..self.filled + wanted) {
                room.copy_from_slice(part);
            }
            self.filled += wanted;
            bytes = rest;
            if self.filled == HEAD {
                let [high, middle, low, kind, ..] = self.head;
                self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                self.filled = 0;
                let moves = kind == HEADERS || kind == DATA && self.skip > 0;
                each(if moves { Frame::Progress } else { Frame::Control });
            }
        }
    }
}

impl<S> FrameGuard<S> {
    /// Guards a connection of which nothing has been read.
    pub fn new(inner: S) -> Self {
        let (coming, going) = (Frames::after(PREFACE), Frames::after(0));
        Self { inner, coming, going, idle: 0, since: Instant::now() }
    }

    fn came(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.since.elapsed() >= WINDOW {
            (self.idle, self.since) = (0, Instant::now());
        }
        let idle = &mut self.idle;
        self.coming.follow(bytes, |frame| match frame {
            Frame::Progress => *idle = idle.saturating_sub(WITH_EACH),
            Frame::Control => *idle += 1,
        });
        if self.idle > MOST {
            return Err(io::Error::other("too many control frames"));
        }
        Ok(())
    }

    fn went(&mut self, bytes: &[u8]) {
        let idle = &mut self.idle;
        self.going.follow(bytes, |frame| {
            if frame == Frame::Progress {
                *idle = idle.saturating_sub(WITH_EACH);
            }
        });
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameGuard<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        Poll::Ready(self.came(buffer.filled().get(before..).unwrap_or_default()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameGuard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, data))?;
        self.went(data.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, data))?;
        let mut left = written;
        for piece in data {
            let part = piece.get(..left.min(piece.len())).unwrap_or_default();
            left -= part.len();
            self.went(part);
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        [&(payload.len() as u32).to_be_bytes()[1..], &[kind, 0, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn frames_are_followed_in_pieces_of_every_size() {
        let stream = [frame(4, b"123456"), frame(HEADERS, &[0; 300]), frame(DATA, b""), frame(DATA, b"x")].concat();
        for size in 1..stream.len() {
            let mut frames = Frames::after(3);
            let mut seen = Vec::new();
            for piece in [b"pre".as_slice(), &stream].concat().chunks(size) {
                frames.follow(piece, |frame| seen.push(frame == Frame::Progress));
            }
            assert_eq!(seen, [false, true, false, true], "{size}");
        }
    }

    #[test]
    fn only_what_moves_nothing_counts() {
        let mut guard = FrameGuard::new(());
        guard.came(&[0; PREFACE]).unwrap();
        let ping = frame(6, &[0; 8]);
        for _ in 0..MOST {
            guard.came(&ping).unwrap();
        }
        guard.went(&frame(DATA, b"of an answer"));
        for _ in 0..WITH_EACH {
            guard.came(&ping).unwrap();
        }
        assert!(guard.came(&ping).is_err());
    }
}
