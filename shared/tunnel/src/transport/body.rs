//! The body of a message in the tunnel, as hyper wants a body: polled, with trailers, and with an
//! error in the place of an end when the message broke off.

use std::collections::VecDeque;
use std::future::{Future as _, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame as BodyFrame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::body_buffer::BodyBuffer;
use crate::protocol::frame::Frame;
use crate::protocol::head;
use crate::transport::error::StreamError;
use crate::transport::stream::MessageReader;
use hookward_core::headers::trailer_passes;
use hookward_core::limits::SMALL_BODY;

/// Reason why a body was aborted. hyper then closes the connection, or resets the stream, so that
/// the receiver can't take the body for complete.
#[derive(Debug, thiserror::Error)]
pub enum MessageBodyError {
    /// The other end of the tunnel broke off.
    #[error("the body was aborted: {0}")]
    Aborted(#[from] StreamError),
    /// Nothing came for too long.
    #[error("the body stood still for {} s", .0.as_secs())]
    Idle(Duration),
    /// The body ended before its announced length, or exceeded it.
    #[error("the body's length is not what was announced")]
    Length,
}

/// A message's body, behind its head.
pub struct MessageBody {
    reader: MessageReader,
    /// Frames that were looked at and not given out.
    arrived: VecDeque<Frame>,
    /// Bytes that are still to come, when the length was announced.
    left: Option<u64>,
    /// The head's `Trailer` fields: only what they announce may follow.
    announced: HeaderMap,
    idle_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl MessageBody {
    /// The body that this reader has yet to give. `headers` are those of its head; between two
    /// pieces no more time than `patience` may pass.
    #[must_use]
    pub fn new(
        reader: MessageReader,
        length: Option<u64>,
        headers: &HeaderMap,
        patience: Duration,
    ) -> Self {
        let mut announced = HeaderMap::new();
        for value in headers.get_all(header::TRAILER) {
            announced.append(header::TRAILER, value.clone());
        }

        Self {
            reader,
            arrived: VecDeque::new(),
            left: length,
            announced,
            idle_timeout: patience,
            timer: None,
            ended: false,
        }
    }

    /// The whole body, if it is small and has arrived: nearly always. It can then go on in one
    /// piece, with its head in one write. Otherwise nothing is lost, and the body is still to be
    /// read.
    pub async fn take_if_arrived(&mut self) -> Option<Bytes> {
        let length = self.left.filter(|length| *length <= SMALL_BODY as u64)?;
        let mut body = BodyBuffer::expecting(Some(length));
        let mut complete = false;
        poll_fn(|cx| {
            while let Poll::Ready(Ok(frame)) = self.reader.poll_next(cx) {
                let end = frame == Frame::End;
                match &frame {
                    Frame::Data(data) => body.add(data.clone()),
                    Frame::End => {
                        complete = self
                            .arrived
                            .iter()
                            .all(|frame| matches!(frame, Frame::Data(_)))
                    }
                    Frame::Head(_) | Frame::Trailers(_) => {}
                }

                self.arrived.push_back(frame);
                if end || body.len() > SMALL_BODY {
                    break;
                }
            }

            // What is not there yet, or broke, is met again by whoever polls the body.
            Poll::Ready(())
        })
        .await;

        if complete && body.len() as u64 == length {
            self.ended = true;
            return Some(body.into_bytes());
        }

        None
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, MessageBodyError>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }

            let next = match self.arrived.pop_front() {
                Some(frame) => Poll::Ready(Ok(frame)),
                None => self.reader.poll_next(cx),
            };
            let Poll::Ready(next) = next else {
                let patience = self.idle_timeout;
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
                ready!(timer.as_mut().poll(cx));
                return Poll::Ready(Some(Err(MessageBodyError::Idle(patience))));
            };

            self.timer = None;
            match next? {
                Frame::Data(data) => {
                    if let Some(left) = &mut self.left {
                        *left = left
                            .checked_sub(data.len() as u64)
                            .ok_or(MessageBodyError::Length)?;
                    }
                    return Poll::Ready(Some(Ok(BodyFrame::data(data))));
                }
                Frame::Trailers(payload) => {
                    let trailers = head::decode_trailers(payload)
                        .map_err(|error| StreamError::Protocol(error.to_string()))?;
                    let passing = trailers
                        .iter()
                        .filter(|(name, _)| trailer_passes(&self.announced, name))
                        .map(|(name, value)| (name.clone(), value.clone()))
                        .collect();
                    return Poll::Ready(Some(Ok(BodyFrame::trailers(passing))));
                }
                Frame::End => {
                    self.ended = true;
                    if self.left.is_some_and(|left| left > 0) {
                        return Poll::Ready(Some(Err(MessageBodyError::Length)));
                    }
                }
                Frame::Head(_) => {
                    return Poll::Ready(Some(Err(StreamError::Protocol(
                        "a second head".to_owned(),
                    )
                    .into())));
                }
            }
        }
    }
}

impl Body for MessageBody {
    type Data = Bytes;
    type Error = MessageBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, MessageBodyError>>> {
        self.poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
