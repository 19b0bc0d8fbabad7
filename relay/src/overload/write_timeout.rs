//! The sender's socket, guarded at both of its ends: a write that stays pending for too long is an
//! error, and a connection that is closed while its sender is still sending is closed with
//! patience.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Marks a connection whose sender still sends a body that nothing will read. Clones share it. Does
/// not know what hyper refuses by itself.
#[derive(Clone, Default)]
pub(crate) struct UnreadBody(Arc<SocketFlags>);

#[derive(Default)]
struct SocketFlags {
    unread: AtomicBool,
    slow: AtomicBool,
}

impl UnreadBody {
    /// Says whether there is such a body.
    pub(crate) fn set(&self, unread: bool) {
        self.0.unread.store(unread, Ordering::Relaxed);
    }

    /// Says that the sender was too slow to be waited for.
    pub(crate) fn set_slow(&self) {
        self.0.slow.store(true, Ordering::Relaxed);
    }
}

/// A stream whose writes must get on.
pub(crate) struct WriteTimeout<S> {
    inner: S,
    timeout: Duration,
    /// Runs while a write is pending.
    timer: Option<Pin<Box<Sleep>>>,
    unread: UnreadBody,
    linger: Option<LingeringClose>,
}

/// A closed connection that is still read from.
struct LingeringClose {
    /// The end of a window, and of all of them.
    timer: Pin<Box<Sleep>>,
    end: Instant,
    /// Number of bytes in this window, and in all.
    came: usize,
    left: usize,
}

impl<S> WriteTimeout<S> {
    pub(crate) const fn new(inner: S, patience: Duration, unread: UnreadBody) -> Self {
        Self {
            inner,
            timeout: patience,
            timer: None,
            unread,
            linger: None,
        }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.timer = None;
            return outcome;
        }

        let patience = self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the peer takes nothing",
            ))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S> WriteTimeout<S> {}

impl<S: AsyncRead + Unpin> WriteTimeout<S> {
    /// Throws away what still comes, until the sender closes, too, or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (window, all) = match self.unread.0.slow.load(Ordering::Relaxed) {
            true => (LINGER_SLOW, LINGER_SLOW),
            false => (LINGER_WINDOW, LINGER_TIMEOUT),
        };
        let linger = self.linger.get_or_insert_with(|| LingeringClose {
            timer: Box::pin(sleep(window)),
            end: Instant::now() + all,
            came: 0,
            left: LINGER_BYTES,
        });

        while linger.left > 0 {
            if linger.timer.as_mut().poll(cx).is_ready() {
                if linger.came < LINGER_WINDOW_BYTES || Instant::now() >= linger.end {
                    break;
                }

                linger.came = 0;
                linger
                    .timer
                    .as_mut()
                    .reset(linger.end.min(Instant::now() + window));
                continue;
            }

            let mut bytes = [0; DISCARD];
            let mut buffer = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {
                    linger.came += buffer.filled().len();
                    linger.left = linger.left.saturating_sub(buffer.filled().len());
                }
                _ => break,
            }
        }

        Poll::Ready(())
    }
}

/// Time in which a closed connection reads what its sender still sends. A socket that is closed
/// with unread bytes is reset, and the reset destroys a response that the sender has not read yet
/// (RFC 9112 §9.6). The value is nginx's.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);

/// So much has to come in each such time, or the sender only holds the connection: a slow modem
/// brings 1 KiB/s.
const LINGER_WINDOW: Duration = Duration::from_secs(5);

const LINGER_WINDOW_BYTES: usize = 5 * 1024;

/// The time for a sender that was too slow before: it only has to read its answer.
const LINGER_SLOW: Duration = Duration::from_millis(500);

/// Maximum number of bytes read after closing: a little more than the largest body that GitHub
/// sends.
const LINGER_BYTES: usize = 32 * 1024 * 1024;

/// Bytes that are thrown away at once.
const DISCARD: usize = 16 * 1024;

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            let outcome = Pin::new(&mut self.inner).poll_shutdown(cx);
            ready!(self.watch(cx, outcome))?;
        }

        if self.unread.0.unread.load(Ordering::Relaxed) {
            ready!(self.poll_linger(cx));
        }

        Poll::Ready(Ok(()))
    }
}
