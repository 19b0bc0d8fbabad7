//! Triggers of a reload: a changed file, or SIGHUP.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Waits for changes of one file, and for SIGHUP.
pub struct Reloads {
    path: Option<PathBuf>,
    seen: Option<Stamp>,
    hangup: Signal,
    looks: Interval,
}

/// Properties of a file that change with its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

impl Reloads {
    /// Starts to wait, from the current state of the file. Without a file only SIGHUP counts.
    ///
    /// # Errors
    /// The system refused the signal handler.
    pub fn new(path: Option<&Path>) -> io::Result<Self> {
        let mut looks = interval(POLL_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            seen: path.and_then(Stamp::of),
            path: path.map(Path::to_owned),
            hangup: signal(SignalKind::hangup())?,
            looks,
        })
    }

    /// Resolves at the next reload. Cancel-safe.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.seen = self.path.as_deref().and_then(Stamp::of);
                    return;
                }
                _ = self.looks.tick() => {
                    let stamp = self.path.as_deref().and_then(Stamp::of);
                    // A file that is being replaced may be absent for a moment.
                    if stamp.is_some() && stamp != self.seen {
                        self.seen = stamp;
                        return;
                    }
                }
            }
        }
    }
}

/// Interval of file checks. Network and container file systems often lack change notifications.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
