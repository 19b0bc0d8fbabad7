//! HTTPS client for the ACME server: one connection for each request, with a deadline and a bound.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::delivery::retry_after;

/// Client of an ACME server; clones share the last `Retry-After`.
#[derive(Clone)]
pub(super) struct AcmeClient {
    tls: Arc<ClientConfig>,
    // A std mutex: it guards one value, and nothing waits while it is held.
    retry_after: Arc<Mutex<Option<Duration>>>,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl AcmeClient {
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        Self {
            tls,
            retry_after: Arc::default(),
        }
    }

    /// Takes the `Retry-After` of the last response that refused a request.
    pub(super) fn take_retry_after(&self) -> Option<Duration> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Duration>> {
        self.retry_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<Response<Full<Bytes>>, BoxError> {
        let (mut parts, body) = request.into_parts();
        let host = parts.uri.host().unwrap_or_default().to_owned();
        if parts.uri.scheme_str() != Some("https") {
            return Err(format!("{} does not begin with https://", parts.uri).into());
        }
        let port = parts.uri.port_u16().unwrap_or(443);
        // Brackets are not part of an IPv6 address.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port)).await?;
        stream.set_nodelay(true)?;

        let name = ServerName::try_from(bare.to_owned())?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let stream = tls.connect(name, stream).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;

        if let Some(authority) = parts.uri.authority() {
            let host = authority.as_str().parse()?;
            parts.headers.insert(header::HOST, host);
        }
        let target = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = target.parse::<Uri>()?;
        let request = Request::from_parts(parts, body);

        let exchange = async {
            let response = sender.send_request(request).await?;
            let (parts, body) = response.into_parts();
            let body = Limited::new(body, RESPONSE_BYTES).collect().await?;
            Ok(Response::from_parts(parts, Full::new(body.to_bytes())))
        };
        // The connection is polled here, so that it ends with the request.
        let driving = async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the ACME server failed");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            response = exchange => response,
            () = driving => Err("the connection ended".into()),
        }
    }
}

impl HttpClient for AcmeClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let url = request.uri().to_string();
            let failed = |error: BoxError| Error::Other(format!("{url}: {error}").into());
            let sent = timeout(REQUEST_TIMEOUT, client.send(request)).await;
            let mut response = sent
                .map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut).into()))?
                .map_err(failed)?;
            let after = retry_after(response.headers(), OffsetDateTime::now_utc());
            if response.status().is_client_error() || response.status().is_server_error() {
                *client.lock() = after;
            }
            // instant-acme adds it to the time, and would panic at an absurd one.
            match after.map(|after| after.min(LONGEST_RETRY).as_secs()) {
                Some(seconds) => response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, seconds.into()),
                None => response.headers_mut().remove(header::RETRY_AFTER),
            };
            Ok(BytesResponse::from(response))
        })
    }
}

/// Maximum time of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest `Retry-After`.
const LONGEST_RETRY: Duration = Duration::from_secs(7 * 86_400);

/// Maximum size of a response, in bytes: chains have a few KiB.
const RESPONSE_BYTES: usize = 256 * 1024;
