//! The port for plain HTTP: answers ACME challenges (RFC 8555 §8.3), and refuses everything else as
//! clear text on the HTTPS port is refused.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hookward_core::address::canonical;
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clear_text;
use super::listener::EdgeListener;
use super::state::EdgeState;
use crate::body::response::ResponseBody;
use crate::certs::acme::challenges::Challenges;
use crate::overload::per_client::PerClientLimiter;

/// Listener for plain HTTP.
pub(crate) struct HttpPort {
    listener: TcpListener,
    challenges: Challenges,
}

impl HttpPort {
    /// Binds the port without accepting.
    ///
    /// # Errors
    /// Error of the system.
    pub(crate) fn bind(address: SocketAddr, challenges: Challenges) -> io::Result<Self> {
        Ok(Self {
            listener: EdgeListener::bind(address)?,
            challenges,
        })
    }

    /// Serves until `stop` is cancelled.
    pub(crate) async fn serve(
        self,
        edge: Arc<EdgeState>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) {
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
                    let (challenges, edge) = (self.challenges.clone(), Arc::clone(&edge));
                    let stop = stop.clone();
                    tasks.spawn(async move {
                        let _places = (own, place);
                        tokio::select! {
                            () = serve_one(stream, client, challenges, edge) => {}
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

async fn serve_one(
    stream: TcpStream,
    client: IpAddr,
    challenges: Challenges,
    edge: Arc<EdgeState>,
) {
    let service = service_fn(|request| async {
        let response = match challenge_of(&request, &challenges) {
            Some(text) => Response::new(ResponseBody::own(Full::from(text))),
            None => clear_text::refuse(request, client, &edge).await,
        };
        Ok::<_, Infallible>(response)
    });
    clear_text::serve_one(stream, service).await;
}

/// Returns the text of the challenge that a request asks for, if it is in progress.
fn challenge_of(request: &Request<Incoming>, challenges: &Challenges) -> Option<String> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let token = request.uri().path().strip_prefix(CHALLENGE_PATH)?;
    challenges.text(token).filter(|_| is_read)
}

/// Path of HTTP-01 challenges (RFC 8555 §8.3).
const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// Maximum number of connections at the same time.
const CONNECTIONS: usize = 256;

/// Maximum number of connections of one client at the same time: a server validates from several
/// addresses.
const CONNECTIONS_PER_CLIENT: usize = 8;

/// Pause after `accept` failed, nearly always for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
