//! One file for each command.

pub mod check;
pub mod diagnose;
pub mod explain;
pub mod http;
pub mod join;
pub mod local;
pub mod pair;
pub mod providers;
pub mod request_input;
pub mod runner;
pub mod send;
pub mod start;

use std::io::{self, Write as _};

use crate::cli::LogFormat;
use crate::config::state_dir::StateError;
use crate::relay_link::ConnectionError;

/// What an agent that has not joined is told.
pub(crate) const NOT_JOINED: &str =
    "this agent has not joined a relay; run `hookward join -` with a join token first";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The agent's own files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The relay.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The relay in this process did not start.
    #[error(transparent)]
    Local(#[from] local::LocalError),
    /// The system has no randomness to give.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Something of the system.
    #[error("{what}: {source}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl CommandError {
    /// For an error of the system.
    const fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// What the user asked for, on standard output. Whoever read it may have seen enough of it.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CommandError::system("standard output")),
    }
}

/// A last word to the user, on standard error.
#[expect(
    clippy::print_stderr,
    reason = "this is the program's word to its user"
)]
pub fn tell(format: LogFormat, text: &str) {
    match format {
        LogFormat::Text => eprintln!("hookward: {text}"),
        LogFormat::Json => eprintln!(
            "{}",
            serde_json::json!({ "event": "error", "reason": text })
        ),
    }
}
