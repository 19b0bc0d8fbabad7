//! The agent's credential at a relay, which the relay lets it replace before it expires.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hookward_core::secret::{Secret, SecretDigest};

use crate::config::state_dir::{StateDir, StateError};

/// Credential at one relay, which all connections to it use.
pub(crate) struct RelayCredential {
    relay: String,
    /// Directory that keeps it; `None` for a relay in this process.
    state: Option<StateDir>,
    // A std mutex: it guards two secrets, and nothing waits while it is held.
    secrets: Mutex<Secrets>,
}

struct Secrets {
    current: Secret,
    /// Credential that replaces the current one, until the relay has stored it.
    next: Option<Secret>,
    /// `true` if the current one was that next one, and its file does not know yet.
    is_unproved: bool,
}

/// Failure to begin a renewal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewalError {
    /// The credential could not be stored.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system's random number generator failed.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

impl RelayCredential {
    pub(crate) const fn new(
        relay: String,
        current: Secret,
        next: Option<Secret>,
        state: Option<StateDir>,
    ) -> Self {
        Self {
            relay,
            state,
            secrets: Mutex::new(Secrets {
                current,
                next,
                is_unproved: false,
            }),
        }
    }

    /// Returns the credential for a new connection.
    pub(crate) fn current(&self) -> Secret {
        self.lock().current.clone()
    }

    /// Returns the credential that replaces the one of a connection. A new one is stored first, so that
    /// the agent knows each credential that the relay may know.
    ///
    /// # Errors
    /// [`RenewalError`].
    pub(crate) fn replacement(&self, used: &SecretDigest) -> Result<Secret, RenewalError> {
        if let Some(known) = self.known_replacement(used) {
            return Ok(known);
        }
        let new = Secret::generate()?;
        if let Some(state) = &self.state {
            state.begin_renewal(&self.relay, &new)?;
        }
        Ok(self.lock().next.get_or_insert(new).clone())
    }

    fn known_replacement(&self, used: &SecretDigest) -> Option<Secret> {
        let secrets = self.lock();
        match secrets.current.digest() == *used {
            true => secrets.next.clone(),
            // Another connection has replaced it already.
            false => Some(secrets.current.clone()),
        }
    }

    /// Uses the credential from now on, which the relay has stored.
    ///
    /// # Errors
    /// [`StateError`]; the file keeps both.
    pub(crate) fn replace(&self, renewed: &SecretDigest) -> Result<(), StateError> {
        let mut secrets = self.lock();
        let is_renewed = |next: &mut Secret| next.digest() == *renewed;
        let Some(next) = secrets.next.take_if(is_renewed) else {
            return Ok(());
        };
        secrets.current = next.clone();
        drop(secrets);
        self.store(&next)
    }

    /// Returns `true` if another credential than the refused one may be valid: the end of a renewal
    /// was missed. New connections use it then.
    pub(crate) fn fall_back(&self, refused: &SecretDigest) -> bool {
        let mut secrets = self.lock();
        if secrets.current.digest() != *refused {
            return true;
        }
        match secrets.next.take() {
            Some(next) => {
                (secrets.current, secrets.is_unproved) = (next, true);
                true
            }
            None => false,
        }
    }

    /// Records that the relay has accepted a credential.
    ///
    /// # Errors
    /// [`StateError`]; the file keeps both.
    pub(crate) fn accepted(&self, used: &SecretDigest) -> Result<(), StateError> {
        let mut secrets = self.lock();
        if !secrets.is_unproved || secrets.current.digest() != *used {
            return Ok(());
        }
        secrets.is_unproved = false;
        let current = secrets.current.clone();
        drop(secrets);
        self.store(&current)
    }

    fn store(&self, renewed: &Secret) -> Result<(), StateError> {
        match &self.state {
            Some(state) => state.end_renewal(&self.relay, renewed),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::state_dir::Credential;
    use hookward_tunnel::transport::identity::Pin;

    const RELAY: &str = "relay.example:443";

    #[test]
    fn connections_agree_on_one_new_credential() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(dir.path())).unwrap();
        let old = Secret::generate().unwrap();
        let pin = Pin::of_no_key();
        let stored = Credential::new(RELAY.to_owned(), pin, "jira".to_owned(), old.clone());
        state.keep_credential(stored, false).unwrap();
        let kept = || state.credentials().unwrap().remove(0);
        let digest = |secret: &Secret| secret.digest();

        let credential =
            RelayCredential::new(RELAY.to_owned(), old.clone(), None, Some(state.clone()));
        let new = digest(&credential.replacement(&old.digest()).unwrap());
        assert!(digest(&credential.replacement(&old.digest()).unwrap()) == new);
        assert!(
            digest(&credential.current()) == old.digest(),
            "until the relay has it"
        );
        assert!(digest(&kept().secret) == old.digest());
        assert!(kept().next.is_some_and(|next| next.digest() == new));

        credential.replace(&new).unwrap();
        assert!(digest(&credential.current()) == new && digest(&kept().secret) == new);
        assert!(kept().next.is_none());
        let late = credential.replacement(&old.digest()).unwrap();
        assert!(late.digest() == new, "another connection");
        credential.replace(&new).unwrap();
    }

    /// The agent ended after the relay had stored the new credential, and the old one has expired since.
    #[test]
    fn the_end_of_a_renewal_that_was_missed_is_made_up() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(dir.path())).unwrap();
        let (old, next) = (Secret::generate().unwrap(), Secret::generate().unwrap());
        let pin = Pin::of_no_key();
        let stored = Credential::new(RELAY.to_owned(), pin, "jira".to_owned(), old.clone());
        state.keep_credential(stored, false).unwrap();
        state.begin_renewal(RELAY, &next).unwrap();

        let kept = || state.credentials().unwrap().remove(0);
        let (secret, pending) = (kept().secret, kept().next);
        let credential =
            RelayCredential::new(RELAY.to_owned(), secret, pending, Some(state.clone()));
        assert!(credential.fall_back(&old.digest()));
        assert!(credential.current().digest() == next.digest());
        assert!(kept().secret.digest() == old.digest(), "until it is proved");
        credential.accepted(&next.digest()).unwrap();
        assert!(kept().secret.digest() == next.digest() && kept().next.is_none());
        assert!(!credential.fall_back(&next.digest()), "there is no other");
    }
}
