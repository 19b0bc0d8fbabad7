//! Body of a message in the tunnel, for hyper: polled, with trailers, and with an error instead of
//! an end if the message was aborted.

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

/// Reason why a body was aborted. hyper then closes the connection or resets the stream, so that
/// the receiver cannot treat the body as complete.
#[derive(Debug, thiserror::Error)]
pub enum MessageBodyError {
    /// The other end of the tunnel aborted.
    #[error("the body was aborted: {0}")]
    Aborted(#[from] StreamError),
    /// No data arrived for this time.
    #[error("no data of the body arrived for {} s", .0.as_secs())]
    Idle(Duration),
    /// The body ended before its announced length, or exceeded it.
    #[error("the body's length differs from the announced one")]
    Length,
}

/// Body of a message, after its head.
pub struct MessageBody {
    reader: MessageReader,
    /// Frames that were received but not yet returned.
    arrived: VecDeque<Frame>,
    /// Remaining bytes, if the length was announced.
    left: Option<u64>,
    /// `Trailer` fields of the head: only announced trailers may follow.
    announced: HeaderMap,
    idle_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl MessageBody {
    /// Creates the body that this reader returns. `headers` are those of its head; `patience` is
    /// the maximum time between two pieces.
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

    /// Returns the whole body, if it is small and has arrived, as nearly always. It can then be
    /// sent in one write with its head. Otherwise the body is unchanged.
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

            // The next poll observes a missing piece or an error again.
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
