//! The two halves of a stream, over QUIC or over HTTP/2: bytes, and the difference between an end
//! and an abort.

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
    /// With its place among the streams that may be open.
    Http2(
        Http2Recv,
        #[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>,
    ),
}

/// The receiving half over HTTP/2. The side that opened the stream gets it with the head of the
/// answer.
pub(crate) enum Http2Recv {
    Opening(ResponseFuture),
    Open(h2::RecvStream),
}

impl SendHalf {
    /// Writes these, and nothing after them if it is the `end`.
    pub(crate) async fn write(
        &mut self,
        pieces: &mut [Bytes],
        end: bool,
    ) -> Result<(), StreamError> {
        match self {
            Self::Quic(stream) => {
                stream.write_all_chunks(pieces).await?;
                if end {
                    // An error says that the peer has stopped the stream: then it wants no end
                    // either.
                    let _ = stream.finish();
                }
                Ok(())
            }
            Self::Http2(stream) => write_http2(stream, pieces, end).await,
        }
    }

    /// Ends the stream and waits until the peer has taken everything, or is gone. Over HTTP/2
    /// nobody tells that it was taken; there the peer ends the session.
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

    /// Breaks off what was written.
    pub(crate) fn reset(&mut self) {
        match self {
            Self::Quic(stream) => {
                let _ = stream.reset(ABORTED);
            }
            Self::Http2(stream) => stream.send_reset(Reason::CANCEL),
        }
    }

    /// Sends this stream's bytes before those of lower priority, where the transport knows
    /// priorities.
    pub(crate) fn prioritise(&self, priority: i32) {
        if let Self::Quic(stream) = self {
            // An error says that the stream is closed already; then nothing is left to order.
            let _ = stream.set_priority(priority);
        }
    }

    /// Resolves when the peer no longer wants what is written, or is gone.
    pub(crate) async fn stopped(&mut self) {
        match self {
            Self::Quic(stream) => {
                // `Ok(None)`: everything was taken; that is no reason to stop.
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

/// The code of a reset or stopped stream: the message is not complete.
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

/// Pieces up to this size are copied together before HTTP/2 makes a frame of each.
const COPIED: usize = 16 * 1024;

/// Returns the reason why a stream accepts no more data.
async fn broken(stream: &mut h2::SendStream<Bytes>) -> StreamError {
    // It is known already: asked once, and not waited for.
    let reset = poll_fn(|cx| Poll::Ready(stream.poll_reset(cx))).await;
    match reset {
        Poll::Ready(Err(error)) => error.into(),
        Poll::Ready(Ok(_)) | Poll::Pending => StreamError::Aborted,
    }
}

impl RecvHalf {
    /// Returns the received data in one piece; `None` at the stream's end. Polling holds no state.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamError>> {
        match self {
            Self::Quic(stream) => {
                // quinn gives out what came in one packet, and every piece costs its receiver a
                // frame, a record and a write.
                let mut chunks = [const { Bytes::new() }; CHUNKS];
                // quinn's future holds no state of its own: a new one goes on where the last one
                // was.
                let read = ready!(pin!(stream.read_chunks(&mut chunks)).poll(cx))?;
                Poll::Ready(Ok(read
                    .and_then(|count| chunks.get(..count))
                    .map(body_buffer::join)))
            }
            Self::Http2(stream, _) => stream.poll_read(cx),
        }
    }

    /// Tells the peer that nothing more is wanted. Over HTTP/2 the peer learns it when the whole
    /// stream ends.
    pub(crate) fn stop(&mut self) {
        if let Self::Quic(stream) = self {
            let _ = stream.stop(ABORTED);
        }
    }
}

/// Most chunks that one read takes from quinn. Each is what came in one packet.
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

                    // What is read is passed on at once: the window is for what is on its way.
                    stream.flow_control().release_capacity(data.len())?;

                    if !data.is_empty() {
                        return Poll::Ready(Ok(Some(data)));
                    }
                }
            }
        }
    }
}
