//! Listeners of the API: a local address, and the Unix socket by which `hookward status` finds it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use hookward_core::reason::Reason;
use hookward_observe::api::access::{Guard, TokenError, Tokens, token_of};
use hookward_observe::api::server::ApiListener;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::routes::router;
use super::status::AgentView;
use crate::config::state_dir::StateDir;

/// Address of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum InspectListen {
    /// 127.0.0.1:4040, or the next free port.
    #[default]
    Preset,
    Off,
    At(SocketAddr),
}

impl FromStr for InspectListen {
    type Err = Reason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" | "false" => Ok(Self::Off),
            "true" => Ok(Self::Preset),
            _ => match text.parse() {
                Ok(address) => Ok(Self::At(address)),
                Err(_) => {
                    Err("write an address with a port, such as 127.0.0.1:4040, or \"off\"".into())
                }
            },
        }
    }
}

/// First port of [`InspectListen::Preset`], as ngrok's.
const FIRST_PORT: u16 = 4040;

/// Port of a relay's admin API, whose clients would send their token to an agent.
const RELAY_PORT: u16 = 4041;

/// File of the machine's name (proc_sys_kernel(5)).
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// Number of ports to try: several agents of one machine.
const PORTS: u16 = 20;

/// Failure to start the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is not available.
    #[error("--inspect {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
    /// The token failed.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Bound listeners of the API.
pub(crate) struct BoundApi {
    tcp: Option<(TcpListener, SocketAddr)>,
    /// Unix socket for `hookward status`.
    socket: Option<ApiListener>,
    tokens: Tokens,
}

impl BoundApi {
    /// Binds the Unix socket in the state directory, and the address.
    pub(crate) fn bind(listen: InspectListen, state: &StateDir) -> Result<Self, ApiError> {
        let tcp = match listen {
            InspectListen::Off => None,
            InspectListen::At(address) => {
                let listener = listen_on(address);
                Some(listener.map_err(|source| ApiError::Listen { address, source })?)
            }
            InspectListen::Preset => preset(),
        };
        if tcp.is_none() && listen == InspectListen::Preset {
            tracing::warn!("all ports from {FIRST_PORT} on are taken; name one with --inspect");
        }

        let path = state.socket(std::process::id());
        let socket = ApiListener::unix(&path).inspect_err(|error| {
            tracing::warn!(socket = %path.display(), %error, "hookward status will not find this agent");
        });
        let token = token_of(&state.api_token())?.digest();
        let tokens = Tokens {
            full: token.clone(),
            metrics: token,
        };
        Ok(Self {
            tcp,
            socket: socket.ok(),
            tokens,
        })
    }

    /// Returns the address, unless the API has only its Unix socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(_, address)| *address)
    }

    /// Returns the URL with the token, if other machines can reach the address.
    pub(crate) fn token_url(&self, state: &StateDir) -> Option<String> {
        let address = self
            .address()
            .filter(|address| !address.ip().is_loopback())?;
        let token = token_of(&state.api_token()).ok()?;
        let token = std::str::from_utf8(token.expose()).ok()?.trim().to_owned();
        let host = match address.ip().is_unspecified() {
            // All addresses of this machine: its name is the likeliest that others know.
            true => std::fs::read_to_string(HOST_NAME).ok()?.trim().to_owned(),
            false if address.is_ipv6() => format!("[{}]", address.ip()),
            false => address.ip().to_string(),
        };
        Some(format!("http://hookward:{token}@{host}:{}", address.port()))
    }

    /// Serves until `stop` is cancelled. `tasks` owns the listeners and their connections.
    pub(crate) fn serve(self, view: Arc<AgentView>, tasks: &TaskTracker, stop: &CancellationToken) {
        let address = self.address();
        let is_local = address.is_none_or(|address| address.ip().is_loopback());
        let guard = Arc::new(Guard {
            tokens: self.tokens,
            audit: view.observer.audit().clone(),
        });
        let router = router(view, &guard, is_local);
        let tcp = self.tcp.map(|(listener, _)| ApiListener::Tcp(listener));
        for listener in tcp.into_iter().chain(self.socket) {
            tasks.spawn(listener.serve(router.clone(), tasks.clone(), stop.clone()));
        }
    }
}

fn preset() -> Option<(TcpListener, SocketAddr)> {
    (FIRST_PORT..FIRST_PORT + PORTS)
        .filter(|port| *port != RELAY_PORT)
        .find_map(|port| listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok())
}

fn listen_on(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, address))
}
