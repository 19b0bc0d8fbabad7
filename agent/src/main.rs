//! `hookward`: wiring, and exit codes.

use std::process::ExitCode;

use clap::Parser;
use hookward_agent::cli::{Cli, Command, LogFormat};
use hookward_agent::commands;
use hookward_agent::exit::Exit;
use hookward_runtime::process;

// Gives back what outages and bursts needed (measured: an agent whose relays were down six times
// has 8 MiB, with glibc's allocator 28). Its settings are in `.cargo/config.toml`.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// One thread for the tunnel and everything that handles its streams: see `relay/src/main.rs`.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = match &cli.command {
        Command::Http(args) => args.log_format,
        Command::Pair(args) => args.log_format,
        Command::Start(args) => args.log_format,
        Command::Diagnose(_)
        | Command::Join(_)
        | Command::Providers(_)
        | Command::Check(_)
        | Command::Explain(_)
        | Command::Send(_) => LogFormat::Text,
    };

    // Diagnostics go to standard error; what the user asked for goes to standard output.
    let _flushed_at_the_end = match process::log_to_stderr(format == LogFormat::Json, "warn") {
        Ok(guard) => guard,
        Err(error) => {
            commands::tell(format, &error.to_string());
            return Exit::Usage.into();
        }
    };

    let ended = match cli.command {
        Command::Http(args) => commands::http::run(*args).await,
        Command::Diagnose(args) => commands::diagnose::run(*args).await,
        Command::Start(args) => commands::start::run(*args).await,
        Command::Join(args) => commands::join::run(args).await,
        Command::Providers(args) => commands::providers::run(&args),
        Command::Check(args) => commands::check::run(*args),
        Command::Explain(args) => commands::explain::run(*args).await,
        Command::Send(args) => commands::send::run(*args).await,
        Command::Pair(args) => commands::pair::run(*args).await,
    };

    match ended {
        Ok(exit) => exit.into(),
        Err(error) => {
            commands::tell(format, &error.to_string());
            Exit::Failed.into()
        }
    }
}
