//! Counts the frames of an HTTP/2 connection, and closes it after too many control frames without
//! progress. Floods of PING, SETTINGS, PRIORITY or WINDOW_UPDATE cost the relay more than the
//! attacker, and hyper answers all of them.
//!
//! The guard also passes on the requests of an unverified connection one or two at a time.
//! Otherwise h2 would decode all received heads, some to a hundred times their size, before it
//! returns the first. And the guard charges the memory of a head without end.
//!
//! The guard parses only frame headers (RFC 9113 §4.1) and changes no byte. It rejects PUSH_PROMISE, which
//! no client may send (§8.4), because h2 would buffer an unfinished one without limit.

mod frames;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::frames::{FrameCounter, FrameKind};
use crate::overload::connections::{ConnectionSlot, HeaderMemory};

/// Size of a frame header, in bytes: length, type, flags, stream.
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Counts the frames of a connection.
pub(crate) struct H2FloodGuard<S> {
    inner: S,
    coming: FrameCounter,
    going: FrameCounter,
    /// Number of control frames without progress.
    idle: u32,
    since: Instant,
    /// `true` if a request's head has begun since the last pause.
    begun: bool,
    /// `true` if a pause is due before the bytes that follow.
    pause: bool,
    behind: Bytes,
    slot: Arc<ConnectionSlot>,
    /// Memory of a head that is still arriving.
    held: HeaderMemory,
}

impl<S> H2FloodGuard<S> {
    /// Guards a connection from its first byte.
    pub(crate) fn new(inner: S, slot: &Arc<ConnectionSlot>) -> Self {
        let (coming, going) = (FrameCounter::after(PREFACE), FrameCounter::after(0));
        let (slot, held, behind) = (Arc::clone(slot), slot.hold_coming(), Bytes::new());
        Self {
            inner,
            coming,
            going,
            idle: 0,
            since: Instant::now(),
            begun: false,
            pause: false,
            behind,
            slot,
            held,
        }
    }

    /// Inspects received bytes, up to the second head of an unverified connection, and returns
    /// their number.
    fn came(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.since.elapsed() >= WINDOW {
            (self.idle, self.since) = (0, Instant::now());
        }

        let (mut left, mut wrong) = (bytes, false);
        while !left.is_empty() && !self.pause {
            let idle = &mut self.idle;
            let begins;
            (left, begins) = self.coming.follow(left, |frame| match frame {
                FrameKind::Progress => *idle = idle.saturating_sub(CONTROL_PER_PROGRESS),
                FrameKind::Control => *idle += 1,
                FrameKind::Wrong => wrong = true,
            });

            self.pause = begins && self.begun && !self.slot.is_verified();
            self.begun |= begins;
        }

        if wrong {
            return Err(io::Error::other("a frame that no client may send"));
        }

        if self.idle > MAX_CONTROL_FRAMES {
            return Err(io::Error::other("too many control frames"));
        }

        if !self.held.set(self.coming.block * COST) {
            return Err(io::Error::other("no memory for a head"));
        }

        Ok(bytes.len() - left.len())
    }

    fn went(&mut self, mut bytes: &[u8]) {
        let idle = &mut self.idle;
        while !bytes.is_empty() {
            (bytes, _) = self.going.follow(bytes, |frame| {
                if frame == FrameKind::Progress {
                    *idle = idle.saturating_sub(CONTROL_PER_PROGRESS);
                }
            });
        }
    }
}

/// Maximum number of control frames in a [`WINDOW`] beyond those that accompany progress; real
/// clients send a few.
const MAX_CONTROL_FRAMES: u32 = 1000;

/// Number of control frames that may accompany each DATA or HEADERS frame, in either direction.
const CONTROL_PER_PROGRESS: u32 = 10;

/// Window in which control frames are counted.
const WINDOW: Duration = Duration::from_secs(10);

/// Length of the client's connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// Memory cost of each byte of an unfinished head: in h2's buffer, and decoded.
const COST: u64 = 2;

impl<S: AsyncRead + Unpin> AsyncRead for H2FloodGuard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pause {
            self.pause = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }

        let before = buffer.filled().len();
        if self.behind.is_empty() {
            match Pin::new(&mut self.inner).poll_read(cx, buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending => {
                    self.begun = false;
                    return Poll::Pending;
                }
            }
        } else {
            let most = self.behind.len().min(buffer.remaining());
            buffer.put_slice(self.behind.get(..most).unwrap_or_default());
        }

        let new = buffer.filled().get(before..).unwrap_or_default();
        let count = self.came(new)?;

        if self.behind.is_empty() {
            self.behind = Bytes::copy_from_slice(new.get(count..).unwrap_or_default());
        } else {
            self.behind.advance(count);
        }

        buffer.set_filled(before + count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for H2FloodGuard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
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
    use std::task::Waker;

    use super::*;
    use crate::overload::connections::ConnectionTable;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [
            &(payload.len() as u32).to_be_bytes()[1..],
            &[kind, flags, 0, 0, 0, 1],
            payload,
        ]
        .concat()
    }

    fn guard<S>(inner: S) -> H2FloodGuard<S> {
        H2FloodGuard::new(inner, &Arc::new(ConnectionTable::new(1).acquire().unwrap()))
    }

    #[test]
    fn frames_are_followed_in_pieces_of_every_size() {
        let stream = [
            frame(4, 0, b"123456"),
            frame(HEADERS, 0, &[0; 300]),
            frame(CONTINUATION, END_HEADERS, b""),
            frame(DATA, 0, b""),
            frame(HEADERS, END_HEADERS, b"x"),
        ];
        let stream = stream.concat();
        for size in 1..stream.len() {
            let mut frames = FrameCounter::after(3);
            let (mut seen, mut heads) = (Vec::new(), 0);

            for piece in [b"pre".as_slice(), &stream].concat().chunks(size) {
                let mut left = piece;
                while !left.is_empty() {
                    let ended;
                    (left, ended) =
                        frames.follow(left, |frame| seen.push(frame == FrameKind::Progress));
                    heads += u32::from(ended);
                }
            }

            assert_eq!(
                (seen, heads),
                (vec![false, true, false, false, true], 2),
                "{size}"
            );
        }
    }

    #[test]
    fn only_what_moves_nothing_counts() {
        let mut guard = guard(());
        guard.came(&[0; PREFACE]).unwrap();
        let ping = frame(6, 0, &[0; 8]);

        for _ in 0..MAX_CONTROL_FRAMES {
            guard.came(&ping).unwrap();
        }

        guard.went(&frame(DATA, 0, b"of an answer"));
        for _ in 0..CONTROL_PER_PROGRESS {
            guard.came(&ping).unwrap();
        }

        assert!(guard.came(&ping).is_err());
    }

    /// Every byte arrives in order, and a pause separates each two heads.
    #[test]
    fn unverified_heads_are_passed_on_one_at_a_time() {
        let mut sent = vec![0; PREFACE];
        for number in 0..50 {
            sent.extend(frame(HEADERS, 0, &[number; 20]));
            sent.extend(frame(CONTINUATION, END_HEADERS, &[][..]));
            sent.extend(frame(DATA, 0, &[number; 5]));
        }

        for size in [1, 7, 100, 4096] {
            let mut guard = guard(&sent[..]);
            let mut context = Context::from_waker(Waker::noop());
            let (mut received, mut since_pause) = (Vec::new(), 0);

            loop {
                let mut space = vec![0; size];
                let mut buffer = ReadBuf::new(&mut space);
                match Pin::new(&mut guard).poll_read(&mut context, &mut buffer) {
                    Poll::Pending => since_pause = received.len(),
                    Poll::Ready(read) => {
                        read.unwrap();
                        if buffer.filled().is_empty() {
                            break;
                        }
                        received.extend_from_slice(buffer.filled());
                    }
                }

                let of_one = 20 + 5 + 3 * HEAD;
                assert!(
                    received.len() - since_pause <= PREFACE + of_one + HEAD,
                    "{size}"
                );
            }

            assert_eq!(received, sent, "{size}");
        }
    }

    #[test]
    fn a_head_without_end_needs_more_memory_than_there_is() {
        let mut guard = guard(());
        guard.came(&[0; PREFACE]).unwrap();
        guard.came(&frame(HEADERS, 0, &[0; 10_000])).unwrap();
        let more = frame(CONTINUATION, 0, &[0; 10_000]);
        assert!((0..50).any(|_| guard.came(&more).is_err()));
    }
}
