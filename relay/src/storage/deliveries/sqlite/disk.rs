//! The disk below the delivery file: its free space, and recovery after a failed flush.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Guard of the disk's last space; clones share it.
#[derive(Clone)]
pub(super) struct DiskGuard(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    log: PathBuf,
    is_full: AtomicBool,
    // A std mutex: it guards one reading, and nothing waits while it is held.
    last: Mutex<Option<(Instant, Space)>>,
}

impl DiskGuard {
    pub(super) fn new(file: &Path) -> Self {
        let dir = file.parent().unwrap_or(Path::new("/")).to_owned();
        Self(Arc::new(Inner {
            dir,
            log: log_of(file),
            is_full: AtomicBool::new(false),
            last: Mutex::new(None),
        }))
    }

    /// Records that the system has refused a write for lack of space.
    pub(super) fn note_full(&self) {
        self.0.is_full.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if too little of the disk is free for these bytes, until some more is free
    /// again.
    pub(super) fn is_full(&self, bytes: u64) -> bool {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|(at, _)| at.elapsed() >= CHECK_INTERVAL);
        if is_due {
            // Without a reading, writes decide.
            let space = Space::of(&self.0.dir, &self.0.log).ok();
            *last = space.map(|space| (Instant::now(), space));
        }

        let was_full = self.0.is_full.load(Ordering::Relaxed);
        let is_full = match &*last {
            Some((_, space)) => !space.holds(bytes, was_full),
            None => was_full,
        };
        self.0.is_full.store(is_full, Ordering::Relaxed);
        is_full
    }
}

/// Interval between two readings of the disk's free space, in which a fast disk takes a few MiB.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Space of a disk, in bytes.
#[derive(Clone, Copy)]
struct Space {
    size: u64,
    free: u64,
    /// Size of the write-ahead log, whose pages need room in the file, too.
    log: u64,
}

impl Space {
    fn of(dir: &Path, log: &Path) -> io::Result<Self> {
        let disk = rustix::fs::statvfs(dir)?;
        Ok(Self {
            size: disk.f_blocks.saturating_mul(disk.f_frsize),
            free: disk.f_bavail.saturating_mul(disk.f_frsize),
            log: std::fs::metadata(log).map_or(0, |log| log.len()),
        })
    }

    /// Returns `true` if there is room for these bytes, in the log and in the file, beside the space
    /// that stays free for other programs: 5 %, or as much as a large disk needs. A disk that was
    /// full needs a fifth more, so that the relay does not waver.
    fn holds(&self, bytes: u64, was_full: bool) -> bool {
        let reserve = (self.size / 20).min(LARGEST_RESERVE);
        let reserve = match was_full {
            true => reserve + reserve / 5,
            false => reserve,
        };
        self.free
            >= reserve
                .saturating_add(self.log)
                .saturating_add(bytes.saturating_mul(2))
    }
}

/// Maximum space that stays free, in bytes.
const LARGEST_RESERVE: u64 = 4 << 30;

/// Writes the write-ahead log of a database once more, and flushes it.
///
/// After a failed flush, the system counts pages as clean that are not on the disk, and a later
/// flush succeeds without them (Rebello et al., "Can Applications Recover from fsync Failures?",
/// 2020). Writing the same bytes makes them dirty again. No connection of this process may be
/// writing.
///
/// # Errors
/// The system's error; the log is unchanged.
pub(super) fn rewrite_log(database: &Path) -> io::Result<()> {
    let log = log_of(database);
    let file = match OpenOptions::new().read(true).write(true).open(log) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };

    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0;
    loop {
        let count = file.read_at(&mut chunk, at)?;
        let Some(bytes) = chunk.get(..count).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        file.write_all_at(bytes, at)?;
        at += count as u64;
    }
    file.sync_all()
}

/// Returns the size of a database's write-ahead log, in bytes.
pub(super) fn log_bytes(database: &Path) -> u64 {
    std::fs::metadata(log_of(database)).map_or(0, |log| log.len())
}

/// Returns the path of a database's write-ahead log.
fn log_of(database: &Path) -> PathBuf {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    PathBuf::from(log)
}

/// Number of bytes of the log in memory at once.
const CHUNK_BYTES: usize = 1024 * 1024;
