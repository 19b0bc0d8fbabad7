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

use super::ForwardError;
use crate::body::request::{BodyStart, SenderBody};
use crate::body::response::Upload;

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
) -> Result<(), ForwardError> {
    with_timeout(patience, writer.head(&request.encode(passes(false)))).await?;
    with_timeout(patience, writer.data(first.bytes)).await?;
    drop(charge);

    let mut trailers = first.trailers;
    while !first.complete
        && let Some(frame) = rest.next().await.map_err(ForwardError::Body)?
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
) -> Result<T, ForwardError> {
    let written = timeout(patience, write)
        .await
        .map_err(|_| ForwardError::Stalled(patience))?;
    written.map_err(ForwardError::Tunnel)
}

/// Sends a request's body, driven by the task that waits for the response.
pub(crate) struct BodySender {
    sending: Pin<Box<dyn Future<Output = Result<(), ForwardError>> + Send>>,
    /// Charge for the body's memory.
    pub(crate) charge: Option<MemoryCharge>,
}

impl BodySender {
    pub(crate) fn new(
        sending: impl Future<Output = Result<(), ForwardError>> + Send + 'static,
    ) -> Self {
        Self {
            sending: Box::pin(sending),
            charge: None,
        }
    }
}

impl BodySender {
    /// Returns the rest of the request, to be sent while the response is read.
    pub(crate) fn into_upload(self) -> Upload {
        Box::pin(async move {
            let _ = self.await;
        })
    }
}

impl Future for BodySender {
    type Output = Result<(), ForwardError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.sending.as_mut().poll(cx)
    }
}
