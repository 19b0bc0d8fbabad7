//! The agent's state: credentials, created tokens, and the last printed URL. Files have mode 0600,
//! their directory 0700. Writes are atomic.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use hookward_core::secret::Secret;
use hookward_runtime::process::{self, DirLock, LockError, OtherUsers};
use hookward_tunnel::transport::Transport;
use hookward_tunnel::transport::identity::Pin;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Failure to read or write the agent's files.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no home directory for the state.
    #[error("HOME is not set: name a directory for the agent's files with --state-dir")]
    NoHome,
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A file has unusable content.
    #[error("{path} can't be read: {what}; {remedy}")]
    Content {
        path: PathBuf,
        /// Description of the error.
        what: String,
        remedy: &'static str,
    },
    /// Another process holds the lock of a file.
    #[error("{} is in use by another process; try again", .0.display())]
    Busy(PathBuf),
    /// Other users can read a file with secrets.
    #[error("other users can read {}, which holds secrets: chmod 600 {}", .0.display(), .0.display())]
    Open(PathBuf),
}

/// Identity of the agent at its relay.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Host and port of the relay.
    pub relay: String,
    /// Pin of the relay's key.
    pub pin: Pin,
    /// Pin of another key, while the relay changes its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_pin: Option<Pin>,
    /// Name of the agent there.
    pub agent: String,
    /// Credential's secret.
    pub secret: Secret,
    /// Secret that replaces it, during a renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Secret>,
}

impl Credential {
    /// Creates the credential of a new join.
    #[must_use]
    pub const fn new(relay: String, pin: Pin, agent: String, secret: Secret) -> Self {
        Self {
            relay,
            pin,
            second_pin: None,
            agent,
            secret,
            next: None,
        }
    }
}

/// A join in progress.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PendingJoin {
    /// SHA-256 of the join token's secret, in hexadecimal digits.
    token: String,
    /// Credential that replaces the token.
    secret: Secret,
}

/// Content of the file: a list, or the single tunnel of older versions.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SavedTunnel {
    Several { relays: Vec<Credential> },
    One(Credential),
}

/// Token for the local API.
const API_TOKEN: &str = "api-token";

/// Beginning of the names of Unix sockets of running agents. The process id follows.
const RUN_PREFIX: &str = "run-";

/// End of those names.
const RUN_SUFFIX: &str = ".sock";

/// Directory of one agent's files.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Opens the given directory, or the user's default, and creates it if needed.
    ///
    /// # Errors
    /// `StateError`.
    pub fn open(asked: Option<&Path>) -> Result<Self, StateError> {
        let dir = match asked {
            Some(dir) => dir.to_owned(),
            None => {
                let base = std::env::var_os("XDG_STATE_HOME")
                    .filter(|dir| !dir.is_empty())
                    .map(PathBuf::from);
                let home = || {
                    std::env::var_os("HOME")
                        .filter(|dir| !dir.is_empty())
                        .map(PathBuf::from)
                };
                base.or_else(|| Some(home()?.join(".local/state")))
                    .ok_or(StateError::NoHome)?
                    .join("hookward")
            }
        };
        Self::make(dir)
    }

    /// Opens the directory for `--local`, whose relay must not mix with real ones.
    ///
    /// # Errors
    /// `StateError`.
    pub fn local(&self) -> Result<Self, StateError> {
        Self::make(self.0.join("local"))
    }

    fn make(dir: PathBuf) -> Result<Self, StateError> {
        match process::make_private_dir(&dir) {
            Ok(()) => {
                process::remove_leftovers(&dir, &[AGENT, JOINING, TOKENS, URL, TRANSPORT]);
                Ok(Self(dir))
            }
            Err(source) => Err(StateError::File { path: dir, source }),
        }
    }

    /// Returns the path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Returns the path of the token for the local API.
    pub(crate) fn api_token(&self) -> PathBuf {
        self.0.join(API_TOKEN)
    }

    /// Returns the path of the Unix socket of a running agent.
    pub(crate) fn socket(&self, process: u32) -> PathBuf {
        self.0.join(format!("{RUN_PREFIX}{process}{RUN_SUFFIX}"))
    }

    /// Returns the sockets of running agents with their process ids. Sockets of killed agents are
    /// among them.
    pub(crate) fn sockets(&self) -> Vec<(PathBuf, u32)> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let sockets = entries.filter_map(|entry| {
            let name = entry.file_name();
            let process = name.to_str()?.strip_prefix(RUN_PREFIX)?;
            let process = process.strip_suffix(RUN_SUFFIX)?.parse().ok()?;
            Some((entry.path(), process))
        });
        sockets.collect()
    }

    /// Returns the credentials, one for each joined relay.
    ///
    /// # Errors
    /// `StateError`.
    pub fn credentials(&self) -> Result<Vec<Credential>, StateError> {
        Ok(match self.read(AGENT)? {
            None => Vec::new(),
            Some(SavedTunnel::Several { relays }) => relays,
            Some(SavedTunnel::One(one)) => vec![one],
        })
    }

    /// Returns the credential for this join token. Stores it before the exchange, so that a repeated
    /// join uses the same one.
    ///
    /// # Errors
    /// `StateError`; the token is unused then.
    pub fn begin_join(&self, token: &Secret) -> Result<Secret, StateError> {
        let token = HEXLOWER.encode(token.digest().as_bytes());
        // An unreadable file, or one for another token, is useless.
        let kept: Option<PendingJoin> = self.read(JOINING).ok().flatten();
        if let Some(kept) = kept.filter(|kept| kept.token == token) {
            return Ok(kept.secret);
        }

        let secret = self.generate(JOINING)?;
        self.write_json(
            JOINING,
            &PendingJoin {
                token,
                secret: secret.clone(),
            },
        )?;

        Ok(secret)
    }

    /// Ends a join.
    pub fn end_join(&self) {
        // If the file stays, its credential is unused, or the one that is stored now.
        let _ = fs::remove_file(self.0.join(JOINING));
    }

    /// Stores a credential and replaces an older one for the same relay; with `only`, all others.
    /// Returns the joined relays.
    ///
    /// # Errors
    /// `StateError`.
    pub fn keep_credential(
        &self,
        credential: Credential,
        only: bool,
    ) -> Result<Vec<String>, StateError> {
        let _locked = self.lock()?;
        let mut relays = if only {
            Vec::new()
        } else {
            self.credentials()?
        };
        relays.retain(|kept| kept.relay != credential.relay);
        relays.push(credential);

        let addresses = relays.iter().map(|kept| kept.relay.clone()).collect();
        self.write_json(AGENT, &SavedTunnel::Several { relays })?;
        Ok(addresses)
    }

    /// Stores the credential that will replace the present one at a relay.
    ///
    /// # Errors
    /// `StateError`.
    pub(crate) fn begin_renewal(&self, relay: &str, next: &Secret) -> Result<(), StateError> {
        self.change_credential(relay, |kept| kept.next = Some(next.clone()))
    }

    /// Replaces the credential at a relay.
    ///
    /// # Errors
    /// `StateError`; the previous one stays.
    pub(crate) fn end_renewal(&self, relay: &str, renewed: &Secret) -> Result<(), StateError> {
        let digest = renewed.digest();
        self.change_credential(relay, |kept| {
            // A join meanwhile has replaced both.
            if kept.next.take_if(|next| next.digest() == digest).is_some() {
                kept.secret = renewed.clone();
            }
        })
    }

    /// Changes the credential at a relay. Another process may have left the relay meanwhile.
    fn change_credential(
        &self,
        relay: &str,
        change: impl FnOnce(&mut Credential),
    ) -> Result<(), StateError> {
        let changed = self.change_credentials(|credentials| {
            let kept = credentials.iter_mut().find(|kept| kept.relay == relay);
            kept.map(change).ok_or(())
        });
        changed.map(drop)
    }

    /// Changes the credentials, unless `change` fails.
    ///
    /// # Errors
    /// `StateError`.
    pub(crate) fn change_credentials<T, E>(
        &self,
        change: impl FnOnce(&mut [Credential]) -> Result<T, E>,
    ) -> Result<Result<T, E>, StateError> {
        let _locked = self.lock()?;
        let mut relays = self.credentials()?;
        let changed = change(&mut relays);
        if changed.is_ok() {
            self.write_json(AGENT, &SavedTunnel::Several { relays })?;
        }
        Ok(changed)
    }

    /// Locks the credentials, which other agents and commands of the directory change, too.
    fn lock(&self) -> Result<DirLock, StateError> {
        let since = Instant::now();
        loop {
            match DirLock::take(&self.0, LOCK, "") {
                Ok(lock) => return Ok(lock),
                Err(LockError::Locked(_)) if since.elapsed() < LOCK_TIMEOUT => {
                    std::thread::sleep(LOCK_INTERVAL);
                }
                Err(LockError::Locked(_)) => return Err(StateError::Busy(self.0.join(AGENT))),
                Err(LockError::File(source)) => {
                    let path = self.0.join(LOCK);
                    return Err(StateError::File { path, source });
                }
            }
        }
    }

    /// Returns the transport of the last working connection. Deletes an unreadable hint.
    #[must_use]
    pub fn last_transport(&self) -> Option<Transport> {
        self.read(TRANSPORT).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            // If it cannot be deleted, it is only read again.
            let _ = fs::remove_file(self.0.join(TRANSPORT));
            None
        })
    }

    /// Stores the transport.
    ///
    /// # Errors
    /// `StateError`.
    pub fn keep_transport(&self, transport: Transport) -> Result<(), StateError> {
        self.write_json(TRANSPORT, &transport)
    }

    /// Returns the created token for this host, and `true` if it is new.
    ///
    /// # Errors
    /// `StateError`.
    pub fn token(&self, host: Option<&str>, new: bool) -> Result<(Secret, bool), StateError> {
        let mut tokens: BTreeMap<String, Secret> = self.read(TOKENS)?.unwrap_or_default();
        let key = host.unwrap_or_default().to_ascii_lowercase();
        if let Some(token) = tokens.get(&key).filter(|_| !new) {
            return Ok((token.clone(), false));
        }

        let token = self.generate(TOKENS)?;
        tokens.insert(key, token.clone());
        self.write_json(TOKENS, &tokens)?;

        Ok((token, true))
    }

    /// Returns the stored token for this host, if there is one.
    ///
    /// # Errors
    /// `StateError`.
    pub fn kept_token(&self, host: Option<&str>) -> Result<Option<Secret>, StateError> {
        let mut tokens: BTreeMap<String, Secret> = self.read(TOKENS)?.unwrap_or_default();
        Ok(tokens.remove(&host.unwrap_or_default().to_ascii_lowercase()))
    }

    /// Stores the printed webhook URL, for scripts of the same user.
    ///
    /// # Errors
    /// `StateError`.
    pub fn keep_url(&self, url: &str) -> Result<(), StateError> {
        self.write(URL, format!("{url}\n").as_bytes())
    }

    /// Creates a secret in this file.
    fn generate(&self, name: &str) -> Result<Secret, StateError> {
        let random = |error: getrandom::Error| io::Error::other(error.to_string());
        Secret::generate().map_err(|error| StateError::File {
            path: self.0.join(name),
            source: random(error),
        })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.0.join(name);
        // As ssh does with a private key. Volumes of containers often make files readable to a
        // group.
        match process::access_of_others(&path) {
            Ok(OtherUsers::Read) if name != TRANSPORT => return Err(StateError::Open(path)),
            Ok(OtherUsers::GroupReads) if name != TRANSPORT => {
                tracing::warn!(
                    "the group of {} can read it: chmod 600 it, unless that is intended",
                    path.display()
                );
            }
            // A file without readable metadata is unreadable itself.
            Ok(_) | Err(_) => {}
        }

        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::File { path, source }),
        };

        let content = |error: serde_json::Error| StateError::Content {
            path,
            what: error.to_string(),
            remedy: remedy(name),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(content)
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let json = serde_json::to_vec_pretty(value).map_err(|error| StateError::File {
            path: self.0.join(name),
            source: error.into(),
        })?;
        self.write(name, &json)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.0.join(name);
        process::write_private(&path, content).map_err(|source| StateError::File { path, source })
    }
}

const AGENT: &str = "agent.json";

const LOCK: &str = "agent.lock";

/// Time to wait for another process that changes the credentials, which takes a few milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

const LOCK_INTERVAL: Duration = Duration::from_millis(5);

const JOINING: &str = "joining.json";

const TOKENS: &str = "tokens.json";

const URL: &str = "url";

const TRANSPORT: &str = "transport.json";

/// Returns the remedy for an unreadable file; the agent itself writes all of them.
fn remedy(name: &str) -> &'static str {
    match name {
        AGENT => "restore it from a backup, or move it away and join again with a new token",
        TOKENS => {
            "restore it, or move it away: `hookward http` then creates new tokens, and the webhook URLs change"
        }
        _ => "it is only a hint, and will be written again",
    }
}
