//! Guards both ends of the sender's socket. A write that makes no progress for too long is an
//! error. A connection that closes while its sender still sends lingers, so that the sender can
//! read its response.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Marks a connection whose sender sends a body that nothing will read; clones share it. Refusals
/// of hyper itself do not set it.
#[derive(Clone, Default)]
pub(crate) struct UnreadBody(Arc<SocketFlags>);

#[derive(Default)]
struct SocketFlags {
    unread: AtomicBool,
    slow: AtomicBool,
}

impl UnreadBody {
    /// Sets or clears the mark.
    pub(crate) fn set(&self, unread: bool) {
        self.0.unread.store(unread, Ordering::Relaxed);
    }

    /// Records that the sender was too slow to wait for.
    pub(crate) fn set_slow(&self) {
        self.0.slow.store(true, Ordering::Relaxed);
    }
}

/// Stream whose writes must make progress.
pub(crate) struct WriteTimeout<S> {
    inner: S,
    timeout: Duration,
    /// Timer of a pending write.
    timer: Option<Pin<Box<Sleep>>>,
    unread: UnreadBody,
    linger: Option<LingeringClose>,
}

/// A closed connection that still reads.
struct LingeringClose {
    /// End of the current window, and of the linger time.
    timer: Pin<Box<Sleep>>,
    end: Instant,
    /// Number of bytes in this window, and in total.
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
    /// Discards what arrives, until the sender closes or its time is over.
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

/// Window in which the sender must send [`LINGER_WINDOW_BYTES`] to stay.
const LINGER_WINDOW: Duration = Duration::from_secs(5);

/// Minimum number of bytes per [`LINGER_WINDOW`]: the slowest modem sends 1 KiB/s.
const LINGER_WINDOW_BYTES: usize = 5 * 1024;

/// Linger time for a sender that was too slow before: it only has to read its response.
const LINGER_SLOW: Duration = Duration::from_millis(500);

/// Maximum number of bytes read after closing: a little more than the largest body that GitHub
/// sends.
const LINGER_BYTES: usize = 32 * 1024 * 1024;

/// Size of the buffer for discarded bytes.
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
