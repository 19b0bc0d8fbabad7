//! What the user sees: a screen in the manner of ngrok on a terminal ([`screen`]), plain lines
//! elsewhere ([`lines`]), JSON for programs ([`json`]).
//!
//! It runs on a thread of its own: standard output may block (a pipe that nobody reads), and
//! requests must not wait for it.

pub mod json;
pub mod lines;
pub mod screen;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::cli::LogFormat;
use crate::report::{Report, Reports};

/// Pause between two batches of lines, so that a flood is written in few pieces.
const BATCH: Duration = Duration::from_millis(10);

/// Shows reports until nobody is left to make one. `quit` is cancelled when the user asks for the
/// end on the screen.
///
/// # Errors
/// When the system gives no thread.
pub fn show(reports: Reports, format: LogFormat, quit: CancellationToken) -> io::Result<JoinHandle<()>> {
    let screen = format == LogFormat::Text && io::stdout().is_terminal() && io::stdin().is_terminal();
    std::thread::Builder::new().name("terminal".to_owned()).spawn(move || {
        let shown = match (format, screen) {
            (LogFormat::Json, _) => write_lines(reports, json::line),
            (LogFormat::Text, false) => write_lines(reports, lines::line),
            (LogFormat::Text, true) => screen::run(reports, &quit),
        };
        if let Err(error) = shown {
            // Whoever read the output is gone; the agent works on.
            tracing::debug!(%error, "standard output");
        }
    })
}

fn write_lines(mut reports: Reports, line: fn(&Report) -> Option<String>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout());
    while let Some(first) = reports.wait() {
        let mut next = Some(first);
        while let Some(report) = next {
            if let Some(text) = line(&report) {
                writeln!(out, "{text}")?;
            }
            next = reports.next_at_once();
        }
        let lost = reports.take_lost();
        if lost > 0
            && let Some(text) = line(&Report::Note(format!("{lost} lines were left out: there were too many at once")))
        {
            writeln!(out, "{text}")?;
        }
        out.flush()?;
        std::thread::sleep(BATCH);
    }
    Ok(())
}
