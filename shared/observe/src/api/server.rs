//! Server of the API: few connections, with deadlines. It is for administrators and their tools, not
//! for load.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Caller;
use super::local_user::LocalUser;
use super::slots::{Slot, Slots};

/// Time for the head of a request, and maximum idle time of a connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time in which the client must read some of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of a request head, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// Pause after `accept` failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listener of the API.
pub enum ApiListener {
    /// TCP socket.
    Tcp(TcpListener),
    /// Unix socket, whose file is removed at the end.
    Unix(UnixListener, SocketFile),
}

/// File of a Unix socket. Dropping it removes the file.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it stays, the next start removes it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl ApiListener {
    /// Binds a Unix socket that only its owner can open. Removes the socket of a process that ended.
    ///
    /// # Errors
    /// Error of the system.
    pub fn unix(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;

        match std::fs::remove_file(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Before the mode is set, others cannot write to the socket (umask), and so cannot connect.
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener, SocketFile(path.to_owned())))
    }

    /// Serves requests until `stop` is cancelled. `tasks` owns the connections.
    pub async fn serve(self, router: Router, tasks: TaskTracker, stop: CancellationToken) {
        let slots = Arc::new(Slots::default());
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, caller, local)) => {
                    // Without a slot, the connection is closed.
                    if let Some(slot) = slots.acquire() {
                        let router = router.clone();
                        let client = Client { caller, local };
                        tasks.spawn(connection(stream, client, router, slot, stop.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed on the private API");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Returns a connection with its peer, and its own address if it is a TCP connection.
    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Caller, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let local = stream.local_addr().ok();
                Ok((Box::new(stream), Caller::Tcp(peer), local))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                Ok((Box::new(stream), Caller::Unix(uid), None))
            }
        }
    }
}

/// Client of a connection.
struct Client {
    caller: Caller,
    /// Own address of a TCP connection.
    local: Option<SocketAddr>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connection(
    stream: Box<dyn Stream>,
    client: Client,
    router: Router,
    slot: Slot,
    stop: CancellationToken,
) {
    let Client { caller, local } = client;
    let user = match (caller, local) {
        (Caller::Tcp(peer), Some(local)) => Some(LocalUser::of(peer, local).await),
        _ => None,
    };
    let slot = Arc::new(slot);
    let shown = Arc::clone(&slot);
    let router = router.layer(middleware::from_fn(
        move |mut request: Request, next: Next| {
            request.extensions_mut().insert(caller);
            if let Some(user) = user {
                request.extensions_mut().insert(user);
            }
            request.extensions_mut().insert(Arc::clone(&shown));
            next.run(request)
        },
    ));
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(WRITE_TIMEOUT));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(
            TokioIo::new(Box::pin(stream)),
            TowerToHyperService::new(router),
        );

    tokio::select! {
        ended = serving => {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection of the private API failed");
            }
        }
        () = slot.evicted() => {}
        () = stop.cancelled() => {}
    }
}
