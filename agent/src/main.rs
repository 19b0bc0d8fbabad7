//! The program `hookward`: wiring and exit codes.

use std::process::ExitCode;

use hookward_agent::{Cli, Exit, LogFormat, print_error};
use hookward_runtime::process;

// jemalloc returns memory after outages and bursts. Measured after six outages of its relays: 8
// MiB, with glibc's allocator 28 MiB. `.cargo/config.toml` has its settings.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// One thread for the tunnel and everything that handles its streams: see `relay/src/main.rs`.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::parse_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let format = cli.log_format();

    // Diagnostics go to standard error, results to standard output. A file has room for more.
    let level = if cli.log_file().is_some() {
        "info"
    } else {
        "warn"
    };
    let _flushed_on_drop =
        match process::start_log(cli.log_file(), format == LogFormat::Json, level) {
            Ok(guard) => guard,
            Err(error) => {
                print_error(format, &error.to_string());
                return Exit::Usage.into();
            }
        };

    match hookward_agent::run(cli).await {
        Ok(exit) => exit.into(),
        Err(error) => {
            print_error(format, &error.to_string());
            Exit::Failed.into()
        }
    }
}
