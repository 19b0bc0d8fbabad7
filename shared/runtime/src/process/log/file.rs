//! Log file that follows its path, so that logrotate needs no signal.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A file to append lines to. When the path names another file, it opens that one.
pub struct LogFile {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
    checked: Instant,
}

/// Interval of checks of the path.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl LogFile {
    /// Opens or creates a file. Other users cannot read a new one, because it names clients.
    ///
    /// # Errors
    /// Error of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self {
            path: path.to_owned(),
            file,
            inode: (metadata.dev(), metadata.ino()),
            checked: Instant::now(),
        })
    }

    fn follow(&mut self) {
        if self.checked.elapsed() < CHECK_INTERVAL {
            return;
        }
        self.checked = Instant::now();

        let now = std::fs::metadata(&self.path).map(|file| (file.dev(), file.ino()));
        if now.is_ok_and(|now| now == self.inode) {
            return;
        }
        // Without a new file, the old one takes the lines.
        if let Ok(opened) = Self::open(&self.path) {
            *self = opened;
        }
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.follow();
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_file_is_replaced_by_a_new_one() {
        let dir = tempfile::TempDir::new().unwrap();
        let (path, old) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
        let mut log = LogFile::open(&path).unwrap();
        log.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();

        log.checked = log.checked.checked_sub(CHECK_INTERVAL).unwrap();
        log.write_all(b"two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }
}
