//! Body of a response, on its way to the sender.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hookward_tunnel::transport::{MessageBody, body};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use crate::overload::activity::InFlightRequest;
use crate::overload::load::LoadGuard;
use crate::overload::per_client::ClientSlot;
use crate::overload::slow_readers::{ResponseBacklog, TrackedResponse};

/// Body of a response: the relay's own, or the application's.
pub(crate) struct ResponseBody {
    source: ResponseSource,
    /// Guards that count this request until its response has been read.
    held: Option<(InFlightRequest, Option<ClientSlot>)>,
    /// Guard that counts the request as in flight in its session.
    load: Option<LoadGuard>,
}

enum ResponseSource {
    Own(Full<Bytes>),
    /// Body that arrives through the tunnel.
    Tunnel(TrackedResponse<TunnelBody>),
}

/// Reason why a response was aborted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseBodyError {
    /// The tunnel or the agent aborted the response.
    #[error(transparent)]
    Body(#[from] body::MessageBodyError),
    /// The sender read too slowly while the backlog was full.
    #[error("response evicted: the sender read too slowly while the tunnel was full")]
    Evicted,
}

/// Rest of a request that is still being sent. Its failure does not matter once the response has
/// begun.
pub(crate) type Upload = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Response body from the tunnel, with the rest of the request that is still being sent.
pub(crate) struct TunnelBody {
    body: MessageBody,
    upload: Option<Upload>,
}

impl TunnelBody {
    /// Returns the number of bytes still to come, if known.
    fn left(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        if let Some(upload) = &mut self.upload
            && upload.as_mut().poll(cx).is_ready()
        {
            self.upload = None;
        }

        Pin::new(&mut self.body)
            .poll_frame(cx)
            .map_err(ResponseBodyError::Body)
    }
}

impl ResponseBody {
    /// Wraps a body in memory.
    #[must_use]
    pub(crate) const fn own(body: Full<Bytes>) -> Self {
        Self {
            source: ResponseSource::Own(body),
            held: None,
            load: None,
        }
    }

    /// Holds these guards until the body was read to its end, or dropped.
    #[must_use]
    pub(crate) fn hold(mut self, mut open: InFlightRequest, place: Option<ClientSlot>) -> Self {
        open.set_taken(true);
        self.held = Some((open, place));
        self
    }

    /// Counts the request as in flight in its session until then.
    #[must_use]
    pub(crate) fn count(mut self, in_flight: LoadGuard) -> Self {
        self.load = Some(in_flight);
        self
    }

    pub(crate) async fn new(
        mut body: MessageBody,
        upload: Option<Upload>,
        backlog: &Arc<ResponseBacklog<TunnelBody>>,
    ) -> Self {
        if upload.is_none()
            && let Some(whole) = body.take_if_arrived().await
        {
            return Self::own(Full::new(whole));
        }

        let on_its_way = TrackedResponse::new(TunnelBody { body, upload }, backlog);
        Self {
            source: ResponseSource::Tunnel(on_its_way),
            held: None,
            load: None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ResponseBodyError>>> {
        let frame = match &mut self.source {
            ResponseSource::Own(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            ResponseSource::Tunnel(on_its_way) => {
                match on_its_way.take(|body| body.poll(cx), TunnelBody::left) {
                    Some(frame) => frame,
                    None => Poll::Ready(Some(Err(ResponseBodyError::Evicted))),
                }
            }
        };

        if let Some((open, _)) = &mut self.held {
            open.set_taken(frame.is_ready());
        }

        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            ResponseSource::Own(full) => full.is_end_stream(),
            ResponseSource::Tunnel(on_its_way) => on_its_way
                .look(|body| body.body.is_end_stream())
                .unwrap_or(false),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            ResponseSource::Own(full) => full.size_hint(),
            ResponseSource::Tunnel(on_its_way) => on_its_way
                .look(|body| body.body.size_hint())
                .unwrap_or_default(),
        }
    }
}
