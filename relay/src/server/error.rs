//! Failure to start a relay.

use crate::DataDirError;
use crate::admin::listeners::AdminError;
use crate::certs::CertError;
use crate::fetch::client::FetchError;
use crate::storage::StorageError;
use hookward_core::diagnostics::Diagnostics;
use hookward_observe::audit::AuditError;
use hookward_tunnel::transport::quic::EndpointError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Returns a hint for a privileged port.
pub(super) fn port_hint(address: SocketAddr, error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied if address.port() < 1024 => {
            "; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrInUse => "; stop the program that uses it, or choose another address",
        _ => "",
    }
}

/// Failure to start a relay.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory is not usable.
    #[error("the data directory {path}: {source}")]
    DataDir {
        /// Path of the directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Another relay uses the data directory.
    #[error(
        "the data directory {path} is in use by another relay ({by}): stop that one, or name another directory"
    )]
    InUse {
        /// Path of the directory.
        path: PathBuf,
        /// Description of the owner, from the lock file.
        by: String,
    },
    /// The data directory has unusable content.
    #[error(transparent)]
    Content(#[from] DataDirError),
    /// A certificate or the identity is unusable.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// rustls rejected the certificate or its key.
    #[error("the edge's certificate can't be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The state file failed.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// The audit log failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The admin API or the monitoring listener failed.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The HTTPS port is not available.
    #[error("can't listen on TCP {address}: {source}{}", port_hint(*.address, .source))]
    Listen {
        /// Address from the settings.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
    /// The tunnel's port is not available.
    #[error("can't listen for agents: {0}")]
    Tunnel(#[from] EndpointError),
    /// The system's random number generator failed.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The baseline policy has errors.
    #[error("the baseline policy can't be used:\n{0}")]
    Baseline(#[from] Diagnostics),
    /// The settings for fetching are wrong.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The system refused a signal handler.
    #[error("SIGHUP: {0}")]
    Signal(io::Error),
}
