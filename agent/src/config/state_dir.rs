//! What the agent keeps: its credential, minted tokens, and the URL that it printed last. Files
//! have mode 0600, their directory 0700; they are written whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use hookward_core::secret::Secret;
use hookward_runtime::process::{self, OtherUsers};
use hookward_tunnel::transport::Transport;
use hookward_tunnel::transport::identity::Pin;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Failure to read or write the agent's files.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is no place to keep anything.
    #[error("no place for the agent's files: HOME is not set; name one with --state-dir")]
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
    /// Others can read a file of secrets.
    #[error("other users can read {}, which holds secrets: chmod 600 {}", .0.display(), .0.display())]
    Open(PathBuf),
}

/// Identity of the agent at its relay.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// The relay's host and port.
    pub relay: String,
    /// Pin of the relay's key.
    pub pin: Pin,
    /// The agent's name there.
    pub agent: String,
    /// Credential's secret.
    pub secret: Secret,
}

/// A join under way.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PendingJoin {
    /// SHA-256 of the join token's secret, in hexadecimal digits.
    token: String,
    /// The credential that it is exchanged for.
    secret: Secret,
}

/// Content of the file: a list since an agent can have several.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SavedTunnel {
    Several { relays: Vec<Credential> },
    One(Credential),
}

/// The directory of one agent's files.
#[derive(Debug, Clone)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The directory that was asked for, or the user's own; made when it is not there.
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

    /// The directory for `--local`: a relay of its own must not mix with a real one.
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

    /// The credentials, one for each relay; none before the agent has joined one.
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

    /// The credential to exchange this join token for: kept before the exchange, and the same when
    /// it is repeated.
    ///
    /// # Errors
    /// `StateError`; the token is not used up then.
    pub fn begin_join(&self, token: &Secret) -> Result<Secret, StateError> {
        let token = HEXLOWER.encode(token.digest().as_bytes());
        // One that can't be read, or is about another token, is of no use any more.
        let kept: Option<PendingJoin> = self.read(JOINING).ok().flatten();
        if let Some(kept) = kept.filter(|kept| kept.token == token) {
            return Ok(kept.secret);
        }

        let secret = self.mint(JOINING)?;
        self.write_json(
            JOINING,
            &PendingJoin {
                token,
                secret: secret.clone(),
            },
        )?;

        Ok(secret)
    }

    /// The join is over.
    pub fn end_join(&self) {
        // A file that stays holds a credential of no use, or the one that is kept now.
        let _ = fs::remove_file(self.0.join(JOINING));
    }

    /// Keeps a credential, in the place of an older one for the same relay; with `only`, in the
    /// place of all. Gives the relays that the agent has then.
    ///
    /// # Errors
    /// `StateError`.
    pub fn keep_credential(
        &self,
        credential: Credential,
        only: bool,
    ) -> Result<Vec<String>, StateError> {
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

    /// Transport of the last good connection. A hint that can't be read is thrown away.
    #[must_use]
    pub fn last_transport(&self) -> Option<Transport> {
        self.read(TRANSPORT).unwrap_or_else(|error| {
            tracing::warn!("{error}");
            // Where it can't be removed it is only read again.
            let _ = fs::remove_file(self.0.join(TRANSPORT));
            None
        })
    }

    /// Keeps it.
    ///
    /// # Errors
    /// `StateError`.
    pub fn keep_transport(&self, transport: Transport) -> Result<(), StateError> {
        self.write_json(TRANSPORT, &transport)
    }

    /// The minted token for this host: the one that is kept, or a new one. Gives whether it is new.
    ///
    /// # Errors
    /// `StateError`.
    pub fn token(&self, host: Option<&str>, new: bool) -> Result<(Secret, bool), StateError> {
        let mut tokens: BTreeMap<String, Secret> = self.read(TOKENS)?.unwrap_or_default();
        let key = host.unwrap_or_default().to_ascii_lowercase();
        if let Some(token) = tokens.get(&key).filter(|_| !new) {
            return Ok((token.clone(), false));
        }

        let token = self.mint(TOKENS)?;
        tokens.insert(key, token.clone());
        self.write_json(TOKENS, &tokens)?;

        Ok((token, true))
    }

    /// The minted token that is kept for this host, if there is one.
    ///
    /// # Errors
    /// `StateError`.
    pub fn kept_token(&self, host: Option<&str>) -> Result<Option<Secret>, StateError> {
        let mut tokens: BTreeMap<String, Secret> = self.read(TOKENS)?.unwrap_or_default();
        Ok(tokens.remove(&host.unwrap_or_default().to_ascii_lowercase()))
    }

    /// Keeps the webhook URL that was printed, for scripts of the same user.
    ///
    /// # Errors
    /// `StateError`.
    pub fn keep_url(&self, url: &str) -> Result<(), StateError> {
        self.write(URL, format!("{url}\n").as_bytes())
    }

    /// A new secret for this file.
    fn mint(&self, name: &str) -> Result<Secret, StateError> {
        let random = |error: getrandom::Error| io::Error::other(error.to_string());
        Secret::mint().map_err(|error| StateError::File {
            path: self.0.join(name),
            source: random(error),
        })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.0.join(name);
        // Like ssh with a private key. Volumes of containers often give files to a group.
        match process::access_of_others(&path) {
            Ok(OtherUsers::Read) if name != TRANSPORT => return Err(StateError::Open(path)),
            Ok(OtherUsers::GroupReads) if name != TRANSPORT => {
                tracing::warn!(
                    "the group of {} can read it: chmod 600 it, unless that is meant",
                    path.display()
                );
            }
            // What can't be looked at can't be read either.
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

const JOINING: &str = "joining.json";

const TOKENS: &str = "tokens.json";

const URL: &str = "url";

const TRANSPORT: &str = "transport.json";

/// Remedy for a file that can't be read: the agent itself writes all of them.
fn remedy(name: &str) -> &'static str {
    match name {
        AGENT => "restore it from a backup, or move it away and join again with a new token",
        TOKENS => {
            "restore it, or move it away: `hookward http` then creates new tokens, and the webhook URLs change"
        }
        _ => "it is only a hint, and will be written again",
    }
}
