//! Serves one connection with hyper (HTTP/1.1 or HTTP/2), under deadlines that hyper lacks.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::limits::Limits;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::request;
use crate::edge::header_case::HeaderCaseRecorder;
use crate::edge::state::{ConnectionContext, EdgeState, Peer};
use crate::overload::activity::{ConnectionActivity, Deadline, TimeoutReason};
use crate::overload::h2_flood::H2FloodGuard;
use crate::overload::write_timeout::UnreadBody;

/// Spawns hyper's HTTP/2 streams on a tracker, so that their owner can wait for them.
#[derive(Clone)]
struct StreamTasks(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for StreamTasks {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Serves a connection until it ends or `drain` is cancelled.
pub(crate) async fn serve<S>(
    stream: S,
    h2: bool,
    peer: Peer,
    edge: Arc<EdgeState>,
    tasks: TaskTracker,
    drain: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if h2 {
        serve_http2(
            TokioIo::new(H2FloodGuard::new(stream, &peer.slot)),
            peer,
            edge,
            tasks,
            drain,
        )
        .await;
    } else {
        serve_http1(stream, peer, edge, tasks, drain).await;
    }
}

async fn serve_http1<S>(
    stream: S,
    peer: Peer,
    edge: Arc<EdgeState>,
    tasks: TaskTracker,
    drain: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stream, recorded) = HeaderCaseRecorder::new(stream, &peer.slot);
    let limits = edge.limits.clone();
    let (activity, unread) = (ConnectionActivity::new(), peer.unread.clone());
    let of_connection = Arc::clone(&activity);
    let connection = Arc::new(ConnectionContext {
        edge,
        peer,
        recorded: Some(recorded),
        tasks,
        activity: of_connection,
    });
    let service = service_fn(move |request| request::admit(request, &connection));
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_head_timeout)
            .max_buf_size(
                usize::try_from(limits.max_head_bytes)
                    .unwrap_or(usize::MAX)
                    .saturating_add(HEAD_MARGIN)
            )
            .max_headers(limits.max_head_fields.saturating_mul(EXTRA_FIELDS))
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );

    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = drain.cancelled() => {
            // A request may be in flight already, and would be lost with the connection. The
            // response to it closes the connection.
            let since = Instant::now();
            while activity.is_idle() && since.elapsed() < LINGER_TIMEOUT {
                tokio::select! {
                    ended = serving.as_mut() => return log_end(ended),
                    () = sleep(SHORT_LINGER) => {}
                }
            }
            if activity.is_idle() {
                // The rest of the previous body was discarded by now, or its connection closed.
                unread.set(false);
            }
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    log_end(ended);
}

/// Size of hyper's buffer beyond the largest head, in bytes, so that a head over the limit gets the
/// relay's own 431.
const HEAD_MARGIN: usize = 16 * 1024;

/// Factor by which hyper's maximum number of fields exceeds the relay's, for the same reason.
const EXTRA_FIELDS: usize = 2;

/// Time in which an idle HTTP/1.1 connection may bring one more request while the relay drains.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

const SHORT_LINGER: Duration = Duration::from_millis(10);

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/1.1 connection failed");
    }
}

fn http2_builder(tasks: TaskTracker, limits: &Limits) -> http2::Builder<StreamTasks> {
    let mut builder = http2::Builder::new(StreamTasks(tasks));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(
            u32::try_from(limits.max_streams_per_connection).unwrap_or(u32::MAX),
        )
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(H2_SEND_BUFFER)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING)
        .keep_alive_timeout(H2_PONG);
    builder
}

/// Receive window of one HTTP/2 stream and of one connection, in bytes. Envoy advises 64 KiB and 1
/// MiB for an edge; uploads over long links need more for one stream.
const H2_STREAM_WINDOW: u32 = 256 * 1024;

const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Maximum number of bytes that hyper buffers of one stream's response for a slow reader.
const H2_SEND_BUFFER: usize = 64 * 1024;

/// Interval of HTTP/2 pings, and the time for a reply. Their sum is `http2_idle_timeout`, so that
/// an idle connection may stay as long.
const H2_PING: Duration = Duration::from_secs(50);

const H2_PONG: Duration = Duration::from_secs(10);

async fn serve_http2<I>(
    io: I,
    peer: Peer,
    edge: Arc<EdgeState>,
    tasks: TaskTracker,
    drain: CancellationToken,
) where
    I: Read + Write + Unpin + Send + 'static,
{
    // Over HTTP/2 a stream reset stops a sender whose body is not wanted.
    let peer = Peer {
        unread: UnreadBody::default(),
        ..peer
    };
    let limits = edge.limits.clone();
    let (activity, slot) = (ConnectionActivity::new(), Arc::clone(&peer.slot));

    let connection = Arc::new(ConnectionContext {
        edge,
        peer,
        recorded: None,
        tasks: tasks.clone(),
        activity: Arc::clone(&activity),
    });
    let service = service_fn(move |request| request::admit(request, &connection));
    let mut serving = pin!(http2_builder(tasks, &limits).serve_connection(io, service));

    let mut look = Duration::ZERO;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "HTTP/2 connection failed");
                }
                return;
            }
            () = drain.cancelled() => break,
            () = sleep(look) => {}
            () = activity.done() => {}
        }

        match activity.deadline(&limits, slot.is_verified()) {
            Deadline::In(time) => look = time.min(CHECK_INTERVAL),
            Deadline::Now(TimeoutReason::Idle) => break,
            // hyper would wait without limit for a preface, or for a window that never opens.
            Deadline::Now(TimeoutReason::NoRequest | TimeoutReason::ResponseStalled) => return,
        }
    }

    serving.as_mut().graceful_shutdown();
    // While draining, the listener's deadline applies; an idle peer gets the time for a head.
    let patience = match drain.is_cancelled() {
        true => limits.drain,
        // The last responses of a slow or unverified peer only have to leave.
        false if activity.is_unwanted() || !slot.is_verified() => LAST_RESPONSE_TIMEOUT,
        false => limits.request_head_timeout,
    };
    let _ = timeout(patience, serving).await;
}

/// Maximum interval between two checks of an HTTP/2 connection.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time in which a slow or unverified HTTP/2 peer may read its last responses.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);
