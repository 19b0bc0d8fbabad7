//! One file for each command.

mod audit;
mod check;
mod config;
mod deliveries;
mod diagnose;
mod explain;
mod http;
mod import_ngrok;
mod join;
mod local;
mod pair;
mod pin;
mod providers;
mod request_input;
mod runner;
mod send;
mod start;
mod status;
mod trust;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::CommandFactory as _;
use hookward_cli::deliveries::DeliveriesError;
use hookward_cli::help;
use hookward_core::clock::Clock;
use hookward_observe::api::access::TokenError;
use hookward_observe::api::client::CallError;
use hookward_observe::audit::AuditError;

use crate::api::listener::ApiError;
use crate::cli::{Cli, Command, LogFormat};
use crate::config::state_dir::StateError;
use crate::exit::Exit;
use crate::relay_link::ConnectionError;

/// Error of an agent that has not joined.
pub(crate) const NOT_JOINED: &str =
    "this agent has not joined a relay; run `hookward join -` with a join token first";

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The agent's own files failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The relay refused, or could not be reached.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The relay in this process failed to start.
    #[error(transparent)]
    Local(#[from] local::LocalError),
    /// The local API failed to start.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The local API of a running agent failed.
    #[error("the running agent: {0}")]
    Call(CallError),
    /// No connected agent runs.
    #[error("no agent with this state directory is connected to a relay; start one first")]
    NoAgent,
    /// A command on stored webhooks failed.
    #[error(transparent)]
    Deliveries(#[from] DeliveriesError),
    /// A token file failed.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The audit log failed.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The system's random number generator failed.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// A file of the user failed.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// Operation that failed.
        what: &'static str,
        /// Error of the system.
        source: io::Error,
    },
}

impl CommandError {
    /// Wraps a system error with its operation.
    const fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub async fn run(cli: Cli) -> Result<Exit, CommandError> {
    match cli.command {
        Command::Http(args) => http::run(*args).await,
        Command::Diagnose(args) => diagnose::run(*args).await,
        Command::Start(args) => start::run(*args).await,
        Command::Join(args) => join::run(args).await,
        Command::Config(command) => config::run(command),
        Command::ImportNgrok(args) => import_ngrok::run(&args),
        Command::Trust(args) => trust::run(&args),
        Command::Pin(command) => pin::run(&command),
        Command::Providers(args) => providers::run(&args),
        Command::Check(args) => check::run(*args),
        Command::Explain(args) => explain::run(*args).await,
        Command::Send(args) => send::run(*args).await,
        Command::Pair(args) => pair::run(*args).await,
        Command::Status(args) => status::run(args).await,
        Command::Deliveries(command) => deliveries::run(command).await,
        Command::Audit(command) => audit::run(command),
        Command::Completions(args) => {
            let text = help::completions(Cli::command(), &args);
            print(&String::from_utf8_lossy(&text)).map(|()| Exit::Done)
        }
        Command::Man(args) => {
            let written = help::write_man_pages(Cli::command(), &args);
            let count = written.map_err(|(path, source)| CommandError::File { path, source })?;
            let text = format!("{count} pages in {}\n", args.directory.display());
            print(&text).map(|()| Exit::Done)
        }
    }
}

/// Prints the result of a command to standard output. A closed pipe is not an error.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(CommandError::system("standard output")),
    }
}

/// The last message to the user, on standard error.
#[expect(
    clippy::print_stderr,
    reason = "this is the program's word to its user"
)]
pub fn print_error(format: LogFormat, text: &str) {
    match format {
        LogFormat::Text => eprintln!("hookward: {text}"),
        LogFormat::Json => eprintln!(
            "{}",
            serde_json::json!({
                "time": Clock::System.now().to_rfc3339(),
                "level": "error",
                "event": "error",
                "reason": text,
            })
        ),
    }
}
