//! `hookward-relay storage …` checks, copies and shrinks the databases. It works on the data
//! directory, also beside a running relay.

use std::io;
use std::path::{Path, PathBuf};

use hookward_runtime::process;
use hookward_runtime::sqlite::{self, SqliteError};

use crate::certs::IDENTITY_FILE;
use crate::cli::{BackupArgs, StorageArgs, StorageCommand};
use crate::commands::{CommandError, say};
use crate::storage::STATE_FILE;
use crate::storage::deliveries::DELIVERIES_FILE;

/// Failure of a storage command.
#[derive(Debug, thiserror::Error)]
pub enum StorageCommandError {
    /// The directory holds no database.
    #[error("{0} holds no relay's data; name another directory with --data-dir")]
    NoData(PathBuf),
    /// A database is damaged or cannot be read.
    #[error(transparent)]
    Database(#[from] SqliteError),
    /// A file could not be copied.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
}

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) fn run(command: StorageCommand) -> Result<(), CommandError> {
    match command {
        StorageCommand::Check(args) => check(&args),
        StorageCommand::Backup(args) => back_up(&args),
        StorageCommand::Vacuum(args) => vacuum(&args),
    }
}

/// Returns the databases of a data directory.
fn databases(dir: &Path) -> Result<Vec<PathBuf>, StorageCommandError> {
    let paths = [STATE_FILE, DELIVERIES_FILE].map(|file| dir.join(file));
    let there: Vec<_> = paths.into_iter().filter(|path| path.exists()).collect();
    match there.is_empty() {
        true => Err(StorageCommandError::NoData(dir.to_owned())),
        false => Ok(there),
    }
}

/// Checks every page and index.
fn check(args: &StorageArgs) -> Result<(), CommandError> {
    for path in databases(&args.data_dir.data_dir)? {
        let faults = sqlite::faults(&path).map_err(StorageCommandError::from)?;
        if let Some(fault) = faults.first() {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            let source = rusqlite::Error::SqliteFailure(code, Some(fault.clone()));
            return Err(StorageCommandError::Database(sqlite::failed(&path)(source)).into());
        }
        say(&format!("{}: intact", path.display()))?;
    }
    Ok(())
}

/// Copies the databases and the relay's key to a new directory.
fn back_up(args: &BackupArgs) -> Result<(), CommandError> {
    let (from, to) = (&args.data_dir.data_dir, &args.directory);
    let file_error = |path: &Path, source| StorageCommandError::File {
        path: path.to_owned(),
        source,
    };
    let sources = databases(from)?;
    process::make_private_dir(to).map_err(|source| file_error(to, source))?;

    for path in sources {
        let Some(name) = path.file_name() else {
            continue;
        };
        let copy = to.join(name);
        let db = sqlite::open_to_read(&path).map_err(StorageCommandError::from)?;
        sqlite::back_up(&db, &copy)
            .map_err(|error| StorageCommandError::Database(sqlite::failed(&copy)(error)))?;
        say(&format!(
            "{} is copied to {}",
            path.display(),
            copy.display()
        ))?;
    }

    let (identity, copy) = (from.join(IDENTITY_FILE), to.join(IDENTITY_FILE));
    let copied = match copy.exists() {
        true => Err(io::ErrorKind::AlreadyExists.into()),
        // The mode of the file is copied, too.
        false => std::fs::copy(&identity, &copy),
    };
    copied.map_err(|source| file_error(&copy, source))?;
    say(&format!(
        "{} is copied to {}",
        identity.display(),
        copy.display()
    ))
}

/// Gives free pages back to the disk.
fn vacuum(args: &StorageArgs) -> Result<(), CommandError> {
    let path = args.data_dir.data_dir.join(DELIVERIES_FILE);
    if !path.exists() {
        return Err(StorageCommandError::NoData(args.data_dir.data_dir.clone()).into());
    }

    let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
    let before = size(&path);
    sqlite::shrink(&path).map_err(StorageCommandError::from)?;
    let after = size(&path);
    say(&format!(
        "{}: {before} bytes before, {after} bytes now",
        path.display()
    ))
}
