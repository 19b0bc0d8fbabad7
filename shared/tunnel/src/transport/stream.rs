//! Halves of a stream. A message is complete only when its END was written. Until then a guard
//! resets the stream on drop, because quinn would finish it cleanly, and a truncated body would
//! look complete.

mod control_stream;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

pub use self::control_stream::{ControlReader, ControlStream, ControlWriter};
use crate::protocol::frame::{self, Decoder, Frame};
use crate::transport::error::StreamError;
use crate::transport::halves::{RecvHalf, SendHalf};
use crate::transport::write_priority::WritePriority;

/// Priority of a message among those that wait.
#[derive(Clone, Copy)]
enum Priority {
    /// Before large messages, because it is small.
    Urgent,
    /// Equal to others, because its size is unknown.
    Normal,
    /// After small messages.
    Bulk,
}

/// Writer of one message of an exchange. Dropping it before [`MessageWriter::finish`] aborts the
/// message.
pub struct MessageWriter {
    stream: SendHalf,
    order: Option<Arc<WritePriority>>,
    /// Priority of the bytes after the head.
    priority: Priority,
    finished: bool,
}

impl MessageWriter {
    pub(crate) const fn new(stream: SendHalf, order: Option<Arc<WritePriority>>) -> Self {
        Self {
            stream,
            order,
            priority: Priority::Normal,
            finished: false,
        }
    }

    /// Sends this message before larger and later ones; `order` counts messages. Measured: without
    /// it, quinn spreads small messages over packets of many streams.
    pub fn prioritise(&self, order: u32) {
        self.stream
            .prioritise(i32::MAX.saturating_sub_unsigned(order & 0x3fff_ffff));
    }

    /// Sends this message after all small ones.
    pub fn deprioritise(&mut self) {
        self.priority = Priority::Bulk;
        self.stream.prioritise(BULK);
    }

    /// Writes a head.
    ///
    /// # Errors
    /// [`StreamError`]; the message is then aborted.
    pub async fn head(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        self.write_by_priority(Priority::Urgent, &mut [frame::head(payload)], false)
            .await
    }

    /// Writes a complete message: head, body, end. They share packets, and nothing is copied.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn whole(mut self, head: &[u8], body: Bytes) -> Result<(), StreamError> {
        let head = frame::head(head);
        let written = if body.is_empty() {
            self.write_by_priority(Priority::Urgent, &mut [head, frame::end()], true)
                .await
        } else {
            let prefix = frame::data_prefix(body.len());
            self.write_by_priority(
                Priority::Urgent,
                &mut [head, prefix, body, frame::end()],
                true,
            )
            .await
        };
        self.finished = written.is_ok();

        written
    }

    /// Writes a piece of the body.
    ///
    /// # Errors
    /// [`StreamError`]; the message is then aborted.
    pub async fn data(&mut self, data: Bytes) -> Result<(), StreamError> {
        if data.is_empty() {
            return Ok(());
        }
        self.write(&mut [frame::data_prefix(data.len()), data])
            .await
    }

    /// Writes trailers.
    ///
    /// # Errors
    /// [`StreamError`]; the message is then aborted.
    pub async fn trailers(&mut self, payload: &[u8]) -> Result<(), StreamError> {
        self.write(&mut [frame::trailers(payload)]).await
    }

    /// Completes the message.
    ///
    /// # Errors
    /// [`StreamError`]; the message is then aborted.
    pub async fn finish(mut self) -> Result<(), StreamError> {
        self.end(&mut [frame::end()]).await
    }

    /// Resolves when the peer no longer wants the message, or is gone.
    pub async fn stopped(&mut self) {
        self.stream.stopped().await;
    }

    async fn write(&mut self, pieces: &mut [Bytes]) -> Result<(), StreamError> {
        self.write_by_priority(self.priority, pieces, false).await
    }

    async fn end(&mut self, pieces: &mut [Bytes]) -> Result<(), StreamError> {
        self.write_by_priority(self.priority, pieces, true).await?;
        self.finished = true;
        Ok(())
    }

    async fn write_by_priority(
        &mut self,
        turn: Priority,
        pieces: &mut [Bytes],
        end: bool,
    ) -> Result<(), StreamError> {
        let writing = self.stream.write(pieces, end);
        match (&self.order, turn) {
            (Some(order), Priority::Urgent) => order.write_urgent(writing).await,
            (Some(order), Priority::Bulk) => order.write_bulk(writing).await,
            (_, Priority::Normal) | (None, _) => writing.await,
        }
    }
}

/// Priority of streams with large messages, or of unknown size: after every small one.
const BULK: i32 = -1;

impl Drop for MessageWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.stream.reset();
        }
    }
}

/// Reader of one message of an exchange. Dropping it before the end stops the peer.
pub struct MessageReader {
    stream: RecvHalf,
    decoder: Decoder,
}

impl MessageReader {
    pub(crate) fn new(stream: RecvHalf) -> Self {
        Self {
            stream,
            decoder: Decoder::default(),
        }
    }

    /// Returns the next frame; data arrives in pieces. Cancel-safe.
    ///
    /// # Errors
    /// [`StreamError::Aborted`] if the stream ends before the message.
    pub async fn next(&mut self) -> Result<Frame, StreamError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for [`MessageReader::next`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, StreamError>> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Poll::Ready(Ok(frame));
            }
            match ready!(self.stream.poll_read(cx))? {
                Some(bytes) => self.decoder.push(bytes),
                None => return Poll::Ready(Err(StreamError::Aborted)),
            }
        }
    }

    /// Returns the head, which comes first.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn head(&mut self) -> Result<Bytes, StreamError> {
        match self.next().await? {
            Frame::Head(head) => Ok(head),
            _ => Err(StreamError::Protocol(
                "a message that does not begin with its head".to_owned(),
            )),
        }
    }
}

impl Drop for MessageReader {
    fn drop(&mut self) {
        if !self.decoder.is_ended() {
            self.stream.stop();
        }
    }
}
