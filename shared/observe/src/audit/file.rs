//! The file of the log: continues its chain, rotates, and keeps a bounded number of old files.
//!
//! The file `NAME.head` holds the head of the chain and the number of the first record in the file, so
//! that an emptied, deleted or shortened file is noticed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_core::limits::MIB;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::chain::{ChainFields, ChainHead, head_of};
use super::error::AuditError;
use super::recent::RECENT_BYTES;
use super::settings::FileSettings;

/// The open file.
pub(super) struct AuditFile {
    settings: FileSettings,
    file: File,
    inode: (u64, u64),
    length: u64,
    /// Time of the first record in the file.
    first: Option<UnixMillis>,
    /// Number of the first record in the file.
    begins: u64,
    is_dirty: bool,
}

/// State of a file that was opened.
pub(super) struct Opened {
    pub file: AuditFile,
    /// Head of the chain to continue.
    pub head: ChainHead,
    /// Bytes of an incomplete last line, which were removed.
    pub torn: u64,
    /// Head that `NAME.head` names, if records up to it are missing in the file.
    pub missing: Option<ChainHead>,
    /// The last lines.
    pub last: Vec<u8>,
}

/// Result of a repair.
struct Repaired {
    /// Head of the last record, if there is one.
    head: Option<ChainHead>,
    /// Bytes that were removed.
    torn: u64,
    /// The last lines.
    last: Vec<u8>,
}

/// A rotation.
pub(super) struct Rotated {
    /// New name of the file.
    pub to: PathBuf,
    /// Files beyond the retention, which the caller deletes once this is recorded.
    pub expired: Vec<PathBuf>,
    /// Number of the oldest record that stays.
    pub oldest: u64,
}

/// Change of the file by another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// The file was renamed, as by logrotate.
    Renamed,
    Deleted,
    /// The file was shortened, as by logrotate's `copytruncate`.
    Emptied,
}

/// Number of bytes at the end of a file in which the last line must begin: many times the longest
/// record.
const TAIL_BYTES: u64 = MIB;

/// Beginning of every record.
const RECORD_START: &[u8] = b"{\"seq\":";

impl AuditFile {
    /// Opens or creates the file, and finds the head of its chain.
    pub(super) fn open(settings: &FileSettings) -> Result<Opened, AuditError> {
        let path = &settings.path;
        let failed = AuditError::file(path);
        let mut file = Self::attach(settings).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => AuditError::InUse { path: path.clone() },
            _ => failed(error),
        })?;
        let Repaired {
            head: found,
            torn,
            last,
        } = file.repair()?;

        let kept = read_kept(path);
        let is_missing = |kept: &Kept| match found {
            Some(found) => found.seq < kept.head.seq,
            // The head of a file that has just been rotated is before its first record.
            None => kept.begins <= kept.head.seq,
        };
        let missing = kept.filter(is_missing).map(|kept| kept.head);
        let kept = kept.map(|kept| kept.head);
        let head = missing.or(found).or(kept).unwrap_or_default();
        if found.is_none() {
            file.begins = head.seq + 1;
        }
        Ok(Opened {
            head,
            file,
            torn,
            missing,
            last,
        })
    }

    /// Opens and locks the file.
    fn attach(settings: &FileSettings) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&settings.path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }

        let metadata = file.metadata()?;
        let first = first_record(&settings.path);
        Ok(Self {
            settings: settings.clone(),
            file,
            inode: (metadata.dev(), metadata.ino()),
            length: metadata.len(),
            first: first.map(|(_, time)| time),
            begins: first.map_or(1, |(seq, _)| seq),
            is_dirty: false,
        })
    }

    /// Removes an incomplete last line, which a crash left.
    fn repair(&mut self) -> Result<Repaired, AuditError> {
        let path = self.settings.path.clone();
        let failed = AuditError::file(&path);
        let start = self.length.saturating_sub(TAIL_BYTES);
        let mut tail = Vec::new();
        self.file.seek(SeekFrom::Start(start)).map_err(&failed)?;
        (&mut self.file)
            .take(TAIL_BYTES)
            .read_to_end(&mut tail)
            .map_err(&failed)?;

        let complete = tail
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let torn = (tail.len() - complete) as u64;
        if complete == 0 && (start > 0 || !is_torn_record(&tail)) {
            return Err(AuditError::Foreign { path });
        }
        if torn > 0 {
            self.length -= torn;
            self.file.set_len(self.length).map_err(&failed)?;
        }

        let lines = tail.get(..complete.saturating_sub(1)).unwrap_or_default();
        match lines.rsplit(|byte| *byte == b'\n').next() {
            None | Some([]) => Ok(Repaired {
                head: None,
                torn,
                last: Vec::new(),
            }),
            Some(last) => match head_of(last) {
                Some(head) => Ok(Repaired {
                    head: Some(head),
                    torn,
                    last: last_lines(lines, RECENT_BYTES).to_vec(),
                }),
                None => Err(AuditError::Foreign { path }),
            },
        }
    }

    /// Appends bytes. Returns how many were written, which may be fewer before an error.
    pub(super) fn append(&mut self, bytes: &[u8], now: UnixMillis) -> (usize, io::Result<()>) {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    written += count;
                    self.length += count as u64;
                    self.is_dirty = true;
                    self.first.get_or_insert(now);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// Flushes what was written to the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.is_dirty {
            self.file.sync_data()?;
            self.is_dirty = false;
        }
        Ok(())
    }

    /// Opens the path again if it names another file now, as after logrotate. The chain goes on.
    pub(super) fn reopen_if_moved(&mut self, head: ChainHead) -> io::Result<Option<Moved>> {
        let inode = fs::metadata(&self.settings.path).map(|file| (file.dev(), file.ino()));
        if inode.is_ok_and(|inode| inode == self.inode) {
            // logrotate's copytruncate empties the same file.
            let length = self.file.metadata()?.len();
            if length >= self.length {
                return Ok(None);
            }
            (self.length, self.first) = (length, None);
            self.begin_after(head)?;
            return Ok(Some(Moved::Emptied));
        }

        self.sync()?;
        let moved = match self.file.metadata()?.nlink() {
            0 => Moved::Deleted,
            _ => Moved::Renamed,
        };
        *self = Self::attach(&self.settings)?;
        self.begin_after(head)?;
        Ok(Some(moved))
    }

    /// Records beside the file that it begins after this head.
    fn begin_after(&mut self, head: ChainHead) -> io::Result<()> {
        if self.length == 0 {
            self.begins = head.seq + 1;
        }
        self.keep_head(head)
    }

    /// Returns `true` if the file is due for rotation.
    pub(super) fn is_due(&self, now: UnixMillis) -> bool {
        let age = self
            .first
            .map(|first| Duration::from_millis(now.0.saturating_sub(first.0)));
        let is_old = match (age, self.settings.rotate_age) {
            (Some(age), Some(limit)) => age >= limit,
            _ => false,
        };
        self.length > 0 && (self.length >= self.settings.rotate_size || is_old)
    }

    /// Renames the file, begins a new one, and finds the files beyond the retention.
    pub(super) fn rotate(&mut self, head: ChainHead, now: UnixMillis) -> io::Result<Rotated> {
        self.sync()?;
        self.keep_head(head)?;
        let to = rotated_path(&self.settings.path, head, now);
        fs::rename(&self.settings.path, &to)?;
        *self = Self::attach(&self.settings)?;
        self.begin_after(head)?;
        sync_dir(&self.settings.path)?;

        let (expired, kept) = self.expired(now)?;
        let oldest = kept.first().and_then(|file| first_record(file));
        Ok(Rotated {
            to,
            expired,
            oldest: oldest.map_or(self.begins, |(seq, _)| seq),
        })
    }

    /// Stores the head of the chain beside the file.
    pub(super) fn keep_head(&self, head: ChainHead) -> io::Result<()> {
        let kept = Kept {
            head,
            begins: self.begins,
        };
        write_kept(&self.settings.path, kept)
    }

    /// Returns the rotated files beyond the retention, and the others, both oldest first.
    fn expired(&self, now: UnixMillis) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let mut old = rotated_files(&self.settings.path)?;
        let over = old.len().saturating_sub(self.settings.keep);
        let mut expired: Vec<_> = old.drain(..over).collect();

        let is_expired = |path: &PathBuf| {
            let modified = fs::metadata(path).and_then(|file| file.modified());
            let age = modified
                .ok()
                .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
                .map(|at| Duration::from_millis(now.0).saturating_sub(at));
            age.zip(self.settings.keep_for)
                .is_some_and(|(age, limit)| age > limit)
        };
        let (aged, kept): (Vec<_>, Vec<_>) = old.into_iter().partition(is_expired);
        expired.extend(aged);
        Ok((expired, kept))
    }
}

/// Returns `true` for the beginning of a record, as a crash leaves it: cut off, or with zeros for what
/// did not reach the disk.
fn is_torn_record(bytes: &[u8]) -> bool {
    let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let rest = bytes.get(..bytes.len() - zeros).unwrap_or_default();
    rest.starts_with(RECORD_START) || RECORD_START.starts_with(rest)
}

/// Returns `NAME.TIME.SEQ`: sorted by name, the files are in the order of their records.
fn rotated_path(path: &Path, head: ChainHead, now: UnixMillis) -> PathBuf {
    let seconds = now.to_rfc3339();
    let seconds = seconds.split('.').next().unwrap_or_default();
    let compact: String = seconds
        .chars()
        .filter(|c| !matches!(c, '-' | ':'))
        .chain(['Z'])
        .collect();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{compact}.{:012}", head.seq));
    PathBuf::from(name)
}

/// Returns the files that [`AuditFile::rotate`] made from this one, oldest first.
pub(super) fn rotated_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let dir = match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    };
    let is_rotated = |file: &str| {
        let rest = file
            .strip_prefix(&*name.to_string_lossy())
            .and_then(|rest| rest.strip_prefix('.'));
        rest.and_then(|rest| rest.split_once('.'))
            .is_some_and(|(time, seq)| {
                time.ends_with('Z')
                    && seq.len() >= 12
                    && seq.bytes().all(|byte| byte.is_ascii_digit())
            })
    };

    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_rotated) {
            files.push(entry.path());
        }
    }
    // The number of the last record orders them, also if the clock was set back.
    files.sort_by_key(|file| {
        let name = file.to_string_lossy();
        name.rsplit('.')
            .next()
            .and_then(|seq| seq.parse::<u64>().ok())
    });
    Ok(files)
}

fn head_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".head");
    PathBuf::from(name)
}

/// Content of `NAME.head`.
#[derive(Debug, Clone, Copy)]
struct Kept {
    head: ChainHead,
    /// Number of the first record in the file.
    begins: u64,
}

/// Returns the head that was stored beside the file.
pub(super) fn read_head(path: &Path) -> Option<ChainHead> {
    read_kept(path).map(|kept| kept.head)
}

fn read_kept(path: &Path) -> Option<Kept> {
    let text = fs::read_to_string(head_path(path)).ok()?;
    let mut words = text.split_whitespace();
    Some(Kept {
        head: ChainHead::parse(words.next()?)?,
        begins: words.next()?.parse().ok()?,
    })
}

fn write_kept(path: &Path, kept: Kept) -> io::Result<()> {
    let target = head_path(path);
    let mut temporary = target.clone().into_os_string();
    temporary.push(".new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    writeln!(file, "{} {}", kept.head, kept.begins)?;
    file.sync_all()?;
    fs::rename(&temporary, target)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => File::open(dir)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// Returns number and time of the first record in a file.
fn first_record(path: &Path) -> Option<(u64, UnixMillis)> {
    let mut start = Vec::new();
    File::open(path)
        .ok()?
        .take(TAIL_BYTES)
        .read_to_end(&mut start)
        .ok()?;
    let line = start.split(|byte| *byte == b'\n').next()?;
    let fields: ChainFields = serde_json::from_slice(line).ok()?;
    let time = OffsetDateTime::parse(&fields.time, &Rfc3339).ok()?;
    let millis = u64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()?;
    Some((fields.seq, UnixMillis(millis)))
}

/// Returns the last whole lines, of at most this number of bytes.
fn last_lines(lines: &[u8], most: usize) -> &[u8] {
    let start = lines.len().saturating_sub(most);
    let tail = lines.get(start..).unwrap_or_default();
    match start {
        0 => tail,
        // The first line may be incomplete.
        _ => tail
            .iter()
            .position(|byte| *byte == b'\n')
            .and_then(|end| tail.get(end + 1..))
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn settings(dir: &TempDir) -> FileSettings {
        FileSettings {
            path: dir.path().join("audit.log"),
            rotate_size: 64 * 1024,
            rotate_age: Some(Duration::from_secs(3600)),
            keep: 2,
            keep_for: None,
        }
    }

    fn write(file: &mut AuditFile, head: &mut ChainHead, now: UnixMillis) {
        let mut line = Vec::new();
        let fields = format!("{{\"time\":\"{}\",\"event\":\"test\"}}", now.to_rfc3339());
        head.seal(fields.as_bytes(), &mut line);
        let (_, written) = file.append(&line, now);
        written.unwrap();
    }

    #[test]
    fn the_chain_goes_on_after_a_restart_and_a_rotation() {
        let dir = TempDir::new().unwrap();
        let now = UnixMillis(1_800_000_000_000);
        let Opened {
            mut file, mut head, ..
        } = AuditFile::open(&settings(&dir)).unwrap();
        write(&mut file, &mut head, now);
        drop(file);

        let opened = AuditFile::open(&settings(&dir)).unwrap();
        assert_eq!((opened.head, opened.torn), (head, 0));
        let mut file = opened.file;
        assert!(!file.is_due(now));
        assert!(file.is_due(UnixMillis(now.0 + 3_600_000)));
        file.rotate(head, now).unwrap();
        drop(file);

        let opened = AuditFile::open(&settings(&dir)).unwrap();
        assert_eq!(opened.head, head);
        assert!(opened.missing.is_none());
    }

    #[test]
    fn old_files_are_deleted() {
        let dir = TempDir::new().unwrap();
        let now = UnixMillis(1_800_000_000_000);
        let Opened {
            mut file, mut head, ..
        } = AuditFile::open(&settings(&dir)).unwrap();
        let mut oldest = 0;
        for _ in 0..4 {
            write(&mut file, &mut head, now);
            let rotated = file.rotate(head, now).unwrap();
            oldest = rotated.oldest;
            for path in rotated.expired {
                fs::remove_file(path).unwrap();
            }
        }
        assert_eq!(oldest, 3, "two files with a record each stay");
        let kept = rotated_files(&settings(&dir).path).unwrap();
        assert_eq!(kept.len(), 2);
        assert!(
            kept[1]
                .to_string_lossy()
                .ends_with(".20270115T080000Z.000000000004"),
            "{kept:?}"
        );
    }

    #[test]
    fn a_torn_line_is_removed_and_missing_records_are_noticed() {
        let dir = TempDir::new().unwrap();
        let now = UnixMillis(1_800_000_000_000);
        let path = settings(&dir).path;
        let Opened {
            mut file, mut head, ..
        } = AuditFile::open(&settings(&dir)).unwrap();
        write(&mut file, &mut head, now);
        let first = head;
        write(&mut file, &mut head, now);
        file.keep_head(head).unwrap();
        drop(file);

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        let opened = AuditFile::open(&settings(&dir)).unwrap();
        assert!(opened.torn > 0);
        assert_eq!(opened.missing, Some(head));
        assert_eq!(
            head_of(fs::read_to_string(&path).unwrap().trim_end().as_bytes()),
            Some(first)
        );
    }

    #[test]
    fn a_deleted_file_is_noticed_and_a_rotated_one_is_not() {
        let dir = TempDir::new().unwrap();
        let now = UnixMillis(1_800_000_000_000);
        let path = settings(&dir).path;
        let Opened {
            mut file, mut head, ..
        } = AuditFile::open(&settings(&dir)).unwrap();
        write(&mut file, &mut head, now);
        file.keep_head(head).unwrap();
        drop(file);
        fs::remove_file(&path).unwrap();
        let opened = AuditFile::open(&settings(&dir)).unwrap();
        assert_eq!((opened.missing, opened.head), (Some(head), head));

        // logrotate renames the file: what follows begins a new one, also across a restart.
        let (mut file, mut head) = (opened.file, opened.head);
        write(&mut file, &mut head, now);
        fs::rename(&path, dir.path().join("audit.log.1")).unwrap();
        assert_eq!(file.reopen_if_moved(head).unwrap(), Some(Moved::Renamed));
        fs::remove_file(&path).unwrap();
        assert_eq!(file.reopen_if_moved(head).unwrap(), Some(Moved::Deleted));
        write(&mut file, &mut head, now);
        fs::write(&path, "").unwrap();
        assert_eq!(file.reopen_if_moved(head).unwrap(), Some(Moved::Emptied));
        assert_eq!(file.reopen_if_moved(head).unwrap(), None);
        drop(file);
        let opened = AuditFile::open(&settings(&dir)).unwrap();
        assert_eq!((opened.missing, opened.head), (None, head));
    }

    #[test]
    fn a_foreign_file_and_a_second_writer_are_refused() {
        let dir = TempDir::new().unwrap();
        let path = settings(&dir).path;
        fs::write(&path, "127.0.0.1 - - GET /\n").unwrap();
        assert!(matches!(
            AuditFile::open(&settings(&dir)),
            Err(AuditError::Foreign { .. })
        ));

        // What a crash leaves of a first record is none of another program.
        for torn in ["{\"s", "{\"seq\":1,\"pr\0\0\0", "\0\0"] {
            fs::write(&path, torn).unwrap();
            assert!(AuditFile::open(&settings(&dir)).is_ok(), "{torn:?}");
        }

        fs::remove_file(&path).unwrap();
        let _first = AuditFile::open(&settings(&dir)).unwrap();
        assert!(matches!(
            AuditFile::open(&settings(&dir)),
            Err(AuditError::InUse { .. })
        ));
    }
}
