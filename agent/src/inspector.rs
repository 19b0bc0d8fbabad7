//! The inspector: keeps the last requests, explains each verdict, and sends a request again.
//!
//! [`capture`] takes copies of exchanges off the data path, [`record`] explains and redacts them on
//! a thread of its own, and [`history`] keeps them in a SQLite file. Secrets are redacted
//! ([`redact`]) before anything is written.

pub(crate) mod again;
pub(crate) mod capture;
mod curl;
pub(crate) mod filter;
pub(crate) mod history;
pub(crate) mod message;
pub(crate) mod pages;
pub(crate) mod policy;
mod record;
pub(crate) mod remedy;
mod rule;

use std::path::Path;
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_runtime::sqlite::SqliteError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::capture::{Capture, CaptureOptions, Dropped};
use self::history::History;
use self::record::Recorder;

/// Maximum wait for the last captured requests.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Failure to start the inspector.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectorError {
    /// The history failed.
    #[error(transparent)]
    History(#[from] SqliteError),
    /// The system did not start the thread.
    #[error("the thread of the inspector did not start: {0}")]
    Thread(#[from] std::io::Error),
}

/// Inspector of an agent.
pub(crate) struct Inspector {
    history: History,
    capture: Capture,
    /// Ends with the recorder.
    recorder: oneshot::Receiver<()>,
}

impl Inspector {
    /// Opens the history in a file, and starts to record.
    ///
    /// # Errors
    /// [`InspectorError`].
    pub(crate) fn open(
        path: &Path,
        options: CaptureOptions,
        clock: Clock,
    ) -> Result<Self, InspectorError> {
        let dropped = Dropped::default();
        let history = History::open(path, clock.clone(), dropped.clone())?;
        let (capture, captured) = Capture::new(options, dropped.clone());
        let recorder = Recorder::new(history.queue(), clock, dropped);
        let (done, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("inspector".to_owned())
            .spawn(move || {
                recorder.run(&captured);
                let _ = done.send(());
            })?;
        Ok(Self {
            history,
            capture,
            recorder: ended,
        })
    }

    /// Returns the capture of exchanges.
    pub(crate) fn capture(&self) -> Capture {
        self.capture.clone()
    }

    /// Returns the inspector for the API. `ca` is the file of the relay's certificate, if it is
    /// self-signed.
    pub(crate) fn view(&self, ca: Option<String>) -> InspectorView {
        InspectorView {
            ca,
            history: self.history.clone(),
            capture: self.capture.clone(),
        }
    }

    /// Writes what was captured, once every other clone of the capture is gone. Gives up after a time.
    pub(crate) async fn close(self) {
        drop(self.capture);
        if timeout(CLOSE_TIMEOUT, self.recorder).await.is_err() {
            tracing::warn!("the last captured requests may be missing in the history");
        }
    }
}

/// The inspector as the API shows it.
#[derive(Clone)]
pub(crate) struct InspectorView {
    /// File of the relay's self-signed certificate, for commands that users copy.
    pub ca: Option<String>,
    pub history: History,
    pub capture: Capture,
}
