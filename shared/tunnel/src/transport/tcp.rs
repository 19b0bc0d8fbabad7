//! Tunnel over TLS on TCP, for networks that block UDP. HTTP/2 carries the streams, with the same
//! frames as over QUIC. The relay is the HTTP/2 client on the connection that the agent dialed,
//! because the relay opens exchanges.
//!
//! Chosen by measurement: a separate multiplexer (yamux) costs 1.6 times as much, and a pool of TLS
//! connections needs one for every request in flight.

mod heard;
mod tls;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, Reason, client, server};
use http::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::heard::{Heard, Listening};
pub use self::tls::{client_tls, server_tls};
use crate::transport::error::SessionError;
use crate::transport::halves::{Http2Recv, RecvHalf, SendHalf};
use crate::transport::liveness::Liveness;
use crate::transport::quic::{CONNECTION_WINDOW, STREAM_WINDOW, UNAUTHENTICATED_WINDOW};
use hookward_core::limits::TUNNEL_STREAMS;

/// Limits the unsent bytes in a socket (Linux; no effect elsewhere).
pub fn keep_queue_short(stream: &tokio::net::TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "setting TCP_NOTSENT_LOWAT failed");
    }
}

/// Maximum number of unsent bytes in the socket: on a slow link, keep-alives would wait behind
/// more.
const UNSENT: u32 = 128 * 1024;

type Halves = (SendHalf, RecvHalf);

/// Connection of a session. Dropping its last clone closes it.
pub(crate) struct H2Link {
    side: TcpRole,
    peer: SocketAddr,
    ended: watch::Receiver<Option<SessionError>>,
    heard: Heard,
    trust: Arc<Notify>,
    stop: CancellationToken,
}

enum TcpRole {
    /// The relay opens streams, with its own limit, because h2 would queue further ones.
    Relay(client::SendRequest<Bytes>, Arc<Semaphore>),
    /// The agent accepts streams.
    // A std mutex: it is held while the queue is polled, and nothing waits under it.
    Agent(Mutex<mpsc::Receiver<Halves>>),
}

/// Creates the relay's side of a connection that an agent has dialed. `tasks` owns its task.
///
/// # Errors
/// If the connection fails before HTTP/2 is ready.
pub(crate) async fn relay_side<S>(
    stream: S,
    peer: SocketAddr,
    liveness: Liveness,
    tasks: &TaskTracker,
) -> Result<H2Link, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heard = Heard::new();
    let stream = Listening {
        inner: stream,
        heard: heard.clone(),
    };

    let (sender, mut connection) = client::Builder::new()
        // Until it is authenticated; see `Session::trust`.
        .initial_window_size(UNAUTHENTICATED_WINDOW)
        .initial_connection_window_size(UNAUTHENTICATED_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADS)
        .initial_max_send_streams(TUNNEL_STREAMS as usize)
        // Aborts by senders are no attack of the agent, whose connection all senders share.
        .max_concurrent_reset_streams(TUNNEL_STREAMS as usize)
        .max_local_error_reset_streams(None)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(lost)?;

    let pings = connection.ping_pong();
    let (say, ended) = watch::channel(None);
    let stop = CancellationToken::new();
    let (stopping, hearing) = (stop.clone(), heard.clone());
    let trust = Arc::new(Notify::new());
    let trusted = Arc::clone(&trust);

    tasks.spawn(async move {
        let mut silent = pin!(silence(pings, liveness, hearing));
        let mut known = false;
        let reason = loop {
            tokio::select! {
                ended = &mut connection => break ended.map_or_else(lost, |()| left()),
                reason = &mut silent => break reason,
                () = trusted.notified(), if !known => {
                    known = true;
                    connection.set_target_window_size(CONNECTION_WINDOW);
                    if let Err(error) = connection.set_initial_window_size(STREAM_WINDOW) {
                        // Fails only before the peer acknowledged our first settings, which
                        // precedes any greeting.
                        tracing::warn!(%error, "the stream window of a TCP tunnel could not be enlarged");
                    }
                }
                () = stopping.cancelled() => {
                    let _ = timeout(FLUSH, &mut connection).await;
                    break left();
                }
            }
        };
        say.send_replace(Some(reason));
    });

    let places = Arc::new(Semaphore::new(TUNNEL_STREAMS as usize));
    Ok(H2Link {
        side: TcpRole::Relay(sender, places),
        peer,
        ended,
        heard,
        trust,
        stop,
    })
}

/// Maximum number of bytes that one stream buffers before its writer waits.
const SEND_BUFFER: usize = 512 * 1024;

/// Size of one DATA frame, in bytes: larger than HTTP/2's default of 16 KiB, to need fewer.
const FRAME: u32 = 64 * 1024;

/// Maximum size of a stream's head, in bytes: ours are empty, and the peer is unknown before its
/// greeting.
const HEADS: u32 = 1024;

/// Time for the last bytes to leave after a deliberate close.
const FLUSH: Duration = Duration::from_millis(500);

/// Creates the agent's side of a connection that it has dialed. `tasks` owns its task.
///
/// # Errors
/// If the connection fails before HTTP/2 is ready.
pub(crate) async fn agent_side<S>(
    stream: S,
    peer: SocketAddr,
    liveness: Liveness,
    tasks: &TaskTracker,
) -> Result<H2Link, SessionError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heard = Heard::new();
    let stream = Listening {
        inner: stream,
        heard: heard.clone(),
    };
    let streams = TUNNEL_STREAMS + 1; // and the control stream

    let mut connection = server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(HEADS)
        .max_concurrent_streams(streams)
        // Aborts by senders are no attack of the relay, regardless of their number.
        .max_pending_accept_reset_streams(streams as usize)
        .max_concurrent_reset_streams(streams as usize)
        .max_local_error_reset_streams(None)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(lost)?;

    let pings = connection.ping_pong();
    let (queue, taken) = mpsc::channel(streams as usize);
    let (say, ended) = watch::channel(None);
    let stop = CancellationToken::new();
    let (stopping, hearing) = (stop.clone(), heard.clone());

    tasks.spawn(async move {
        let mut silent = pin!(silence(pings, liveness, hearing));
        let reason = loop {
            tokio::select! {
                next = connection.accept() => match next {
                    Some(Ok((request, mut respond))) => {
                        let Ok(send) = respond.send_response(Response::new(()), false) else { continue };
                        let halves = (SendHalf::Http2(send), RecvHalf::Http2(Http2Recv::Open(request.into_body()), None));
                        // The queue has room for all allowed streams; a further one is dropped.
                        let _ = queue.try_send(halves);
                    }
                    Some(Err(error)) => break lost(error),
                    None => break left(),
                },
                reason = &mut silent => break reason,
                () = stopping.cancelled() => {
                    connection.abrupt_shutdown(Reason::NO_ERROR);
                    let _ = timeout(FLUSH, poll_fn(|cx| connection.poll_closed(cx))).await;
                    break left();
                }
            }
        };
        say.send_replace(Some(reason));
    });

    Ok(H2Link {
        side: TcpRole::Agent(Mutex::new(taken)),
        peer,
        ended,
        heard,
        trust: Arc::default(),
        stop,
    })
}

impl H2Link {
    /// Opens a stream. Waits while all are in use.
    pub(crate) async fn open(&self) -> Result<Halves, SessionError> {
        let TcpRole::Relay(sender, places) = &self.side else {
            return Err(wrong_side());
        };
        let place = Arc::clone(places)
            .acquire_owned()
            .await
            .map_err(|_| left())?;
        let mut sender = sender.clone().ready().await.map_err(lost)?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;

        *request.uri_mut() = http::Uri::from_static("https://relay.hookward.invalid/");
        let (answer, send) = sender.send_request(request, false).map_err(lost)?;
        Ok((
            SendHalf::Http2(send),
            RecvHalf::Http2(Http2Recv::Opening(answer), Some(place)),
        ))
    }

    /// Returns the next stream of the peer.
    pub(crate) async fn accept(&self) -> Result<Halves, SessionError> {
        let TcpRole::Agent(queue) = &self.side else {
            return Err(wrong_side());
        };
        let next = poll_fn(|cx| {
            queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .poll_recv(cx)
        })
        .await;
        match next {
            Some(halves) => Ok(halves),
            None => Err(self.closed().await),
        }
    }

    /// Returns `true` on the agent's side, which accepts streams.
    pub(crate) const fn takes(&self) -> bool {
        matches!(self.side, TcpRole::Agent(_))
    }

    pub(crate) async fn closed(&self) -> SessionError {
        let mut ended = self.ended.clone();
        let reason = ended
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());

        // Without a reason, because the task ended with the program.
        reason.unwrap_or_else(left)
    }

    pub(crate) fn trust(&self) {
        self.trust.notify_one();
    }

    pub(crate) fn close(&self) {
        self.stop.cancel();
    }

    pub(crate) const fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn received(&self) -> u64 {
        self.heard.at.load(Ordering::Relaxed)
    }
}

impl Drop for H2Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Pings the peer regularly. Resolves when no data has arrived for too long.
async fn silence(pings: Option<PingPong>, liveness: Liveness, heard: Heard) -> SessionError {
    let mut tick = interval(liveness.ping_interval());
    let mut pings = pings;
    let mut asked = false;

    loop {
        tick.tick().await;
        if heard.silence() >= liveness.idle_timeout() {
            return SessionError::Lost(format!(
                "no data received for {} s",
                liveness.idle_timeout().as_secs_f64()
            ));
        }

        let Some(pings) = &mut pings else { continue };
        // One ping may be in flight at a time; its reply only has to be consumed.
        if asked {
            let pong = poll_fn(|cx| Poll::Ready(pings.poll_pong(cx))).await;
            asked = pong.is_pending();
        }

        if !asked {
            asked = pings.send_ping(Ping::opaque()).is_ok();
        }
    }
}

fn lost(error: h2::Error) -> SessionError {
    SessionError::Lost(hookward_core::text::Escaped(error.to_string().as_bytes()).to_string())
}

fn left() -> SessionError {
    SessionError::ClosedByPeer("the connection ended".to_owned())
}

fn wrong_side() -> SessionError {
    SessionError::Lost("streams are opened by the relay".to_owned())
}
