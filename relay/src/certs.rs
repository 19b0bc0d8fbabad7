//! Certificates: the relay's own identity for the tunnel, and the edge's certificate.
//!
//! [`source`] loads the edge's certificate: from the files of the settings, or a [`self_signed`] one
//! that the data directory keeps with mode 0600. [`acme`] gets certificates from an ACME server. [`review`] reports what senders will reject.
//! [`resolver`] hands the current pair to each TLS handshake, so that a renewal needs no restart.

pub(crate) mod acme;
mod identity;
mod pem;
pub(crate) mod resolver;
pub(crate) mod review;
pub(crate) mod self_signed;
pub(crate) mod source;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use self::identity::IDENTITY_FILE;
pub use self::identity::TunnelIdentity;
use hookward_runtime::process;
use rcgen::{DistinguishedName, DnType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Failure to load or make a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A file has unusable content.
    #[error("{path}: {what}")]
    Content {
        path: PathBuf,
        /// Description of the error.
        what: String,
    },
    #[error(
        "{path}: {what}. It holds the relay's identity, which every agent pins: restore it from a backup, or start once \
         with --reset, which sets it aside and makes another (every agent must join again)"
    )]
    Identity {
        path: PathBuf,
        /// Description of the error.
        what: String,
    },
    /// rcgen failed to make a certificate.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate chain with its key.
pub(crate) struct CertificatePair {
    /// The chain; the leaf certificate comes first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Writes a file that only its owner can read.
fn write_secret(path: &Path, content: &str) -> Result<(), CertError> {
    process::write_private(path, content.as_bytes()).map_err(|source| CertError::File {
        path: path.to_owned(),
        source,
    })
}

fn named(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}
