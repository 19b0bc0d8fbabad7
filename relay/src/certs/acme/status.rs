//! State of the certificates from the ACME server, for the admin API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// State by the first name of each certificate; clones share it.
#[derive(Clone, Default)]
pub(crate) struct AcmeStatus(Arc<Mutex<BTreeMap<String, NameStatus>>>);

/// State of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NameStatus {
    /// Time of the next renewal, in seconds since 1970; `None` without a certificate.
    pub renewal_s: Option<i64>,
    /// Number of failures in a row.
    pub failures: u32,
    /// Reason of the last failure.
    pub last_error: Option<String>,
}

impl AcmeStatus {
    pub(crate) fn all(&self) -> BTreeMap<String, NameStatus> {
        self.lock().clone()
    }

    pub(super) fn replace(&self, all: BTreeMap<String, NameStatus>) {
        *self.lock() = all;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, NameStatus>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
