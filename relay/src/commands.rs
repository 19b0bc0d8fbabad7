//! One file for each command.

mod agent;
mod audit;
mod config;
mod deliveries;
mod serve;
mod status;
mod storage;

use std::io;
use std::path::PathBuf;

use clap::CommandFactory as _;
use hookward_cli::deliveries::DeliveriesError;
use hookward_cli::help;
use hookward_core::diagnostics::Diagnostics;
use hookward_observe::api::client::CallError;
use hookward_observe::audit::AuditError;
use hookward_runtime::process::{self, LogError};

use crate::StartError;
use crate::certs::CertError;
use crate::cli::{Cli, Command, LogFormat};
use crate::storage::StorageError;

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The settings are wrong.
    #[error("the settings are invalid; nothing was started\n{0}")]
    Settings(#[from] Diagnostics),
    /// The command line is wrong.
    #[error(transparent)]
    Mistake(#[from] agent::AgentCommandError),
    /// The audit log is not intact.
    #[error(transparent)]
    Flawed(#[from] audit::FlawedLog),
    /// A database or a copy failed.
    #[error(transparent)]
    Storage(#[from] storage::StorageCommandError),
    /// A file of the audit log failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// No relay serves the data directory, or its files belong to another user.
    #[error("{}: {source}; {}", .socket.display(), unreachable(.source))]
    Unreachable {
        /// Unix socket of the admin API.
        socket: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A command on stored webhooks failed.
    #[error(transparent)]
    Deliveries(DeliveriesError),
    /// The relay refused lines of an import, which are named.
    #[error("these lines were not imported:\n{0}")]
    NotImported(String),
    /// A file of the user failed.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The relay did not answer as expected.
    #[error("the relay: {0}")]
    Call(CallError),
    /// The log could not be set up.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The relay did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The state file failed.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// The relay's identity failed.
    #[error(transparent)]
    Cert(#[from] CertError),
    /// The system's random number generator failed.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// Operation that failed.
        what: &'static str,
        /// Error of the system.
        source: io::Error,
    },
}

fn unreachable(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run this command as the user of the relay, or as root",
        _ => "no relay is running with this data directory: name another one with --data-dir",
    }
}

impl CommandError {
    /// Returns `true` if the command line or the settings are wrong, and nothing was started.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        matches!(self, Self::Settings(_) | Self::Mistake(_) | Self::Log(_))
    }

    /// Returns `true` if an audit log is not as it was written.
    #[must_use]
    pub const fn is_flawed(&self) -> bool {
        matches!(self, Self::Flawed(_))
    }

    /// Wraps a system error with its operation.
    pub(crate) const fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub async fn run(cli: Cli) -> Result<(), CommandError> {
    let is_json = cli.log_format() == LogFormat::Json;
    match cli.command {
        Command::Serve(args) => {
            // The log goes to standard error or a file; join tokens and the ready line to standard output.
            let _flushed_on_drop = process::start_log(args.log.clone(), is_json, "info")?;
            serve::run(*args).await
        }
        Command::Agent(command) => agent::run(command).await,
        Command::Config(command) => config::run(command, &cli.given),
        Command::Status(args) => status::run(args).await,
        Command::Deliveries(command) => deliveries::run(command).await,
        Command::Storage(command) => storage::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Completions(args) => {
            let text = help::completions(Cli::command(), &args);
            say(String::from_utf8_lossy(&text).trim_end())
        }
        Command::Man(args) => {
            let written = help::write_man_pages(Cli::command(), &args);
            let count = written.map_err(|(path, source)| CommandError::File { path, source })?;
            say(&format!("{count} pages in {}", args.directory.display()))
        }
    }
}

/// Writes a line to standard output: the result that the user requested, not the log.
pub(crate) fn say(text: &str) -> Result<(), CommandError> {
    use std::io::Write as _;
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // The reader has what it wants, such as `head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CommandError::system("standard output")),
    }
}
