//! The accept loop, and the last connections of a stopping relay.

use super::{EdgeEntry, LAST_HANDSHAKES, SYN_FILTER, handshake_and_serve};
use crate::edge::state::EdgeState;
use crate::overload::connections::ConnectionTable;
use crate::overload::per_client::PerClientLimiter;
use hookward_core::address::canonical;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(super) const BACKLOG_WAIT: Duration = Duration::from_millis(10);

/// Pause after `accept` failed, nearly always for lack of file descriptors: without it the loop
/// would spin.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Errors of `accept` that mean exhausted resources (errno(3)): ENOMEM, ENFILE, EMFILE, ENOBUFS.
pub(super) const EXHAUSTED: [i32; 4] = [12, 23, 24, 105];

/// Number of connections to close then: not all, but enough for others to proceed.
pub(super) const EVICTED_AT_ONCE: usize = 8;

/// Interval between warnings.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Time for the last responses of a stopping relay to leave.
pub(super) const LAST_CALL_INTERVAL: Duration = Duration::from_millis(500);

/// Accept loop, with the state that every connection gets.
pub(super) struct AcceptLoop {
    entry: EdgeEntry,
    edge: Arc<EdgeState>,
    connections_per_client: PerClientLimiter,
    slots: Arc<ConnectionTable>,
    tasks: TaskTracker,
    drain: CancellationToken,
}

pub(super) async fn accept(
    listener: TcpListener,
    entry: EdgeEntry,
    edge: Arc<EdgeState>,
    tasks: TaskTracker,
    drain: CancellationToken,
) {
    let slots = Arc::clone(&edge.connections);
    let taker = AcceptLoop {
        entry,
        edge,
        connections_per_client: PerClientLimiter::default(),
        slots,
        tasks,
        drain,
    };

    let mut last_warning: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = taker.drain.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => taker.take(stream, peer),
            Err(error) => {
                if last_warning.is_none_or(|last_warning| last_warning.elapsed() >= LOG_INTERVAL) {
                    last_warning = Some(Instant::now());
                    tracing::warn!(%error, "accept failed; is the limit of open files too low?");
                }

                if error
                    .raw_os_error()
                    .is_some_and(|code| EXHAUSTED.contains(&code))
                {
                    taker.edge.note_exhausted();
                    let _ = (0..EVICTED_AT_ONCE).all(|_| taker.slots.evict(1));
                }

                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    taker.accept_rest(listener).await;
}

impl AcceptLoop {
    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        let client = canonical(peer.ip());
        let trusted = self.edge.trusted_proxies.contains(client);
        let most = if trusted {
            usize::MAX
        } else {
            self.edge.limits.max_connections_per_client
        };
        let place = self.connections_per_client.try_acquire(client, most);
        let Some((place, slot)) = place.and_then(|place| Some((place, self.slots.acquire()?)))
        else {
            self.edge
                .connections_refused
                .fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%client, "too many connections");
            return;
        };

        // An HTTP proxy carries the requests of many senders on each connection. One with the PROXY
        // protocol carries a single sender's connection.
        if trusted && !self.edge.proxy_protocol {
            slot.mark_verified(None);
        }

        let slot = Arc::new(slot);
        let (entry, edge, tasks) = (
            self.entry.clone(),
            Arc::clone(&self.edge),
            self.tasks.clone(),
        );
        let (drain, cut_off) = (self.drain.clone(), edge.cut_off.clone());

        self.tasks.spawn(async move {
            let _place = place;
            // An evicted connection reads nothing more: its sender can retry what it sends now.
            tokio::select! {
                biased;
                () = slot.evicted() => tracing::debug!(%client, "connection evicted: the connection table was full"),
                () = handshake_and_serve(stream, peer, Arc::clone(&slot), entry, edge, tasks, drain) => {}
                () = cut_off.cancelled() => {}
            }
        });
    }

    /// Closes the port without resetting connections that the kernel has accepted. Closing a
    /// listener resets its queue and the handshakes in progress. So a filter first drops new SYN
    /// packets while handshakes in progress finish; dropped clients retry after a second and find
    /// the port closed. Then the loop drains the queue for the length of a handshake, and closes
    /// the port.
    async fn accept_rest(&self, listener: TcpListener) {
        if let Err(error) = SockRef::from(&listener).attach_filter(&SYN_FILTER) {
            // Some systems reserve filters for root; senders in a handshake at this moment must
            // retry.
            tracing::debug!(%error, "the kernel refused the filter for new connections; senders in a handshake must retry");
        }

        let taking = async {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => self.take(stream, peer),
                    Err(error) => {
                        tracing::warn!(%error, "accept failed while the relay stops");
                        sleep(BACKLOG_WAIT).await;
                    }
                }
            }
        };
        let _ = timeout(LAST_HANDSHAKES, taking).await;

        // Connections that the runtime has not noticed yet.
        let Ok(listener) = listener.into_std() else {
            return;
        };
        while let Ok((stream, peer)) = listener.accept() {
            if let Ok(stream) = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream))
            {
                self.take(stream, peer);
            }
        }
    }
}
