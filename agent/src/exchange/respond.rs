//! Sends the application's response back into the tunnel.

use super::{Exchange, ResponseSent};
use bytes::Bytes;
use hookward_core::headers::{passes_to_sender, trailer_passes};
use hookward_core::limits::{GATHER_TIMEOUT, SMALL_BODY};
use hookward_core::reason::Code;
use hookward_tunnel::body_buffer::BodyBuffer;
use hookward_tunnel::protocol::head::{self, ExchangeFailure};
use hookward_tunnel::transport::splice::splice;
use hookward_tunnel::transport::{MessageReader, MessageWriter, StreamError};
use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::future::Future;
use tokio::time::{timeout, timeout_at};

impl Exchange<'_> {
    /// Sends the application's response to the relay, and returns the connection to the pool.
    pub(super) async fn send_back(
        &self,
        mut writer: MessageWriter,
        answered: ResponseSent,
        head_only: bool,
    ) {
        let ResponseSent {
            response,
            connection,
            ..
        } = answered;
        let (parts, mut body) = response.into_parts();
        self.tap.response(parts.status, &parts.headers);

        let bodiless = head_only
            || matches!(
                parts.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            )
            || body.is_end_stream();
        let length = if bodiless {
            Some(0)
        } else {
            body.size_hint().exact()
        };

        let response = head::ExchangeResponse {
            status: parts.status,
            length,
            headers: parts.headers,
        };
        let head = response.encode(passes_to_sender);

        let sent = match length {
            Some(0) => {
                self.tap.response_ended();
                self.with_timeout(writer.whole(&head, Bytes::new())).await
            }
            Some(length) if length <= SMALL_BODY as u64 => {
                self.send_small(writer, &head, &mut body).await
            }
            _ => {
                writer.deprioritise();
                match self.with_timeout(writer.head(&head)).await {
                    Ok(()) => self.stream(writer, &mut body, &response.headers).await,
                    Err(()) => Err(()),
                }
            }
        };
        if sent.is_ok() {
            self.handler.pool.put_back(connection).await;
        }
    }

    /// Sends a small response in one piece with its head, if all of it arrives at once.
    pub(super) async fn send_small(
        &self,
        mut writer: MessageWriter,
        head: &[u8],
        body: &mut Incoming,
    ) -> Result<(), ()> {
        let deadline = tokio::time::Instant::now() + GATHER_TIMEOUT;
        let mut gathered = BodyBuffer::expecting(body.size_hint().exact());

        loop {
            match timeout_at(deadline, body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.tap.response_data(&data);
                        gathered.add(data);
                    }
                }
                Ok(Some(Err(_))) => {
                    // Nothing was sent yet, so the sender can still get the right status.
                    self.fail(writer, Code::UpstreamError, Code::UpstreamError.status())
                        .await;
                    return Err(());
                }
                Ok(None) => {
                    self.tap.response_ended();
                    return self
                        .with_timeout(writer.whole(head, gathered.into_bytes()))
                        .await;
                }
                Err(_) => break,
            }
        }

        self.with_timeout(writer.head(head)).await?;
        self.with_timeout(writer.data(gathered.into_bytes()))
            .await?;
        self.stream(writer, body, &HeaderMap::new()).await
    }

    /// Streams a response.
    pub(super) async fn stream(
        &self,
        mut writer: MessageWriter,
        body: &mut Incoming,
        announced: &HeaderMap,
    ) -> Result<(), ()> {
        loop {
            let next = tokio::select! {
                next = timeout(self.deadlines.body_idle(), body.frame()) => next.map_err(drop)?,
                () = writer.stopped() => return Err(()),
            };
            match next {
                None => {
                    self.tap.response_ended();
                    return self.with_timeout(writer.finish()).await;
                }
                Some(Err(_)) => return Err(()),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.tap.response_data(&data);
                        self.with_timeout(writer.data(data)).await?;
                    }
                    Err(frame) => {
                        let Ok(trailers) = frame.into_trailers() else {
                            continue;
                        };
                        let payload = head::encode_trailers(&trailers, |name| {
                            trailer_passes(announced, name)
                        });
                        self.with_timeout(writer.trailers(&payload)).await?;
                    }
                },
            }
        }
    }

    /// Runs a write into the tunnel under its deadline. Dropping the writer after a timeout aborts
    /// the exchange.
    pub(super) async fn with_timeout(
        &self,
        write: impl Future<Output = Result<(), StreamError>>,
    ) -> Result<(), ()> {
        timeout(self.deadlines.body_idle(), write)
            .await
            .map_err(drop)?
            .map_err(drop)
    }

    /// Runs a WebSocket after the application accepted it: copies bytes both ways.
    pub(super) async fn switch(
        &self,
        mut writer: MessageWriter,
        answered: ResponseSent,
        reader: Option<MessageReader>,
    ) {
        let Some(reader) = reader else { return };
        let (mut parts, body) = answered.response.into_parts();
        self.tap.response(parts.status, &parts.headers);
        let mut headers = std::mem::take(&mut parts.headers);
        headers.remove(header::CONTENT_LENGTH);

        let answer = head::ExchangeResponse {
            status: parts.status,
            length: Some(0),
            headers,
        };

        if self
            .with_timeout(writer.head(&answer.encode(passes_to_sender)))
            .await
            .is_err()
        {
            return;
        }

        let upgraded = hyper::upgrade::on(Response::from_parts(parts, body));
        if let Ok(Ok(upgraded)) = timeout(self.deadlines.body_idle(), upgraded).await {
            splice(
                TokioIo::new(upgraded),
                writer,
                reader,
                self.deadlines.upgrade_idle(),
            )
            .await;
        }
    }

    /// Sends the reason for a missing response to the relay, which words it for the sender.
    pub(super) async fn fail(&self, writer: MessageWriter, code: Code, status: StatusCode) {
        let head = ExchangeFailure { code, status }.encode();
        // A relay that is gone needs no reason.
        let _ = self.with_timeout(writer.whole(&head, Bytes::new())).await;
    }
}
