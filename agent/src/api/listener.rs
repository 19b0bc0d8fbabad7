//! Listener of the API, and the file by which `hookward status` finds it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use hookward_core::reason::Reason;
use hookward_observe::api::access::{TokenError, Tokens, token_of};
use hookward_observe::api::server::ApiListener;
use hookward_runtime::process;
use serde::{Deserialize, Serialize};
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

/// How to reach the API of a running agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningApi {
    pub address: SocketAddr,
    pub process: u32,
}

/// Bound listener of the API.
pub(crate) struct BoundApi {
    listener: TcpListener,
    address: SocketAddr,
    tokens: Arc<Tokens>,
    /// File that names the address, removed at the end.
    file: RunFile,
}

/// File of a running agent.
struct RunFile(PathBuf);

impl Drop for RunFile {
    fn drop(&mut self) {
        // If it stays, the next `hookward status` removes it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl BoundApi {
    /// Binds the address. `None` if the API is off.
    pub(crate) fn bind(listen: InspectListen, state: &StateDir) -> Result<Option<Self>, ApiError> {
        let listener = match listen {
            InspectListen::Off => return Ok(None),
            InspectListen::At(address) => {
                let listener = listen_on(address);
                Some(listener.map_err(|source| ApiError::Listen { address, source })?)
            }
            InspectListen::Preset => preset(),
        };
        let Some((listener, address)) = listener else {
            tracing::warn!("all ports from {FIRST_PORT} on are taken; name one with --inspect");
            return Ok(None);
        };

        let token = token_of(&state.api_token())?.digest();
        let tokens = Tokens {
            full: token.clone(),
            metrics: token,
        };
        let file = state.run_file(std::process::id());
        let running = RunningApi {
            address,
            process: std::process::id(),
        };
        let json = serde_json::json!(running).to_string();
        if let Err(error) = process::write_private(&file, json.as_bytes()) {
            tracing::warn!(file = %file.display(), %error, "hookward status will not find this agent");
        }
        Ok(Some(Self {
            listener,
            address,
            tokens: Arc::new(tokens),
            file: RunFile(file),
        }))
    }

    /// Returns the address.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled. `tasks` owns the connections.
    pub(crate) async fn serve(self, view: AgentView, tasks: TaskTracker, stop: CancellationToken) {
        let router = router(
            Arc::new(view),
            &self.tokens,
            self.address.ip().is_loopback(),
        );
        ApiListener::Tcp(self.listener)
            .serve(router, tasks, stop)
            .await;
        drop(self.file);
    }
}

fn preset() -> Option<(TcpListener, SocketAddr)> {
    (FIRST_PORT..FIRST_PORT + PORTS)
        .find_map(|port| listen_on(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok())
}

fn listen_on(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, address))
}
