//! `hookward-relay`: wiring, and exit codes.

use std::process::ExitCode;

use clap::Parser;
use hookward_relay::cli::{Cli, Command, LogFormat};
use hookward_relay::commands::{CommandError, agent, serve};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;

const FAILED: u8 = 1;
const USAGE: u8 = 2;

// One thread for the edge, the gate and the tunnel: measured, 40 % more requests than with several,
// because no stream event crosses threads.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut format = LogFormat::Text;
    let ended = match Cli::parse().command {
        Command::Serve(args) => {
            format = args.log_format;
            let _flushed_at_the_end = log_to_stderr(args.log_format);
            serve::run(*args).await
        }
        Command::Agent(command) => agent::run(command),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = if error.is_usage() { USAGE } else { FAILED };
            tell(format, &error);
            ExitCode::from(code)
        }
    }
}

/// The log goes to standard error; join tokens and the ready line to standard output. It is written by
/// a thread of its own, behind a bounded queue: a pipe that nobody reads must not hold up requests.
fn log_to_stderr(format: LogFormat) -> WorkerGuard {
    let (writer, guard) = tracing_appender::non_blocking(std::io::stderr());
    let filter = EnvFilter::try_from_env("HOOKWARD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    guard
}

#[expect(clippy::print_stderr, reason = "the last word of a program that failed")]
fn tell(format: LogFormat, error: &CommandError) {
    match format {
        LogFormat::Text => eprintln!("hookward-relay: {error}"),
        LogFormat::Json => eprintln!("{}", serde_json::json!({ "event": "error", "message": error.to_string() })),
    }
}
