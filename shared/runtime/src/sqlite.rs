//! Opening of SQLite databases: the one place for pragmas, schema versions and migrations.
//!
//! `PRAGMA user_version` is the number of applied migrations. A file of a newer version of Hookward
//! is an error, because an old program must not write to tables that it does not know. [`writer`]
//! is the one way to write.

pub mod writer;

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::process;

/// Schema of a database.
#[derive(Debug)]
pub struct Schema {
    /// Durability of commits.
    pub durability: Durability,
    /// `true` if the file gives freed pages back to the disk by `PRAGMA incremental_vacuum`.
    pub incremental_vacuum: bool,
    /// Migrations in order. Each runs in the transaction that increments `user_version`. Released
    /// migrations never change.
    pub migrations: &'static [Migration],
}

/// Migration to the next version of a schema.
pub(crate) type Migration = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// Events that a commit survives (`PRAGMA synchronous`, in WAL mode).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Power loss, and the end of the process.
    Full,
    /// The end of the process. Power loss may undo the last commits, and leaves the file intact.
    Process,
}

/// Failure to open or use a database.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The system refused access to a file.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// SQLite failed.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// The system did not start the writer thread.
    #[error("the writer thread of {path} did not start: {source}")]
    Thread {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A newer version of Hookward wrote the file.
    #[error(
        "{path} has schema version {found}, and this version of Hookward knows up to {known}: \
         run the newer version, or restore a backup from before the upgrade"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The file's version.
        found: usize,
        /// The newest version that this program knows.
        known: usize,
    },
}

impl SqliteError {
    /// Returns `true` if the file is truncated, overwritten or not a database.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};

        matches!(self, Self::Database { source, .. }
            if matches!(source.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)))
    }
}

/// Opens a database and brings its schema up to date. Creates the file with mode 0600 if there is
/// none; SQLite gives its `-wal` and `-shm` files the same mode.
///
/// # Errors
/// [`SqliteError`].
pub fn open(path: &Path, schema: &Schema) -> Result<Connection, SqliteError> {
    // SQLite would create the file with mode 0644, and its error would not name the cause. An existing
    // file must not be opened: closing it would drop the locks of this process's connections
    // (sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    let created = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        // Closed before SQLite opens it, for the same reason.
        .map(drop);
    match created {
        Err(_) if path.is_dir() => {
            return Err(SqliteError::File {
                path: path.to_owned(),
                source: io::Error::from_raw_os_error(EISDIR),
            });
        }
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            return Err(SqliteError::File {
                path: path.to_owned(),
                source,
            });
        }
        _ => {}
    }

    prepare(Connection::open(path), path, schema)
}

/// Opens an in-memory database.
///
/// # Errors
/// [`SqliteError::Database`].
pub fn open_in_memory(schema: &Schema) -> Result<Connection, SqliteError> {
    prepare(
        Connection::open_in_memory(),
        Path::new("(in memory)"),
        schema,
    )
}

/// Returns a function that adds the file's path to SQLite's errors.
pub fn failed(path: &Path) -> impl Fn(rusqlite::Error) -> SqliteError {
    move |source| SqliteError::Database {
        path: path.to_owned(),
        source,
    }
}

/// Renames a damaged database, and SQLite's files beside it, to NAME.damaged-DATE. Returns the new
/// path of the database.
///
/// # Errors
/// [`SqliteError::File`].
pub fn set_aside(path: &Path, now: UnixMillis) -> Result<PathBuf, SqliteError> {
    let file_error = |path: &Path, source| SqliteError::File {
        path: path.to_owned(),
        source,
    };
    let aside = process::set_aside(path, now).map_err(|source| file_error(path, source))?;

    // SQLite would apply the log of the damaged database to a new one.
    for suffix in ["-wal", "-shm"] {
        let [from, to] = [path, &aside].map(|path| {
            let mut beside = path.as_os_str().to_owned();
            beside.push(suffix);
            PathBuf::from(beside)
        });

        match fs::rename(&from, to) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(file_error(&from, source));
            }
            _ => {}
        }
    }

    Ok(aside)
}

fn prepare(
    connection: rusqlite::Result<Connection>,
    path: &Path,
    schema: &Schema,
) -> Result<Connection, SqliteError> {
    let mut connection = connection.map_err(failed(path))?;
    configure(&connection).map_err(failed(path))?;

    // Before the pragmas, because `journal_mode` writes to the file.
    let (found, known) = (
        version(&connection).map_err(failed(path))?,
        schema.migrations.len(),
    );
    if found > known {
        return Err(SqliteError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }

    set_pragmas(&connection, schema.durability).map_err(failed(path))?;
    if schema.incremental_vacuum {
        enable_incremental_vacuum(&connection).map_err(failed(path))?;
    }
    if (1..known).contains(&found) {
        // An interrupted migration has left it.
        let _ = fs::remove_file(backup_path(path, found));
        back_up(&connection, &backup_path(path, found)).map_err(failed(path))?;
    }
    migrate(&mut connection, schema.migrations).map_err(failed(path))?;

    Ok(connection)
}

/// Copies the database to a new file while others may use it. Overwrites no file.
///
/// # Errors
/// SQLite's error, also if the file exists.
pub fn back_up(connection: &Connection, to: &Path) -> rusqlite::Result<()> {
    // The copy must not be readable by others, not even for a moment.
    let is_new = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .map(drop);
    if let Err(error) = is_new {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        let text = format!("{}: {error}", to.display());
        return Err(rusqlite::Error::SqliteFailure(code, Some(text)));
    }
    // `VACUUM INTO` accepts an empty file.
    connection.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
    Ok(())
}

/// Opens a database only to read it, beside programs that write.
///
/// # Errors
/// [`SqliteError::Database`].
pub fn open_to_read(path: &Path) -> Result<Connection, SqliteError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed(path))?;
    configure(&connection).map_err(failed(path))?;
    Ok(connection)
}

/// Checks every page, row and index. Returns the faults.
///
/// # Errors
/// [`SqliteError::Database`], also if the file is no database.
pub fn faults(path: &Path) -> Result<Vec<String>, SqliteError> {
    let connection = open_to_read(path)?;
    let read = || {
        let mut check = connection.prepare("PRAGMA integrity_check(20)")?;
        let lines = check.query_map([], |row| row.get::<_, String>(0))?;
        lines.collect::<rusqlite::Result<Vec<_>>>()
    };
    let mut lines = read().map_err(failed(path))?;
    lines.retain(|line| line != "ok");
    Ok(lines)
}

/// Gives the free pages of a database back to the disk, in slices, so that other programs can write
/// in between. The database must have been opened with [`Schema::incremental_vacuum`].
///
/// # Errors
/// [`SqliteError::Database`].
pub fn shrink(path: &Path) -> Result<(), SqliteError> {
    let connection = Connection::open(path).map_err(failed(path))?;
    let shrink = || {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        while release_pages(&connection, SLICE_PAGES)? > 0 {}
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    };
    shrink().map_err(failed(path))
}

/// Releases up to `most` free pages of a database. Returns their number.
///
/// # Errors
/// SQLite's error.
pub fn release_pages(connection: &Connection, most: u32) -> rusqlite::Result<i64> {
    let count = || connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, i64>(0));
    let before = count()?;
    if before == 0 {
        return Ok(0);
    }

    // Each step frees one page (sqlite.org/pragma.html#pragma_incremental_vacuum).
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({most})"))?;
    let mut steps = statement.query([])?;
    while steps.next()?.is_some() {}
    drop(steps);
    Ok(before - count()?)
}

/// Number of pages that are released at once: a few milliseconds.
const SLICE_PAGES: u32 = 500;

/// Returns the path of the backup before a migration.
fn backup_path(path: &Path, version: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".version-{version}"));
    PathBuf::from(name)
}

/// Returns an error if a page of the database is damaged.
///
/// # Errors
/// SQLite's error, or the first fault that it finds.
pub fn check(connection: &Connection) -> rusqlite::Result<()> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let corrupt = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(corrupt, Some(found)))
}

/// Lets the file shrink. A file that was created without this is rewritten once.
fn enable_incremental_vacuum(connection: &Connection) -> rusqlite::Result<()> {
    const INCREMENTAL: i64 = 2;

    let mode = connection.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0))?;
    if mode != INCREMENTAL {
        connection.pragma_update(None, "auto_vacuum", INCREMENTAL)?;
        connection.execute_batch("VACUUM")?;
    }
    Ok(())
}

/// Sets what every connection has in common.
fn configure(connection: &Connection) -> rusqlite::Result<()> {
    set_busy_timeout(connection)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    // Otherwise SQLite compiles a statement with `LIMIT ?1` again for each value.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// Makes a connection wait for locks of others, as each does from the beginning.
///
/// # Errors
/// SQLite's error.
pub fn set_busy_timeout(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)
}

fn set_pragmas(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Process => "NORMAL",
    };

    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", synchronous)?;
    connection.pragma_update(None, "foreign_keys", true)
}

/// Runs the pending migrations.
fn migrate(connection: &mut Connection, migrations: &[Migration]) -> rusqlite::Result<()> {
    if version(connection)? >= migrations.len() {
        return Ok(());
    }

    // Another process may have migrated meanwhile, so the version is read inside the transaction.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    for (number, migration) in migrations.iter().enumerate().skip(found) {
        migration(&transaction)?;
        transaction.pragma_update(None, "user_version", (number + 1) as i64)?;
    }

    transaction.commit()
}

/// Returns the schema version of the file. Hookward never writes a negative one, so it counts as
/// newer.
fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version =
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
    Ok(usize::try_from(version).unwrap_or(usize::MAX))
}

/// Error code of the system for a directory (errno(3)).
const EISDIR: i32 = 21;

/// Number of compiled statements that a connection keeps: more than any writer has.
const CACHED_STATEMENTS: usize = 64;

/// Maximum wait for a lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    const ONE: Schema = Schema {
        durability: Durability::Full,
        incremental_vacuum: false,
        migrations: &[|db| db.execute_batch("CREATE TABLE a (x INTEGER)")],
    };
    const TWO: Schema = Schema {
        durability: Durability::Full,
        incremental_vacuum: false,
        migrations: &[
            |db| db.execute_batch("CREATE TABLE a (x INTEGER)"),
            |db| db.execute_batch("ALTER TABLE a ADD COLUMN y INTEGER"),
        ],
    };

    #[test]
    fn a_file_is_migrated_once_and_refused_by_an_older_program() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");

        open(&path, &ONE)
            .unwrap()
            .execute("INSERT INTO a VALUES (1)", [])
            .unwrap();
        for _ in 0..2 {
            let db = open(&path, &TWO).unwrap();
            let row: (i64, Option<i64>) = db
                .query_row("SELECT x, y FROM a", [], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .unwrap();
            assert_eq!(row, (1, None));
        }

        let error = open(&path, &ONE).unwrap_err();
        assert!(
            matches!(
                error,
                SqliteError::Newer {
                    found: 2,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
        assert!(!error.is_damage());
    }

    #[test]
    fn a_failed_migration_leaves_the_file_as_it_was() {
        const BROKEN: Schema = Schema {
            durability: Durability::Full,
            incremental_vacuum: false,
            migrations: &[
                |db| db.execute_batch("CREATE TABLE a (x INTEGER)"),
                |db| db.execute_batch("ALTER TABLE a ADD COLUMN y INTEGER; no SQL"),
            ],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");

        open(&path, &ONE).unwrap();
        open(&path, &BROKEN).unwrap_err();
        open(&path, &TWO).unwrap();
    }

    #[test]
    fn a_cached_statement_is_compiled_once() {
        let db = open_in_memory(&ONE).unwrap();
        for most in [1, 2, 3] {
            let mut select = db.prepare_cached("SELECT x FROM a LIMIT ?1").unwrap();
            assert!(select.query([most]).unwrap().next().unwrap().is_none());
            assert_eq!(select.get_status(StatementStatus::RePrepare), 0);
        }
    }

    #[test]
    fn a_file_that_is_no_database_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        fs::write(&path, vec![b'x'; 4096]).unwrap();

        assert!(open(&path, &ONE).unwrap_err().is_damage());
    }

    /// A lock that is lost lets another program remove the log of a running one
    /// (sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
    #[test]
    fn a_file_is_locked_from_its_creation_on() {
        use std::os::unix::fs::MetadataExt as _;

        let dir = tempfile::tempdir().unwrap();
        for name in ["a.db", "b.db"] {
            let path = dir.path().join(name);
            let connection = open(&path, &ONE).unwrap();
            connection.execute("INSERT INTO a VALUES (1)", []).unwrap();
            let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
            let process = format!(" {} ", std::process::id());
            let locks = fs::read_to_string("/proc/locks").unwrap();
            let mut locks = locks.lines();
            assert!(
                locks.any(|lock| lock.contains(&inode) && lock.contains(&process)),
                "{name}"
            );
        }
    }
}
