//! The port for plain HTTP: answers ACME challenges (RFC 8555 §8.3), sends browsers to https, and
//! refuses webhooks with the reason. It forwards nothing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::address::canonical;
use hookward_core::names::HostName;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::listener::EdgeListener;
use crate::certs::acme::challenges::Challenges;
use crate::overload::per_client::PerClientLimiter;

/// Listener for plain HTTP.
pub(crate) struct HttpPort {
    listener: TcpListener,
    challenges: Challenges,
    /// Port in the URLs of redirections.
    https_port: u16,
}

impl HttpPort {
    /// Binds the port without accepting.
    ///
    /// # Errors
    /// Error of the system.
    pub(crate) fn bind(
        address: SocketAddr,
        challenges: Challenges,
        https_port: u16,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: EdgeListener::bind(address)?,
            challenges,
            https_port,
        })
    }

    /// Serves until `stop` is cancelled.
    pub(crate) async fn serve(self, tasks: TaskTracker, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let per_client = PerClientLimiter::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // Beyond the bounds, a connection is closed at once.
                    let client = canonical(peer.ip());
                    let own = per_client.try_acquire(client, CONNECTIONS_PER_CLIENT);
                    let place = Arc::clone(&places).try_acquire_owned();
                    let (Some(own), Ok(place)) = (own, place) else {
                        continue;
                    };
                    let (challenges, port) = (self.challenges.clone(), self.https_port);
                    let stop = stop.clone();
                    tasks.spawn(async move {
                        let _places = (own, place);
                        tokio::select! {
                            () = serve_one(stream, challenges, port) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accept failed on the port for HTTP");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Answers the only request of a connection.
async fn serve_one(stream: TcpStream, challenges: Challenges, https_port: u16) {
    let service = service_fn(|request| {
        let response = respond(&request, &challenges, https_port);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .max_buf_size(HEAD_BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(TIMEOUT * 2, serving).await;
}

fn respond(
    request: &Request<Incoming>,
    challenges: &Challenges,
    https_port: u16,
) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read && let Some(token) = path.strip_prefix(CHALLENGE_PATH) {
        return match challenges.text(token) {
            Some(text) => text_response(StatusCode::OK, text),
            None => text_response(StatusCode::NOT_FOUND, "no such challenge\n".to_owned()),
        };
    }

    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| HostName::parse_authority(host.to_str().ok()?));
    match host.filter(|_| is_read) {
        Some((host, _)) => {
            let target = request
                .uri()
                .path_and_query()
                .map_or("/", |path| path.as_str());
            let port = match https_port {
                443 => String::new(),
                port => format!(":{port}"),
            };
            let mut response = text_response(StatusCode::MOVED_PERMANENTLY, String::new());
            if let Ok(location) = format!("https://{host}{port}{target}").parse() {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        // A redirection would not help: what the request carries has already travelled in clear text.
        None => {
            let text = "{\"error\":\"https_only\",\"reason\":\"the request came over http, in clear text: use https:// in the sender's settings\"}\n";
            text_response(StatusCode::BAD_REQUEST, text.to_owned())
        }
    }
}

fn text_response(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

/// Path of HTTP-01 challenges (RFC 8555 §8.3).
const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// Maximum number of connections at the same time.
const CONNECTIONS: usize = 256;

/// Maximum number of connections of one client at the same time: a server validates from several
/// addresses.
const CONNECTIONS_PER_CLIENT: usize = 8;

/// Time for the head of the request, and for the response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Size of hyper's buffer for the head, in bytes: the minimum.
const HEAD_BUFFER: usize = 8 * 1024;

/// Pause after `accept` failed, nearly always for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
