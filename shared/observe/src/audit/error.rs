//! Failures of the audit log.

use std::io;
use std::path::PathBuf;

/// Failure to start the audit log, or to read its files.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file failed.
    #[error("audit log: {}: {source}{}", .path.display(), remedy(.source))]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file is unreadable.
    #[error("audit log: {}: {source}", .path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Another process writes the file.
    #[error("audit log: {}: another process writes this file; name another one, or end that process", .path.display())]
    InUse {
        /// Path of the file.
        path: PathBuf,
    },
    /// The last line is no record.
    #[error(
        "audit log: {}: the last line is not an audit record; move the file away, or name another one", .path.display()
    )]
    Foreign {
        /// Path of the file.
        path: PathBuf,
    },
    /// Syslog is unreachable.
    #[error("audit log: syslog {target}: {reason}")]
    Syslog {
        /// Address of syslog.
        target: String,
        /// Reason in words.
        reason: String,
    },
    /// The system did not start the writer thread.
    #[error("audit log: the writer thread did not start: {0}")]
    Thread(io::Error),
}

impl AuditError {
    pub(super) fn file(path: &std::path::Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File {
            path: path.clone(),
            source,
        }
    }
}

impl AuditError {
    pub(super) fn read(path: &std::path::Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Read {
            path: path.clone(),
            source,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; the user that runs this program must be able to write it"
        }
        io::ErrorKind::NotFound => "; create its directory first",
        _ => "",
    }
}
