//! Halves of a stream, over QUIC or HTTP/2: bytes, and the difference between an end and an abort.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::client::ResponseFuture;
use quinn::VarInt;

use tokio::sync::OwnedSemaphorePermit;

use crate::body_buffer;
use crate::transport::error::StreamError;

/// Sending half of a stream.
pub(crate) enum SendHalf {
    Quic(quinn::SendStream),
    Http2(h2::SendStream<Bytes>),
}

/// Receiving half of a stream.
pub(crate) enum RecvHalf {
    Quic(quinn::RecvStream),
    /// With its permit among the streams that may be open.
    Http2(
        Http2Recv,
        #[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
    ),
}

/// Receiving half over HTTP/2. The side that opened the stream gets it with the response head.
pub(crate) enum Http2Recv {
    Opening(ResponseFuture),
    Open(h2::RecvStream),
}

impl SendHalf {
    /// Writes data; `end` ends the stream after it.
    pub(crate) async fn write(
        &mut self,
        pieces: &mut [Bytes],
        end: bool,
    ) -> Result<(), StreamError> {
        match self {
            Self::Quic(stream) => {
                stream.write_all_chunks(pieces).await?;
                if end {
                    // An error means that the peer has stopped the stream, and needs no end.
                    let _ = stream.finish();
                }
                Ok(())
            }
            Self::Http2(stream) => write_http2(stream, pieces, end).await,
        }
    }

    /// Ends the stream, and waits until the peer has received everything or is gone. HTTP/2 does
    /// not report that; there the peer ends the session.
    pub(crate) async fn finish_and_settle(&mut self) {
        match self {
            Self::Quic(stream) => {
                if stream.finish().is_ok() {
                    let _ = stream.stopped().await;
                }
            }
            Self::Http2(stream) => {
                if stream.send_data(Bytes::new(), true).is_ok() {
                    let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
                }
            }
        }
    }

    /// Aborts the message.
    pub(crate) fn reset(&mut self) {
        match self {
            Self::Quic(stream) => {
                let _ = stream.reset(ABORTED);
            }
            Self::Http2(stream) => stream.send_reset(Reason::CANCEL),
        }
    }

    /// Sends this stream's bytes before those of lower priority, if the transport has priorities.
    pub(crate) fn prioritise(&self, priority: i32) {
        if let Self::Quic(stream) = self {
            // An error means that the stream is closed, and has nothing to order.
            let _ = stream.set_priority(priority);
        }
    }

    /// Resolves when the peer no longer wants the data, or is gone.
    pub(crate) async fn stopped(&mut self) {
        match self {
            Self::Quic(stream) => {
                // `Ok(None)`: the peer received everything, which is no reason to stop.
                if let Ok(None) = stream.stopped().await {
                    std::future::pending::<()>().await;
                }
            }
            Self::Http2(stream) => {
                let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
            }
        }
    }
}

/// Code of a reset or stopped stream: the message is incomplete.
const ABORTED: VarInt = VarInt::from_u32(1);

async fn write_http2(
    stream: &mut h2::SendStream<Bytes>,
    pieces: &mut [Bytes],
    end: bool,
) -> Result<(), StreamError> {
    let total: usize = pieces.iter().map(Bytes::len).sum();
    let joined = (total <= COPIED).then(|| body_buffer::join(pieces));
    let pieces = joined.as_ref().map_or(&*pieces, std::slice::from_ref);
    for (at, piece) in pieces.iter().enumerate() {
        let last = end && at + 1 == pieces.len();
        let mut piece = piece.clone();
        while !piece.is_empty() {
            stream.reserve_capacity(piece.len());
            let room = match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(broken(stream).await),
            };
            let part = piece.split_to(room.min(piece.len()));
            if let Err(error) = stream.send_data(part, last && piece.is_empty()) {
                return Err(if error.is_io() {
                    error.into()
                } else {
                    broken(stream).await
                });
            }
        }
    }

    Ok(())
}

/// Maximum size of pieces that are copied together, in bytes, to save HTTP/2 frames.
const COPIED: usize = 16 * 1024;

/// Returns the reason why a stream accepts no more data.
async fn broken(stream: &mut h2::SendStream<Bytes>) -> StreamError {
    // The reason is known already, so one poll returns it.
    let reset = poll_fn(|cx| Poll::Ready(stream.poll_reset(cx))).await;
    match reset {
        Poll::Ready(Err(error)) => error.into(),
        Poll::Ready(Ok(_)) | Poll::Pending => StreamError::Aborted,
    }
}

impl RecvHalf {
    /// Returns the received data in one piece, or `None` at the stream's end. Cancel-safe.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        match self {
            Self::Quic(stream) => {
                // quinn returns the data of single packets, and every piece costs its receiver a
                // frame, a record and a write.
                let mut chunks = [const { Bytes::new() }; CHUNKS];
                // quinn's future has no state of its own: a new one continues where the last one
                // stopped.
                let read = ready!(pin!(stream.read_chunks(&mut chunks)).poll(cx))?;
                Poll::Ready(Ok(read
                    .and_then(|count| chunks.get(..count))
                    .map(body_buffer::join)))
            }
            Self::Http2(stream, _) => stream.poll_read(cx),
        }
    }

    /// Stops the peer. Over HTTP/2 the peer learns it when the whole stream ends.
    pub(crate) fn stop(&mut self) {
        if let Self::Quic(stream) = self {
            let _ = stream.stop(ABORTED);
        }
    }
}

/// Maximum number of chunks in one read; each has the data of one packet.
const CHUNKS: usize = 32;

impl Http2Recv {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamError>> {
        loop {
            match self {
                Self::Opening(opening) => {
                    *self = Self::Open(ready!(Pin::new(opening).poll(cx))?.into_body());
                }
                Self::Open(stream) => {
                    let Some(data) = ready!(stream.poll_data(cx)) else {
                        return Poll::Ready(Ok(None));
                    };
                    let data = data?;

                    // The data is forwarded at once, so the window only covers data in flight.
                    stream.flow_control().release_capacity(data.len())?;

                    if !data.is_empty() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
            }
        }
    }
}
