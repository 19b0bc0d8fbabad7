//! Triggers of a reload: a changed file, or SIGHUP.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::interval::every;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Interval;

/// Waits for changes of files, and for SIGHUP.
pub struct Reloads {
    paths: Vec<PathBuf>,
    /// State of each file; `None` while one of them is absent.
    seen: Option<Vec<Stamp>>,
    hangup: Signal,
    looks: Interval,
}

/// Properties of a file that change with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
    /// Time of the last change of its owner or mode, with nanoseconds.
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl Reloads {
    /// Starts to wait, from the current state of the files. Without files only SIGHUP counts.
    ///
    /// # Errors
    /// The system refused the signal handler.
    pub fn new(paths: &[&Path]) -> io::Result<Self> {
        let looks = every(POLL_INTERVAL);
        Ok(Self {
            seen: paths.iter().map(|path| Stamp::of(path)).collect(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            hangup: signal(SignalKind::hangup())?,
            looks,
        })
    }

    /// Resolves at the next reload. Cancel-safe.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.seen = self.stamps();
                    return;
                }
                _ = self.looks.tick() => {
                    let stamps = self.stamps();
                    // A file that is being replaced may be absent for a moment.
                    if stamps.is_some() && stamps != self.seen {
                        self.seen = stamps;
                        return;
                    }
                }
            }
        }
    }

    fn stamps(&self) -> Option<Vec<Stamp>> {
        self.paths.iter().map(|path| Stamp::of(path)).collect()
    }
}

/// Interval of file checks. Network and container file systems often lack change notifications.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
