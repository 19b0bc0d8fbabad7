//! Kept connections to the application.
//!
//! A request is sent anew only if no byte of it was written. So a kept connection must not be used
//! when the application has closed it, or is about to: it is looked at before use, kept for 4 s at
//! most, and for less once the application was seen closing its idle connections earlier.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_shared::limits::{UPSTREAM_CONNECT, UPSTREAM_IDLE, UPSTREAM_IDLE_CONNECTIONS};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::Socket;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::UpstreamBody;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_millis(250);
/// How long to wait for a connection to be free again after its answer.
const SETTLE: Duration = Duration::from_millis(100);
/// After this long without seeing the application close one, connections are kept for 4 s again.
const FORGET: Duration = Duration::from_secs(60);
/// hyper's buffer for the head of an answer.
const HEAD_BUFFER: usize = 64 * 1024;

/// Why the application did not answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// There is nobody at its address.
    #[error("the application can't be reached at {address}: {source}")]
    Connect {
        /// Its address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// It broke off, or what it said is not HTTP.
    #[error("the application broke off: {0}")]
    Broke(#[from] hyper::Error),
}

/// The application's address as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Application {
    /// A port of this machine, over IPv4 or IPv6.
    Port(u16),
    /// A host and a port.
    Host(String),
}

impl std::fmt::Display for Application {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Port(port) => write!(f, "localhost:{port}"),
            Self::Host(host) => f.write_str(host),
        }
    }
}

/// Connections to one application; clones share them.
#[derive(Clone)]
pub struct Pool {
    application: Application,
    // A std mutex: it guards a short list, and nothing waits while it is held.
    idle: Arc<Mutex<IdleList>>,
    tasks: TaskTracker,
}

struct IdleList {
    connections: Vec<Idle>,
    /// How long a connection is kept.
    keep: Duration,
    /// When the application was last seen closing one.
    closed_early: Option<Instant>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// An open connection, in use by one request.
pub struct Connection {
    sender: SendRequest<UpstreamBody>,
    /// The socket that hyper owns, a second time: to be looked at. `None` when the system has no file
    /// descriptor for it; the connection is then used once.
    socket: Option<Socket>,
}

/// What a look at an idle socket tells.
#[derive(PartialEq, Eq)]
enum Look {
    Alive,
    Closed,
}

impl Pool {
    /// Connections to this application. The pool's tasks end when `stop` is cancelled and the last
    /// connection is gone.
    #[must_use]
    pub fn new(application: Application, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let list = IdleList { connections: Vec::new(), keep: UPSTREAM_IDLE, closed_early: None };
        let pool = Self { application, idle: Arc::new(Mutex::new(list)), tasks };
        pool.tasks.spawn(sweep(pool.clone(), stop));
        pool
    }

    /// Sends a request and waits for the head of its answer. The caller sets the deadline. Give the
    /// connection back with [`Pool::put_back`] once the answer has been read.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn send(
        &self,
        mut request: Request<UpstreamBody>,
    ) -> Result<(Response<Incoming>, Connection), UpstreamError> {
        while let Some(mut connection) = self.take() {
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((response, connection)),
                Err(mut failed) => match failed.take_message() {
                    // Not a byte was written: the connection was gone already.
                    Some(unsent) => request = unsent,
                    None => return Err(failed.into_error().into()),
                },
            }
        }
        let mut connection = self.connect().await?;
        let response = connection.sender.send_request(request).await?;
        Ok((response, connection))
    }

    /// Keeps a connection whose answer has been read to its end.
    pub async fn put_back(&self, mut connection: Connection) {
        if !matches!(timeout(SETTLE, connection.sender.ready()).await, Ok(Ok(()))) {
            return;
        }
        let mut list = self.lock();
        if list.connections.len() < UPSTREAM_IDLE_CONNECTIONS {
            list.connections.push(Idle { connection, since: Instant::now() });
        }
    }

    /// The connection that was used last, if it is still good.
    fn take(&self) -> Option<Connection> {
        let mut list = self.lock();
        loop {
            let idle = list.connections.pop()?;
            if idle.since.elapsed() < list.keep && idle.connection.look() == Look::Alive {
                return Some(idle.connection);
            }
        }
    }

    async fn connect(&self) -> Result<Connection, UpstreamError> {
        let failed = |source| UpstreamError::Connect { address: self.application.to_string(), source };
        let connecting = async {
            match &self.application {
                Application::Port(port) => {
                    let both = [
                        SocketAddr::from(([127, 0, 0, 1], *port)),
                        SocketAddr::from(([0_u16, 0, 0, 0, 0, 0, 0, 1], *port)),
                    ];
                    TcpStream::connect(both.as_slice()).await
                }
                Application::Host(host) => TcpStream::connect(host.as_str()).await,
            }
        };
        let socket = match timeout(UPSTREAM_CONNECT, connecting).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
        };
        // Without it a request above 8 KiB waits 40 ms for an acknowledgement.
        socket.set_nodelay(true).map_err(failed)?;
        let look = socket.as_fd().try_clone_to_owned().ok().map(Socket::from);
        let (sender, driver) = http1::Builder::new().max_buf_size(HEAD_BUFFER).handshake(TokioIo::new(socket)).await?;
        self.tasks.spawn(async move {
            // Its errors are met by the request that is on the connection, if there is one.
            let _ = driver.with_upgrades().await;
        });
        Ok(Connection { sender, socket: look })
    }

    fn lock(&self) -> MutexGuard<'_, IdleList> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdleList {
    /// Drops what is too old or was closed, and learns how long the application keeps connections.
    fn sweep(&mut self) {
        let keep = self.keep;
        let mut earliest = keep;
        let mut closed = false;
        self.connections.retain(|idle| {
            let age = idle.since.elapsed();
            if idle.connection.look() == Look::Closed {
                closed = true;
                earliest = earliest.min(age);
                return false;
            }
            // The next look comes after one more sweep.
            age + SWEEP < keep
        });
        if closed {
            self.keep = (earliest / 2).max(SWEEP);
            self.closed_early = Some(Instant::now());
        } else if self.closed_early.is_some_and(|at| at.elapsed() > FORGET) {
            self.keep = UPSTREAM_IDLE;
            self.closed_early = None;
        }
    }
}

async fn sweep(pool: Pool, stop: CancellationToken) {
    let mut tick = interval(SWEEP);
    loop {
        tokio::select! {
            _ = tick.tick() => pool.lock().sweep(),
            () = stop.cancelled() => break,
        }
    }
    pool.lock().connections.clear();
}

impl Connection {
    /// Looks at the socket itself: the runtime may not have heard yet that the peer has closed it.
    fn look(&self) -> Look {
        if !self.sender.is_ready() {
            return Look::Closed;
        }
        let mut byte = [MaybeUninit::uninit()];
        let Some(socket) = &self.socket else { return Look::Closed };
        match socket.peek(&mut byte) {
            // An idle connection has nothing to say: an end, or bytes nobody asked for.
            Ok(_) => Look::Closed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Look::Alive,
            Err(_) => Look::Closed,
        }
    }
}
