//! What both programs do as processes of a Unix system: a log, open files, files that are nobody
//! else's business.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

/// The variable that says how much is logged: levels, also by module (`debug`, `info,quinn=debug`).
pub const LOG_VARIABLE: &str = "HOOKWARD_LOG";

/// A log that can't be set up.
#[derive(Debug, thiserror::Error)]
#[error("{LOG_VARIABLE} is no log filter (try `info` or `debug`): {0}")]
pub struct LogError(String);

/// Sends the log to standard error, until the guard is dropped: one line for an event, or one JSON
/// object. A thread of its own writes it, behind a bounded queue: a pipe that nobody reads must not
/// hold up requests. `level` is what is logged unless [`LOG_VARIABLE`] says otherwise.
///
/// # Errors
/// When the variable is no filter.
pub fn log_to_stderr(json: bool, level: &str) -> Result<WorkerGuard, LogError> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(text) => text,
        Err(std::env::VarError::NotPresent) => level.to_owned(),
        Err(error) => return Err(LogError(error.to_string())),
    };
    let filter = EnvFilter::builder().parse(filter).map_err(|error| LogError(error.to_string()))?;
    let (writer, guard) = tracing_appender::non_blocking(io::stderr());
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(io::stderr().is_terminal());
    if json {
        log.json().flatten_event(true).init()
    } else {
        log.init()
    }
    Ok(guard)
}

/// Raises the soft limit of open files to the hard one. Gives the limit that is now in force.
///
/// # Errors
/// What the system says.
pub fn raise_file_limit() -> io::Result<u64> {
    rlimit::increase_nofile_limit(rlimit::Resource::NOFILE.get_hard().unwrap_or(u64::MAX))
}

/// Makes a directory, and those above it, that only its owner can read.
///
/// # Errors
/// What the system says.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a file that only its owner can read, whole or not at all, also when the machine dies
/// meanwhile.
///
/// # Errors
/// What the system says.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".new-{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    if let Err(error) = write() {
        // A half-written secret must not stay behind.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(dir)?.sync_all()
}
