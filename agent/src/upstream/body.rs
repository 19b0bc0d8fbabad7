//! Body of a request to the application.

use crate::inspector::capture::Tap;
use bytes::Bytes;
use hookward_tunnel::transport::{MessageBody, body::MessageBodyError};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;

/// A request's body on its way to the application.
pub(crate) enum UpstreamBody {
    Whole(Full<Bytes>),
    /// Body that arrives through the tunnel.
    Tunnel(Box<MessageBody>, Progress, Tap),
}

/// Progress of sending a body, for the code that waits for the response. `None` for a body in
/// memory, which counts as sent.
#[derive(Clone)]
pub(crate) struct Progress(Option<Arc<MonitoredBody>>);

#[derive(Default)]
pub(super) struct MonitoredBody {
    over: AtomicBool,
    moved: Notify,
}

impl Progress {
    /// Returns `true` if the body has been read to its end.
    #[must_use]
    pub(crate) fn is_over(&self) -> bool {
        self.0
            .as_ref()
            .is_none_or(|watched| watched.over.load(Ordering::Relaxed))
    }

    /// Resolves when a piece was read, or the end; never if the body has ended.
    pub(crate) async fn changed(&self) {
        match &self.0 {
            Some(watched) if !self.is_over() => watched.moved.notified().await,
            _ => std::future::pending().await,
        }
    }

    fn note(&self, over: bool) {
        if let Some(watched) = &self.0 {
            watched.over.fetch_or(over, Ordering::Relaxed);
            watched.moved.notify_one();
        }
    }
}

impl UpstreamBody {
    /// Wraps a body that arrives through the tunnel. `tap` copies it.
    #[must_use]
    pub(crate) fn tunnel(body: MessageBody, tap: Tap) -> Self {
        Self::Tunnel(Box::new(body), Progress(Some(Arc::default())), tap)
    }

    /// Returns the progress of sending.
    #[must_use]
    pub(crate) fn progress(&self) -> Progress {
        match self {
            Self::Tunnel(_, progress, _) => progress.clone(),
            Self::Whole(_) => Progress(None),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = MessageBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, MessageBodyError>>> {
        match &mut *self {
            Self::Whole(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Self::Tunnel(body, progress, tap) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            tap.request_data(data);
                        }
                    }
                    Some(Err(_)) => {}
                    None => tap.request_ended(),
                }
                progress.note(frame.is_none());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(full) => full.is_end_stream(),
            Self::Tunnel(body, ..) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(full) => full.size_hint(),
            Self::Tunnel(body, ..) => body.size_hint(),
        }
    }
}
