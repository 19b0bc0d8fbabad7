//! Listeners of the admin API, and of monitoring.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hookward_observe::api::access::{Guard, TokenError, Tokens, token_of};
use hookward_observe::api::server::ApiListener;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{Routers, routers};
use super::overview::Overview;
use super::{METRICS_TOKEN_FILE, SOCKET_FILE, TOKEN_FILE};

/// Settings of the admin API and of monitoring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminSettings {
    /// Address of the admin API on loopback.
    pub listen: AdminListen,
    /// `true` to serve the Unix socket in the data directory.
    pub socket: bool,
    /// Address of health and metrics for other machines.
    pub monitoring: Option<SocketAddr>,
}

/// Address of the admin API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminListen {
    /// No TCP listener.
    Off,
    /// The default address, if it is free.
    Preset,
    /// An address of the settings.
    At(SocketAddr),
}

impl AdminSettings {
    /// Returns the settings of a relay without them.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            listen: AdminListen::Off,
            socket: false,
            monitoring: None,
        }
    }
}

/// Default address of the admin API.
pub(crate) const PRESET: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(
    std::net::Ipv4Addr::LOCALHOST,
    4041,
));

/// Failure to start the admin API, or the monitoring listener.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// An address is not available.
    #[error("[{table}] listen: {address}: {source}")]
    Listen {
        /// Table of the settings.
        table: &'static str,
        /// The address.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
    /// A token failed.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Addresses of the admin API and of monitoring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdminAddresses {
    /// Address of the admin API.
    pub admin: Option<SocketAddr>,
    /// Address of health and metrics.
    pub monitoring: Option<SocketAddr>,
}

/// Bound listeners, before the relay serves.
pub(crate) struct BoundAdmin {
    tokens: Tokens,
    admin: Option<TcpListener>,
    socket: Option<ApiListener>,
    monitoring: Option<TcpListener>,
}

impl BoundAdmin {
    /// Binds the listeners, and creates missing token files. `None` if there is no listener.
    pub(crate) fn bind(
        settings: &AdminSettings,
        data_dir: &Path,
    ) -> Result<Option<Self>, AdminError> {
        if *settings == AdminSettings::off() {
            return Ok(None);
        }

        let token = |file| Ok::<_, TokenError>(token_of(&data_dir.join(file))?.digest());
        let tokens = Tokens {
            full: token(TOKEN_FILE)?,
            metrics: token(METRICS_TOKEN_FILE)?,
        };
        Ok(Some(Self {
            tokens,
            admin: bind_admin(settings.listen)?,
            socket: settings.socket.then(|| bind_socket(data_dir)).flatten(),
            monitoring: match settings.monitoring {
                Some(address) => Some(bind("monitoring", address)?),
                None => None,
            },
        }))
    }

    /// Returns the addresses.
    pub(crate) fn addresses(&self) -> AdminAddresses {
        let address = |listener: &Option<TcpListener>| {
            listener
                .as_ref()
                .and_then(|listener| listener.local_addr().ok())
        };
        AdminAddresses {
            admin: address(&self.admin),
            monitoring: address(&self.monitoring),
        }
    }

    /// Serves until `stop` is cancelled. `tasks` owns the listeners and their connections.
    pub(crate) fn serve(self, overview: Overview, tasks: &TaskTracker, stop: &CancellationToken) {
        let guard = Guard {
            tokens: self.tokens,
            audit: overview.edge.observer.audit().clone(),
        };
        let Routers { admin, monitoring } = routers(Arc::new(overview), &Arc::new(guard));
        let local = self
            .admin
            .map(ApiListener::Tcp)
            .into_iter()
            .chain(self.socket);
        let local = local.map(|listener| (listener, admin.clone()));
        let remote = self.monitoring.map(ApiListener::Tcp);
        let remote = remote.map(|listener| (listener, monitoring));
        for (listener, router) in local.chain(remote) {
            tasks.spawn(listener.serve(router, tasks.clone(), stop.clone()));
        }
    }
}

fn bind_admin(listen: AdminListen) -> Result<Option<TcpListener>, AdminError> {
    match listen {
        AdminListen::Off => Ok(None),
        AdminListen::At(address) => bind("admin", address).map(Some),
        // Another relay of this machine may have it, and the Unix socket is enough.
        AdminListen::Preset => match listen_on(PRESET) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                tracing::warn!(address = %PRESET, %error, "the admin API has only its Unix socket; name a free address: --admin ADDRESS");
                Ok(None)
            }
        },
    }
}

fn bind(table: &'static str, address: SocketAddr) -> Result<TcpListener, AdminError> {
    listen_on(address).map_err(|source| AdminError::Listen {
        table,
        address,
        source,
    })
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind_socket(data_dir: &Path) -> Option<ApiListener> {
    let path = data_dir.join(SOCKET_FILE);
    // The path of a Unix socket has at most 107 bytes (unix(7)).
    ApiListener::unix(&path)
        .inspect_err(|error| {
            tracing::warn!(path = %path.display(), %error, "the admin API has no Unix socket; `hookward-relay status` needs it");
        })
        .ok()
}
