//! When a file is to be read again: it was changed, or the process got SIGHUP.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// Waits for changes of one file.
pub struct Reloads {
    path: Option<PathBuf>,
    seen: Option<Stamp>,
    hangup: Signal,
    looks: Interval,
}

/// State of a file that differs between its versions.
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
    /// Begins to wait, from the file as it is now. Without a file only SIGHUP counts.
    ///
    /// # Errors
    /// What the system says of the signal.
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

    /// The next time. Cancelling it loses nothing.
    pub async fn next(&mut self) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    self.seen = self.path.as_deref().and_then(Stamp::of);
                    return;
                }
                _ = self.looks.tick() => {
                    let stamp = self.path.as_deref().and_then(Stamp::of);
                    // A file that is being replaced is not there for a moment.
                    if stamp.is_some() && stamp != self.seen {
                        self.seen = stamp;
                        return;
                    }
                }
            }
        }
    }
}

/// Interval between two looks at the file. Network and container file systems often lack
/// notifications of changes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
