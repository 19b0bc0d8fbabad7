//! Output for the user: a screen like ngrok's on a terminal ([`screen`]), plain lines elsewhere
//! ([`lines`]), JSON for programs ([`json`]).
//!
//! The output runs on its own thread: standard output may block on an unread pipe, and requests must not
//! wait for it.

pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod screen;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use hookward_runtime::process::LogFile;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::screen::ScreenSource;
use crate::cli::LogFormat;
use crate::events::{Event, EventStream, TimedEvent};

/// Handle of a thread that shows or logs events.
pub(crate) struct Shown(Option<oneshot::Receiver<()>>);

impl Shown {
    /// Waits until all output is written. Returns at once if an earlier call has completed.
    pub(crate) async fn over(&mut self) {
        if let Some(shown) = &mut self.0 {
            let _ = shown.await;
            self.0 = None;
        }
    }
}

/// Ways in which the user ends the program on the screen.
#[derive(Clone, Default)]
pub(crate) struct Quit {
    /// Cancelled by the first Ctrl-C or q: requests in flight are drained.
    pub in_order: CancellationToken,
    /// Cancelled by the second.
    pub at_once: CancellationToken,
}

impl Quit {
    /// Requests the end; the second call aborts the drain.
    pub(crate) fn request(&self) {
        if self.in_order.is_cancelled() {
            self.at_once.cancel();
        }
        self.in_order.cancel();
    }
}

/// Shows events until the last sink is gone. The user can end the program through `quit`. With
/// `several` tunnels, each request is shown with its host. The screen reads further state from
/// `source`.
///
/// # Errors
/// If the system cannot start a thread.
pub(crate) fn show(
    reports: EventStream,
    format: LogFormat,
    several: bool,
    quit: Quit,
    source: Option<ScreenSource>,
) -> io::Result<Shown> {
    let screen = is_screen(format);
    let (done, shown) = oneshot::channel();
    std::thread::Builder::new()
        .name("terminal".to_owned())
        .spawn(move || {
            let shown = match (format, screen) {
                (LogFormat::Json, _) => write_lines(reports, io::stdout(), json::line),
                (LogFormat::Text, false) => write_lines(reports, io::stdout(), |stamped| {
                    lines::line(stamped, several)
                }),
                (LogFormat::Text, true) => screen::run(reports, several, &quit, source),
            };
            if let Err(error) = shown {
                // The reader of the output is gone; the agent continues.
                tracing::debug!(%error, "writing to standard output failed");
            }

            let _ = done.send(());
        })?;

    Ok(Shown(Some(shown)))
}

/// Appends the events to a file as lines, until the last sink is gone.
///
/// # Errors
/// If the file can't be opened, or the system cannot start a thread.
pub(crate) fn log_to(
    path: &Path,
    reports: EventStream,
    format: LogFormat,
    several: bool,
) -> io::Result<Shown> {
    let file = LogFile::open(path)?;
    let (done, logged) = oneshot::channel();
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            let written = match format {
                LogFormat::Json => write_lines(reports, file, json::line),
                LogFormat::Text => {
                    write_lines(reports, file, |stamped| lines::line(stamped, several))
                }
            };
            if let Err(error) = written {
                tracing::error!(%error, "writing events to the log file failed");
            }

            let _ = done.send(());
        })?;
    Ok(Shown(Some(logged)))
}

fn is_screen(format: LogFormat) -> bool {
    // By convention, a dumb terminal moves no cursor (terminfo's entry "dumb").
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    format == LogFormat::Text && terminal && !dumb
}

fn write_lines(
    mut reports: EventStream,
    mut out: impl Write,
    line: impl Fn(&TimedEvent) -> Option<String>,
) -> io::Result<()> {
    // Whole lines in one write, because others may append to the same file.
    let mut batch = String::new();
    while let Some(first) = reports.wait() {
        batch.clear();
        let mut next = Some(first);
        while let Some(report) = next {
            if let Some(text) = line(&report) {
                batch.push_str(&text);
                batch.push('\n');
            }
            next = reports.try_next();
        }

        let lost = reports.take_lost();
        let left_out = Event::Note(format!(
            "{lost} lines were left out: there were too many at once"
        ));

        if lost > 0
            && let Some(text) = line(&left_out.into())
        {
            batch.push_str(&text);
            batch.push('\n');
        }

        out.write_all(batch.as_bytes())?;
        out.flush()?;
        std::thread::sleep(BATCH);
    }

    Ok(())
}

/// Pause between two batches of lines, so that a flood needs few writes.
const BATCH: Duration = Duration::from_millis(10);
