//! What the user sees: a screen in the manner of ngrok on a terminal ([`screen`]), plain lines
//! elsewhere ([`lines`]), JSON for programs ([`json`]).
//!
//! It runs on a thread of its own: standard output may block (a pipe that nobody reads), and
//! requests must not wait for it.

pub mod json;
pub mod lines;
pub mod screen;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::cli::LogFormat;
use crate::report::{Report, Reports};

/// Pause between two batches of lines, so that a flood is written in few pieces.
const BATCH: Duration = Duration::from_millis(10);

/// Gives the terminal back to the user without waiting for the screen.
pub fn give_back() {
    if is_screen(LogFormat::Text) {
        ratatui::restore();
    }
}

fn is_screen(format: LogFormat) -> bool {
    format == LogFormat::Text && io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// A terminal in use.
pub struct Shown(oneshot::Receiver<()>);

impl Shown {
    /// Waits until everything has been shown.
    pub async fn over(self) {
        let _ = self.0.await;
    }
}

/// Shows reports until nobody is left to make one. `quit` is cancelled when the user asks for the
/// end on the screen. With `several` tunnels, each request is shown with its host.
///
/// # Errors
/// When the system gives no thread.
pub fn show(reports: Reports, format: LogFormat, several: bool, quit: CancellationToken) -> io::Result<Shown> {
    let screen = is_screen(format);
    let (done, shown) = oneshot::channel();
    std::thread::Builder::new().name("terminal".to_owned()).spawn(move || {
        let shown = match (format, screen) {
            (LogFormat::Json, _) => write_lines(reports, json::line),
            (LogFormat::Text, false) => write_lines(reports, |report| lines::line(report, several)),
            (LogFormat::Text, true) => screen::run(reports, several, &quit),
        };
        if let Err(error) = shown {
            // Whoever read the output is gone; the agent works on.
            tracing::debug!(%error, "standard output");
        }
        let _ = done.send(());
    })?;
    Ok(Shown(shown))
}

fn write_lines(mut reports: Reports, line: impl Fn(&Report) -> Option<String>) -> io::Result<()> {
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
