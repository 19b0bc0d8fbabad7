//! The program `hookward-relay`: wiring and exit codes.

use std::process::ExitCode;

use hookward_core::clock::Clock;
use hookward_relay::{Cli, CommandError, LogFormat};

// jemalloc returns memory after a burst of connections: see `agent/src/main.rs`.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// One thread for the edge, the gate and the tunnel, so that no stream event crosses threads.
// Measured with a second thread: an eighth more CPU for each request (a third with one in both
// programs), and fewer requests a second.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::from_process();
    let format = cli.log_format();

    match hookward_relay::run(cli).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match &error {
                error if error.is_usage() => USAGE,
                error if error.is_flawed() => FLAWED,
                _ => FAILED,
            };
            tell(format, &error);
            ExitCode::from(code)
        }
    }
}

const FAILED: u8 = 1;

const USAGE: u8 = 2;

const FLAWED: u8 = 3;

#[expect(
    clippy::print_stderr,
    reason = "the last word of a program that failed"
)]
fn tell(format: LogFormat, error: &CommandError) {
    match format {
        LogFormat::Text => eprintln!("hookward-relay: {error}"),
        LogFormat::Json => eprintln!(
            "{}",
            serde_json::json!({
                "time": Clock::System.now().to_rfc3339(),
                "level": "error",
                "event": "error",
                "reason": error.to_string(),
            })
        ),
    }
}
