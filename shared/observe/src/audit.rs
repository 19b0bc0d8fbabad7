//! Audit log: one JSON line for each decision and each administrative act.
//!
//! Every line has the number of its record (`seq`) and the SHA-256 of the previous line (`prev`), so
//! that [`verify`] finds changed and removed lines. A thread writes the lines; requests only queue
//! them (`log`, `queue`). `settings` names the sinks: a file that rotates (`file`), standard
//! output, and syslog. `limited` bounds the records of events that others cause at will. `recent` keeps
//! the last records for readers.

mod chain;
mod error;
mod file;
mod limited;
mod log;
mod queue;
mod recent;
mod record;
mod settings;
mod sinks;
mod verify;
mod writer;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::chain::{ChainHead, KEPT_HASH_DIGITS, KeptHead};
pub use self::error::AuditError;
pub use self::limited::{Causer, LimitedKind};
pub use self::log::AuditLog;
pub use self::queue::AuditStatus;
pub use self::recent::RecentRecord;
pub use self::record::{Act, Actor};
pub use self::settings::{AuditSettings, FileSettings, OnFailure, RawAudit, SyslogTarget};
pub use self::verify::{Flaw, Report, verify};

/// Locks a mutex of the log, also after a panic of another thread: its state is whole after each
/// statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
