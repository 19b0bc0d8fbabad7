//! Sends a request's body into the tunnel, while the response is awaited.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hookward_core::headers::{passes_to_application, trailer_passes};
use hookward_runtime::body_memory::MemoryCharge;
use hookward_tunnel::protocol::head::{self, ExchangeRequest};
use hookward_tunnel::transport::{MessageWriter, StreamError};
use http::header::{self as names, HeaderName};
use tokio::time::timeout;

use crate::body::request::{BodyStart, RequestBodyError, SenderBody};

/// Failure to send a request's body into the tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The tunnel or the agent aborted the stream.
    #[error(transparent)]
    Tunnel(StreamError),
    /// The tunnel accepted no data for this time.
    #[error("the tunnel accepted no data for {} s", .0.as_secs())]
    Stalled(Duration),
    /// The sender's body failed.
    #[error(transparent)]
    Body(RequestBodyError),
}

/// Returns a filter of the fields to forward. A buffered body has no trailers to announce.
pub(crate) fn passes(whole: bool) -> impl Fn(&HeaderName) -> bool {
    move |name| passes_to_application(name) && !(whole && *name == names::TRAILER)
}

/// Forwards a body while it is received.
pub(crate) async fn stream(
    mut writer: MessageWriter,
    request: ExchangeRequest,
    first: BodyStart,
    charge: MemoryCharge,
    mut rest: SenderBody,
    patience: Duration,
) -> Result<(), SendError> {
    with_timeout(patience, writer.head(&request.encode(passes(false)))).await?;
    with_timeout(patience, writer.data(first.bytes)).await?;
    drop(charge);

    let mut trailers = first.trailers;
    while !first.complete
        && let Some(frame) = rest.next().await.map_err(SendError::Body)?
    {
        match frame.into_data() {
            Ok(data) => with_timeout(patience, writer.data(data)).await?,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }

    if let Some(trailers) = trailers {
        let payload =
            head::encode_trailers(&trailers, |name| trailer_passes(&request.headers, name));
        with_timeout(patience, writer.trailers(&payload)).await?;
    }

    with_timeout(patience, writer.finish()).await
}

/// Runs a write into the tunnel under its deadline.
pub(crate) async fn with_timeout<T>(
    patience: Duration,
    write: impl Future<Output = Result<T, StreamError>>,
) -> Result<T, SendError> {
    let written = timeout(patience, write)
        .await
        .map_err(|_| SendError::Stalled(patience))?;
    written.map_err(SendError::Tunnel)
}

/// Sends a request's body, driven by the task that waits for the response.
pub(crate) struct BodySender {
    sending: Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>,
    /// Charge for the body's memory.
    pub(crate) charge: Option<MemoryCharge>,
}

impl BodySender {
    pub(crate) fn new(
        sending: impl Future<Output = Result<(), SendError>> + Send + 'static,
    ) -> Self {
        Self {
            sending: Box::pin(sending),
            charge: None,
        }
    }
}

impl Future for BodySender {
    type Output = Result<(), SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.sending.as_mut().poll(cx)
    }
}
