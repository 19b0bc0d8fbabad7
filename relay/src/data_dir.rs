//! The data directory's two files that belong together: the state (agents, who owns which host) and
//! the identity (the key that agents pin). The relay refuses every agent if either file is missing.

use std::fs;
use std::path::{Path, PathBuf};

use hookward_core::clock::Clock;
use hookward_runtime::process::{self, OtherUsers};
use hookward_runtime::sqlite;

use crate::certs::{
    CertError, EDGE_FILE, EDGE_KEY_FILE, EDGE_NAMES_FILE, IDENTITY_FILE, TunnelIdentity,
};
use crate::storage::{STATE_FILE, StorageError, Store};

/// Unusable content of the data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The data directory holds one of two files that belong together.
    #[error(
        "{present} is there, and {missing} is missing or empty: agents that have joined would be refused. Restore it from \
         a backup, or start once with --reset, which begins anew (every agent must join again)"
    )]
    Incomplete {
        /// The file that is there.
        present: PathBuf,
        /// The one that is not.
        missing: PathBuf,
    },
    /// The relay's identity failed.
    #[error(transparent)]
    Identity(#[from] CertError),
    /// The state file failed.
    #[error(transparent)]
    State(#[from] StorageError),
}

/// Removes what a process that was killed left behind, and warns of keys that other users can read.
pub(crate) fn clean_up(dir: &Path) {
    process::remove_leftovers(
        dir,
        &[IDENTITY_FILE, EDGE_KEY_FILE, EDGE_FILE, EDGE_NAMES_FILE],
    );

    for path in SECRET_FILES.map(|name| dir.join(name)) {
        // A file that is not there yet is made for its owner alone.
        if let Ok(OtherUsers::Read | OtherUsers::GroupReads) = process::access_of_others(&path) {
            let path = path.display();
            tracing::warn!("other users can read {path}: chmod 600 {path}");
        }
    }
}

/// Files of the data directory that hold keys.
const SECRET_FILES: [&str; 3] = [IDENTITY_FILE, EDGE_KEY_FILE, STATE_FILE];

/// Opens both files, and makes both where there is none. What is damaged or missing is an error;
/// with `reset` it is set aside and made anew.
///
/// # Errors
/// [`DataDirError`].
pub(crate) fn open(
    dir: &Path,
    reset: bool,
    clock: &Clock,
) -> Result<(Store, TunnelIdentity), DataDirError> {
    let (state, identity) = (dir.join(STATE_FILE), dir.join(IDENTITY_FILE));
    let is_empty = fs::metadata(&state).map_or(true, |file| file.len() == 0);
    if is_empty && identity.exists() {
        if !reset {
            return Err(DataDirError::Incomplete {
                present: identity,
                missing: state,
            });
        }
        tracing::warn!("the state ({STATE_FILE}) is missing and begins anew: {JOIN_AGAIN}");
    }

    let store = match Store::open(&state) {
        Err(error) if reset && error.is_damage() => {
            let aside = sqlite::set_aside(&state, clock.now()).map_err(StorageError::state)?;
            tracing::warn!(kept_as = %aside.display(), "the state ({STATE_FILE}) is damaged and begins anew: {JOIN_AGAIN}");
            Store::open(&state)?
        }
        opened => opened?,
    };

    // A relay that has served has noted its address; one that was ended before may have made one
    // file of two.
    if !identity.exists() && store.tunnel_address()?.is_some() {
        if !reset {
            return Err(DataDirError::Incomplete {
                present: state,
                missing: identity,
            });
        }
        tracing::warn!("the identity ({IDENTITY_FILE}) is missing and is made anew: {JOIN_AGAIN}");
    }

    let identity = match TunnelIdentity::load_or_make(dir) {
        Err(CertError::Identity { .. }) if reset => {
            let aside =
                process::set_aside(&identity, clock.now()).map_err(|source| CertError::File {
                    path: identity.clone(),
                    source,
                })?;
            tracing::warn!(kept_as = %aside.display(), "the identity ({IDENTITY_FILE}) is damaged and made anew: {JOIN_AGAIN}");
            TunnelIdentity::load_or_make(dir)?
        }
        loaded => loaded?,
    };
    Ok((store, identity))
}

/// Remedy after a reset.
const JOIN_AGAIN: &str =
    "every agent must join again; create a token for each with `hookward-relay agent add NAME`";
