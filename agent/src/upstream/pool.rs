//! Connection pool of the application.
//!
//! A request is sent again only if no byte of it was written. So the pool must not use a connection
//! that the application has closed or is about to close. The pool inspects a connection before
//! use, and keeps it for up to 4 s; less once the application was seen closing idle connections
//! earlier.

mod idle;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::limits::{
    UPSTREAM_CONNECT_TIMEOUT, UPSTREAM_IDLE_CONNECTIONS, UPSTREAM_IDLE_TIMEOUT,
};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::Socket;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::idle::PooledConnection;
use self::idle::{IdleConnection, IdleConnections, Look, Own, sweep};
use super::UpstreamBody;
use super::application::{self, Application, Stream};
use super::health::{HealthStatus, UpstreamHealth};
use crate::events::EventSink;

/// Time after which the pool keeps connections for 4 s again, if it did not see the application
/// close one.
const CLOSED_EARLY_MEMORY: Duration = Duration::from_secs(60);

/// Reason why there is no response of the application.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// The application is unreachable.
    #[error("the application can't be reached at {address}: {source}")]
    Connect {
        address: String,
        /// Error of the system.
        source: io::Error,
    },
    /// The application aborted the connection, or its response is not HTTP.
    #[error("the application aborted the exchange: {0}")]
    Aborted(hyper::Error),
    /// The response head exceeds hyper's limits.
    #[error("the head of the application's response exceeds {HEAD_FIELDS} fields or {} KiB", HEAD_BUFFER / 1024)]
    LargeHead,
}

/// Size of hyper's buffer for a response head, in bytes.
const HEAD_BUFFER: usize = 64 * 1024;

/// Maximum number of header fields of a response: the default maximum of requests.
const HEAD_FIELDS: usize = 128;

impl From<hyper::Error> for UpstreamError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse_too_large() {
            Self::LargeHead
        } else {
            Self::Aborted(error)
        }
    }
}

/// Spawns hyper's HTTP/2 tasks on a tracker, so that their owner can wait for them.
#[derive(Clone)]
struct PoolTasks(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for PoolTasks {
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Connections to one application; clones share them.
#[derive(Clone)]
pub(crate) struct ConnectionPool {
    application: Arc<Application>,
    // A std mutex: it guards a short list, and nothing waits while it is held.
    idle: Arc<Mutex<IdleConnections>>,
    /// The connection that carries all requests, over HTTP/2.
    multiplexed: Arc<Mutex<Option<http2::SendRequest<UpstreamBody>>>>,
    health: Arc<UpstreamHealth>,
    tasks: TaskTracker,
}

impl ConnectionPool {
    /// Creates a pool for this application. Its tasks end when `stop` is cancelled and the last
    /// connection has closed.
    #[must_use]
    pub(crate) fn new(
        application: Application,
        events: EventSink,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let list = IdleConnections {
            connections: Vec::new(),
            keep: UPSTREAM_IDLE_TIMEOUT,
            closed_early: None,
        };

        let (application, health) = (Arc::new(application), Arc::new(UpstreamHealth::new(events)));
        let pool = Self {
            application,
            idle: Arc::new(Mutex::new(list)),
            multiplexed: Arc::default(),
            health,
            tasks,
        };
        let (application, health) = (Arc::clone(&pool.application), Arc::clone(&pool.health));

        let watching = stop.clone();
        pool.tasks
            .spawn(async move { health.watch(&application, &watching).await });
        pool.tasks.spawn(sweep(pool.clone(), stop));

        pool
    }

    #[must_use]
    pub(crate) fn application(&self) -> &Application {
        &self.application
    }

    /// Returns the last reported health, and its changes.
    #[must_use]
    pub(crate) fn health_status(&self) -> watch::Receiver<HealthStatus> {
        self.health.events()
    }

    /// Sends a request and waits for the head of its response. The caller sets the deadline. Return the
    /// connection with [`ConnectionPool::put_back`] once the response has been read.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) async fn send(
        &self,
        request: Request<UpstreamBody>,
    ) -> Result<(Response<Incoming>, PooledConnection), UpstreamError> {
        let answered = match self.application.http2 {
            true => self.send_http2(request).await,
            false => self.send_http1(request).await,
        };
        if answered.is_ok() {
            self.health.answered(&self.application);
        }

        answered
    }

    /// Returns the number of responses so far.
    #[must_use]
    pub(crate) fn answers(&self) -> u64 {
        self.health.answers()
    }

    /// Records that the application did not respond within `patience`, with the number of responses
    /// at its start.
    pub(crate) fn note_silence(&self, patience: Duration, answers: u64) {
        self.health.silent(&self.application, patience, answers);
    }

    async fn send_http1(
        &self,
        mut request: Request<UpstreamBody>,
    ) -> Result<(Response<Incoming>, PooledConnection), UpstreamError> {
        while let Some(mut connection) = self.take() {
            match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    return Ok((
                        response,
                        PooledConnection {
                            own: Some(connection),
                        },
                    ));
                }
                Err(mut failed) => match failed.take_message() {
                    // Not a byte was written: the connection had closed before.
                    Some(unsent) => request = unsent,
                    None => return Err(failed.into_error().into()),
                },
            }
        }

        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(request).await?;
        Ok((
            response,
            PooledConnection {
                own: Some(connection),
            },
        ))
    }

    async fn send_http2(
        &self,
        mut request: Request<UpstreamBody>,
    ) -> Result<(Response<Incoming>, PooledConnection), UpstreamError> {
        let kept = self
            .multiplexed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(mut sender) = kept.filter(|sender| !sender.is_closed()) {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, PooledConnection { own: None })),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(failed.into_error().into()),
                },
            }
        }

        let stream = self.stream().await?;
        let (mut sender, driver) = http2::Builder::new(PoolTasks(self.tasks.clone()))
            .timer(TokioTimer::new())
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
            .keep_alive_interval(HTTP2_PING)
            .handshake(TokioIo::new(stream))
            .await?;

        self.tasks.spawn(async move {
            let _ = driver.await;
        });
        // If two connect at the same time, the later connection is kept.
        *self
            .multiplexed
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());

        let response = sender.send_request(request).await?;
        Ok((response, PooledConnection { own: None }))
    }

    /// Returns a connection to the pool after its response was read.
    pub(crate) async fn put_back(&self, connection: PooledConnection) {
        let Some(mut connection) = connection.own else {
            return;
        };
        if !matches!(
            timeout(CLOSE_SETTLE, connection.sender.ready()).await,
            Ok(Ok(()))
        ) {
            return;
        }

        let mut list = self.lock();
        if list.connections.len() < UPSTREAM_IDLE_CONNECTIONS {
            list.connections.push(IdleConnection {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Returns the last used connection, if it still works.
    fn take(&self) -> Option<Own> {
        let mut list = self.lock();
        loop {
            let idle = list.connections.pop()?;
            if idle.since.elapsed() < list.keep && idle.connection.look() == Look::Alive {
                return Some(idle.connection);
            }
        }
    }

    async fn stream(&self) -> Result<Stream, UpstreamError> {
        let connected = match timeout(UPSTREAM_CONNECT_TIMEOUT, self.application.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        let failure = connected.as_ref().err().map(ToString::to_string);
        self.health.connected(&self.application, failure.as_deref());

        connected.map_err(|source| UpstreamError::Connect {
            address: self.application.to_string(),
            source,
        })
    }

    async fn connect(&self) -> Result<Own, UpstreamError> {
        let stream = self.stream().await?;
        let socket = application::socket(&stream)
            .try_clone_to_owned()
            .ok()
            .map(Socket::from);
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(HEAD_BUFFER)
            .max_headers(HEAD_FIELDS)
            .handshake(TokioIo::new(stream))
            .await?;

        self.tasks.spawn(async move {
            // The request on the connection observes its errors.
            let _ = driver.with_upgrades().await;
        });

        Ok(Own { sender, socket })
    }

    fn lock(&self) -> MutexGuard<'_, IdleConnections> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum wait for a connection to become idle after its response.
const CLOSE_SETTLE: Duration = Duration::from_millis(100);

/// Receive windows of an HTTP/2 application, per response and in total, in bytes.
const HTTP2_STREAM_WINDOW: u32 = 1024 * 1024;

const HTTP2_CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Interval of pings to a silent HTTP/2 application.
const HTTP2_PING: Duration = Duration::from_secs(10);
