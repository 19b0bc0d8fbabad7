//! Log of a process, on standard error or in a file.
//!
//! As JSON each line is one object with `time` (RFC 3339, UTC), `level`, `event`, `message`, `target`
//! (the part of the program), and the fields of the event. `event` is `log` for lines that are only
//! for people.

mod file;
mod json;

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
use tracing_subscriber::EnvFilter;

pub use self::file::LogFile;
use self::json::JsonFormat;

/// Environment variable of the log filter: levels, also by module (`debug`, `info,quinn=debug`).
pub(crate) const LOG_VARIABLE: &str = "HOOKWARD_LOG";

/// Failure to set up the log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is invalid.
    #[error("{LOG_VARIABLE} is not a log filter (try `info` or `debug`): {0}")]
    Filter(String),
    /// The file can't be opened.
    #[error("--log {}: {source}", .path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

/// Starts the log, which ends when the guard is dropped: one line per event, or one JSON object. A
/// separate thread writes it behind a bounded queue, so that an unread pipe does not block requests.
/// It goes to `file`, or to standard error. `level` is the filter if `LOG_VARIABLE` is not set.
///
/// # Errors
/// [`LogError`].
pub fn start_log(file: Option<PathBuf>, json: bool, level: &str) -> Result<WorkerGuard, LogError> {
    let filter = match std::env::var(LOG_VARIABLE) {
        Ok(text) => text,
        Err(std::env::VarError::NotPresent) => level.to_owned(),
        Err(error) => return Err(LogError::Filter(error.to_string())),
    };
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter(error.to_string()))?;

    let has_colors = file.is_none() && io::stderr().is_terminal();
    let (writer, guard) = match file {
        None => tracing_appender::non_blocking(Stderr),
        Some(path) => {
            let opened = LogFile::open(&path);
            NonBlocking::new(opened.map_err(|source| LogError::File { path, source })?)
        }
    };

    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(has_colors);
    if json {
        log.event_format(JsonFormat).init()
    } else {
        log.init()
    }

    Ok(guard)
}

/// Maximum number of lines that [`hold_log`] keeps; the oldest are dropped first.
pub(super) const HELD_LINES: usize = 200;

/// Log lines that wait for the screen to close; `None` without a screen.
pub(super) static HELD_LOG: Mutex<Option<VecDeque<Vec<u8>>>> = Mutex::new(None);

/// Standard error, unless a screen uses the terminal.
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut held = HELD_LOG.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(lines) = held.as_mut() else {
            drop(held);
            return io::stderr().write(line);
        };
        if lines.len() >= HELD_LINES {
            lines.pop_front();
        }

        lines.push_back(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Guard that holds log lines back. Dropping it writes them.
#[derive(Debug)]
pub struct LogHold(());

/// Holds log lines back while a screen uses the terminal. A log that goes elsewhere is not
/// affected.
#[must_use]
pub fn hold_log() -> LogHold {
    if io::stderr().is_terminal() {
        HELD_LOG
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert_default();
    }
    LogHold(())
}

impl LogHold {
    /// Returns the lines that are held back, oldest first, without colours.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let held = HELD_LOG.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = held.iter().flatten();
        lines.map(|line| without_colors(line)).collect()
    }
}

/// Returns a line without its SGR sequences (ECMA-48 §8.3.117), which set colours.
fn without_colors(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut parts = text.trim_end().split("\u{1b}[");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or("", |(_, rest)| rest));
    }
    plain
}

impl Drop for LogHold {
    fn drop(&mut self) {
        let held = HELD_LOG
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        for line in held.unwrap_or_default() {
            // Without standard error the lines are lost.
            let _ = io::stderr().write_all(&line);
        }
    }
}
