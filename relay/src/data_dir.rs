//! The two files of the data directory that belong together: the state (agents, hosts) and the
//! identity (the key that agents pin). Without either, the relay would refuse every agent.

use std::fs;
use std::path::{Path, PathBuf};

use hookward_core::clock::Clock;
use hookward_runtime::process::{self, OtherUsers};
use hookward_runtime::sqlite;

use crate::certs::self_signed::{EDGE_FILE, EDGE_KEY_FILE, EDGE_NAMES_FILE};
use crate::certs::{CertError, IDENTITY_FILE, TunnelIdentity};
use crate::storage::{STATE_FILE, StorageError, Store};

/// Unusable content of the data directory.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The data directory holds one of two files that belong together.
    #[error(
        "{present} is there, and {missing} is missing or empty: agents that have joined would be refused. Restore it from \
         a backup, or start once with --reset, which makes a new one (every agent must join again)"
    )]
    Incomplete {
        /// File that is present.
        present: PathBuf,
        /// File that is missing.
        missing: PathBuf,
    },
    /// The relay's identity failed.
    #[error(transparent)]
    Identity(#[from] CertError),
    /// The state file failed.
    #[error(transparent)]
    State(#[from] StorageError),
}

/// Removes temporary files of a killed process, and warns of keys that other users can read.
pub(crate) fn clean_up(dir: &Path) {
    process::remove_leftovers(
        dir,
        &[IDENTITY_FILE, EDGE_KEY_FILE, EDGE_FILE, EDGE_NAMES_FILE],
    );

    for path in SECRET_FILES.map(|name| dir.join(name)) {
        // The relay creates missing files for its owner alone.
        if let Ok(OtherUsers::Read | OtherUsers::GroupReads) = process::access_of_others(&path) {
            let path = path.display();
            tracing::warn!("other users can read {path}: chmod 600 {path}");
        }
    }
}

/// Files of the data directory that hold keys.
const SECRET_FILES: [&str; 3] = [IDENTITY_FILE, EDGE_KEY_FILE, STATE_FILE];

/// Opens both files, or creates both if neither exists. A damaged or missing file is an error;
/// with `reset`, it is set aside and created again.
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
        tracing::warn!("the state ({STATE_FILE}) is missing; made an empty one: {JOIN_AGAIN}");
    }

    let store = match Store::open(&state) {
        Err(error) if reset && error.is_damage() => {
            let aside = sqlite::set_aside(&state, clock.now()).map_err(StorageError::state)?;
            tracing::warn!(kept_as = %aside.display(), "the state ({STATE_FILE}) is damaged; made an empty one: {JOIN_AGAIN}");
            Store::open(&state)?
        }
        opened => opened?,
    };

    // A relay that has served has stored its address. One that ended earlier may have created only
    // one of the files.
    if !identity.exists() && store.tunnel_address()?.is_some() {
        if !reset {
            return Err(DataDirError::Incomplete {
                present: state,
                missing: identity,
            });
        }
        tracing::warn!("the identity ({IDENTITY_FILE}) is missing; made a new one: {JOIN_AGAIN}");
    }

    let identity = match TunnelIdentity::load_or_make(dir) {
        Err(CertError::Identity { .. }) if reset => {
            let aside =
                process::set_aside(&identity, clock.now()).map_err(|source| CertError::File {
                    path: identity.clone(),
                    source,
                })?;
            tracing::warn!(kept_as = %aside.display(), "the identity ({IDENTITY_FILE}) is damaged; made a new one: {JOIN_AGAIN}");
            TunnelIdentity::load_or_make(dir)?
        }
        loaded => loaded?,
    };
    Ok((store, identity))
}

/// Remedy after a reset.
const JOIN_AGAIN: &str = "after a loss of relay.db, each agent must join again (hookward-relay agent add NAME); after a loss of the key \
     alone, it may accept the new one (hookward pin add PIN, which hookward-relay status shows)";
