//! Idle connections to the application.

use super::super::UpstreamBody;
use super::{CLOSED_EARLY_MEMORY, ConnectionPool};
use hookward_core::limits::UPSTREAM_IDLE_TIMEOUT;
use hyper::client::conn::http1::SendRequest;
use socket2::Socket;
use std::io;
use std::mem::MaybeUninit;
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// Interval of checks of idle connections.
pub(super) const SWEEP: Duration = Duration::from_millis(250);

pub(super) struct IdleConnections {
    pub(super) connections: Vec<IdleConnection>,
    /// Maximum idle time of a connection.
    pub(super) keep: Duration,
    /// Time at which the application was last seen closing one.
    pub(super) closed_early: Option<Instant>,
}

pub(super) struct IdleConnection {
    pub(super) connection: Own,
    pub(super) since: Instant,
}

/// An open connection, in use by one request.
pub(crate) struct PooledConnection {
    /// `None` over HTTP/2, whose connection all requests share.
    pub(super) own: Option<Own>,
}

/// A connection that carries one request at a time.
pub(super) struct Own {
    pub(super) sender: SendRequest<UpstreamBody>,
    /// Duplicate of hyper's socket, for inspection. `None` if no file descriptor is available; the
    /// connection is then used once.
    pub(super) socket: Option<Socket>,
}

/// State of an idle socket.
#[derive(PartialEq, Eq)]
pub(super) enum Look {
    Alive,
    Closed,
}

impl IdleConnections {
    /// Drops old and closed connections, and learns how long the application keeps them.
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

            // The next inspection comes one sweep later.
            age + SWEEP < keep
        });

        if closed {
            self.keep = (earliest / 2).max(SWEEP);
            self.closed_early = Some(Instant::now());
        } else if self
            .closed_early
            .is_some_and(|at| at.elapsed() > CLOSED_EARLY_MEMORY)
        {
            self.keep = UPSTREAM_IDLE_TIMEOUT;
            self.closed_early = None;
        }
    }
}

pub(super) async fn sweep(pool: ConnectionPool, stop: CancellationToken) {
    let mut tick = interval(SWEEP);
    loop {
        tokio::select! {
            _ = tick.tick() => pool.lock().sweep(),
            () = stop.cancelled() => break,
        }
    }

    pool.lock().connections.clear();
    pool.multiplexed
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
}

impl Own {
    /// Inspects the socket itself, because the runtime may not have noticed that the peer closed
    /// it.
    pub(super) fn look(&self) -> Look {
        if !self.sender.is_ready() {
            return Look::Closed;
        }

        let mut byte = [MaybeUninit::uninit()];
        let Some(socket) = &self.socket else {
            return Look::Closed;
        };
        match socket.peek(&mut byte) {
            // An idle connection must be silent: readable means closed, or unexpected bytes.
            Ok(_) => Look::Closed,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Look::Alive,
            Err(_) => Look::Closed,
        }
    }
}
