//! Process setup: log, file descriptors, and private files.

mod log;
mod signals;

use std::fs;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::log::{LogError, LogFile, LogHold, hold_log, start_log};
pub use self::signals::ShutdownSignals;
use hookward_core::clock::UnixMillis;
use time::OffsetDateTime;

/// Raises the soft limit of open files to the hard limit. Returns the limit in force.
///
/// # Errors
/// Error of the system.
pub fn raise_file_limit() -> io::Result<u64> {
    rlimit::increase_nofile_limit(rlimit::Resource::NOFILE.get_hard().unwrap_or(u64::MAX))
}

/// Returns the soft and the hard limit of open files.
///
/// # Errors
/// Error of the system.
pub fn file_limit() -> io::Result<(u64, u64)> {
    rlimit::Resource::NOFILE.get()
}

/// Creates a directory and its parents, readable only to the owner. Warns of an existing directory
/// that other users can write to, because they could replace its files.
///
/// # Errors
/// Error of the system.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;

    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & OTHERS_WRITE != 0 {
        let dir = dir.display();
        tracing::warn!(
            "other users can write to {dir}, where keys and credentials are kept: chmod 700 {dir}"
        );
    }

    Ok(())
}

/// Write permissions of a file's group and of all others.
const OTHERS_WRITE: u32 = 0o022;

/// Access of users other than the owner to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherUsers {
    /// Other users have no access.
    NoAccess,
    /// Members of its group.
    GroupReads,
    /// Every user can read it.
    Read,
}

/// Returns the access that other users have to a file.
///
/// # Errors
/// Error of the system.
pub fn access_of_others(path: &Path) -> io::Result<OtherUsers> {
    let mode = fs::metadata(path)?.permissions().mode();
    Ok(match (mode & OTHERS, mode & GROUP) {
        (0, 0) => OtherUsers::NoAccess,
        (0, _) => OtherUsers::GroupReads,
        _ => OtherUsers::Read,
    })
}

/// Permissions of a file's group.
const GROUP: u32 = 0o070;

/// Permissions of users other than the owner and its group.
const OTHERS: u32 = 0o007;

/// Exclusive lock of a directory, until it is dropped.
#[derive(Debug)]
pub struct DirLock(
    // Held open, because closing it releases the lock.
    #[expect(dead_code, reason = "it is held, not used")] fs::File,
);

/// Failure to lock a directory.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has the lock, and described itself in the file.
    #[error("{0}")]
    Locked(String),
    /// The lock file failed.
    #[error(transparent)]
    File(#[from] io::Error),
}

impl DirLock {
    /// Locks the directory with a file of this name. `word` describes the owner to other processes.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(dir: &Path, name: &str, word: &str) -> Result<Self, LockError> {
        let path = dir.join(name);
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut other = String::new();
                // An unreadable description does not justify taking the directory.
                let _ = (&mut file).take(OWNER_BYTES).read_to_string(&mut other);
                return Err(LockError::Locked(other));
            }
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }

        file.set_len(0)?;
        file.write_all(word.as_bytes())?;
        Ok(Self(file))
    }
}

/// Maximum number of bytes to read from a lock file.
const OWNER_BYTES: u64 = 200;

/// Removes temporary files of these files that a killed process left in the directory, because they
/// contain secrets.
pub fn remove_leftovers(dir: &Path, files: &[&str]) {
    // Without a listing nothing can be removed, and the next read reports the reason.
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some((file, process)) = name
            .to_str()
            .and_then(|name| name.rsplit_once(TEMPORARY_MARK))
        else {
            continue;
        };
        let Some(process) = process
            .parse::<u32>()
            .ok()
            .filter(|_| files.contains(&file))
        else {
            continue;
        };

        let age = entry
            .metadata()
            .and_then(|file| file.modified())
            .ok()
            .and_then(|at| at.elapsed().ok());

        // Process ids of another container may repeat, but an old file has no writer.
        let is_old = age.is_some_and(|age| age >= WRITE_TIMEOUT);
        let is_writing =
            process == std::process::id() || Path::new("/proc").join(process.to_string()).exists();
        if is_old && !is_writing && fs::remove_file(entry.path()).is_ok() {
            tracing::info!(file = %entry.path().display(), "removed a temporary file of a process that was killed");
        }
    }
}

/// Separator between a file's name and the id of the process that writes it.
const TEMPORARY_MARK: &str = ".new-";

/// Time after which a temporary file has no writer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Renames a damaged file to NAME.damaged-DATE. Returns its new path.
///
/// # Errors
/// Error of the system.
pub fn set_aside(path: &Path, now: UnixMillis) -> io::Result<PathBuf> {
    let seconds = i64::try_from(now.seconds()).unwrap_or_default();
    let now = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, time) = (now.date(), now.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(
        ".damaged-{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z",
        time.hour(),
        time.minute(),
        time.second()
    ));

    let to = PathBuf::from(name);
    fs::rename(path, &to)?;
    Ok(to)
}

/// Writes a file that only its owner can read. The write is atomic, also across a power loss.
///
/// # Errors
/// Error of the system.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!("{TEMPORARY_MARK}{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let write = || {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;

        fs::rename(&temporary, path)
    };

    if let Err(error) = write() {
        // A partly written secret must not remain.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }

    let dir = path
        .parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));

    fs::File::open(dir)?.sync_all()
}
