//! Accepts TCP connections. The accept loop awaits only `accept`. Each connection runs in its own
//! task, owned by the listener's tracker, within two bounds: connections in total
//! ([`ConnectionTable`]) and per client address ([`PerClientLimiter`]).

mod accept;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::address::canonical;
use hookward_tunnel::transport::{Session, tcp};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::accept::{LAST_CALL_INTERVAL, accept};
use super::clear_text;
use super::connection;
use super::proxy_protocol;
use super::tls::{self, AcceptedTls, TlsAcceptors};
use crate::edge::state::{EdgeState, Peer};
use crate::observe::metrics;
use crate::overload::connections::ConnectionSlot;
use crate::overload::write_timeout::{UnreadBody, WriteTimeout};
use crate::sessions::AgentAcceptor;

/// Time for TCP handshakes in progress when the port closes: two round trips across the world.
const LAST_HANDSHAKES: Duration = Duration::from_millis(600);
/// Drops the first packet of a TCP handshake (SYN without ACK), and nothing else (linux/filter.h):
/// loads the byte with the flags, masks SYN and ACK, compares, returns all or nothing.
const SYN_FILTER: [SockFilter; 5] = [
    SockFilter::new(0x30, 0, 0, 13),       // BPF_LD | BPF_B | BPF_ABS
    SockFilter::new(0x54, 0, 0, 0x12),     // BPF_ALU | BPF_AND | BPF_K
    SockFilter::new(0x15, 0, 1, 0x02),     // BPF_JMP | BPF_JEQ | BPF_K
    SockFilter::new(0x06, 0, 0, 0),        // BPF_RET | BPF_K: drop
    SockFilter::new(0x06, 0, 0, u32::MAX), // the whole packet
];
/// Handlers of accepted connections.
#[derive(Clone)]
pub(crate) struct EdgeEntry {
    pub tls: TlsAcceptors,
    /// Acceptor of agents that connect over TCP.
    pub agents: Arc<AgentAcceptor>,
}

pub(crate) struct EdgeListener {
    address: SocketAddr,
    tasks: TaskTracker,
    last_call: CancellationToken,
    cut_off: CancellationToken,
}

impl EdgeListener {
    /// Binds the TCP port without accepting.
    ///
    /// # Errors
    /// Error of the system.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;

        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }

        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;

        TcpListener::from_std(socket.into())
    }

    /// Starts accepting, until `drain` is cancelled.
    ///
    /// # Errors
    /// Error of the system.
    pub(crate) fn start(
        listener: TcpListener,
        entry: EdgeEntry,
        edge: Arc<EdgeState>,
        drain: CancellationToken,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (tasks, last_call, cut_off) = (
            TaskTracker::new(),
            edge.last_call.clone(),
            edge.cut_off.clone(),
        );
        tasks.spawn(accept(listener, entry, edge, tasks.clone(), drain));

        Ok(Self {
            address,
            tasks,
            last_call,
            cut_off,
        })
    }

    #[must_use]
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until every connection has ended, and closes those that last longer than `patience`.
    /// Shortly before that, senders without a response get a 502. Cancel the token given to
    /// [`EdgeListener::start`] first.
    pub(crate) async fn join(self, patience: Duration) {
        self.tasks.close();
        let call = LAST_CALL_INTERVAL.min(patience / 4);
        if timeout(patience - call, self.tasks.wait()).await.is_ok() {
            return;
        }

        self.last_call.cancel();
        if timeout(call, self.tasks.wait()).await.is_err() {
            self.cut_off.cancel();
            self.tasks.wait().await;
        }
    }
}

/// Length of the kernel's queue of connections that are not yet accepted.
const BACKLOG: i32 = 1024;

/// Protocol of a new connection.
enum OpenedStream<S> {
    /// A TLS connection after its handshake.
    Tls(Box<AcceptedTls<S>>),
    ClearText(S),
}

async fn handshake_and_serve(
    stream: TcpStream,
    peer: SocketAddr,
    slot: Arc<ConnectionSlot>,
    entry: EdgeEntry,
    edge: Arc<EdgeState>,
    tasks: TaskTracker,
    drain: CancellationToken,
) {
    // Nagle's algorithm would delay responses above 8 KiB by 40 ms with some peers.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY failed");
        return;
    }

    // Otherwise the kernel buffers megabytes of a response at once, and a slow reader looks
    // stalled. The kernel accepts more when half has left, so a reader of 64 KiB per
    // `write_timeout` (7 kB/s) makes progress.
    tcp::keep_queue_short(&stream);

    let mut stream = stream;
    let mut address = peer.ip();
    if edge.proxy_protocol && edge.trusted_proxies.contains(canonical(address)) {
        match timeout(
            edge.limits.tls_handshake_timeout,
            proxy_protocol::read(&mut stream),
        )
        .await
        {
            Ok(Ok(named)) => address = named.unwrap_or(address),
            Ok(Err(error)) => {
                tracing::warn!(%peer, %error, "connection of a trusted proxy refused: its PROXY header is unusable");
                return;
            }
            Err(_) => {
                tracing::debug!(%peer, "a trusted proxy's connection sent no PROXY header in time");
                return;
            }
        }
    }

    let unread = UnreadBody::default();
    let stall = edge.limits.write_timeout;
    let metrics = edge.observer.metrics();
    let opening = async {
        let mut first = [0];
        let is_clear =
            stream.peek(&mut first).await? == first.len() && clear_text::starts_with_http(first[0]);
        let stream = WriteTimeout::new(stream, stall, unread.clone());
        if is_clear {
            return Ok(OpenedStream::ClearText(stream));
        }

        let begun = Instant::now();
        let tls = entry.tls.accept(stream).await?;
        metrics.tls_handshake(metrics::OK);
        metrics.tls_handshake_took(begun.elapsed());
        Ok(OpenedStream::Tls(Box::new(tls)))
    };

    let tls = match timeout(edge.limits.tls_handshake_timeout, opening).await {
        Ok(Ok(OpenedStream::ClearText(stream))) => {
            return clear_text::respond(stream, address, &edge).await;
        }
        Ok(Ok(OpenedStream::Tls(tls))) => tls,
        Ok(Err(error)) => {
            let error: io::Error = error;
            metrics.tls_handshake("failed");
            tracing::debug!(%peer, %error, "TLS handshake failed");
            return;
        }
        Err(_) => {
            metrics.tls_handshake("timeout");
            tracing::debug!(%peer, "TLS handshake took too long");
            return;
        }
    };

    let tls = match *tls {
        AcceptedTls::Sender(tls) => tls,
        AcceptedTls::Challenge => return,
        AcceptedTls::Agent(tls) => {
            let (agents, peer) = (&entry.agents, SocketAddr::new(address, peer.port()));
            let Some(place) = agents.acquire(address) else {
                return;
            };
            let (liveness, tasks) = (agents.host.liveness(), agents.tasks().clone());

            agents.accept(place, async move {
                Session::over_tcp_at_relay(tls, peer, liveness, &tasks).await
            });
            return;
        }
    };
    let (_, session) = tls.get_ref();

    let h2 = session.alpn_protocol() == Some(tls::H2);
    let sni = session.server_name().map(str::to_owned);
    connection::serve(
        tls,
        h2,
        Peer {
            address,
            sni,
            unread,
            slot,
        },
        edge,
        tasks,
        drain,
    )
    .await;
}
