//! Secrets read from the process's environment, files, commands, and credentials of systemd.

mod command;

use std::path::PathBuf;

use hookward_core::secret::oddities::{self, MIN_BYTES, SHORT_BYTES};
use hookward_core::secret::{LoadedSecret, SecretError, SecretReader, SecretSource};
use zeroize::Zeroizing;

/// Reads secrets like [`ProcessSecrets`], and rejects those that are too short or placeholders.
#[derive(Debug, Clone, Copy)]
pub struct VettedSecrets;

impl SecretReader for VettedSecrets {
    fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        ProcessSecrets.read(source)
    }

    fn load_from(&self, source: SecretSource) -> Result<LoadedSecret, SecretError> {
        let LoadedSecret { secret, mut notes } = ProcessSecrets.load_from(source.clone())?;
        let bytes = secret.expose();
        if bytes.len() < MIN_BYTES {
            return Err(SecretError::Short(source, bytes.len()));
        }

        if oddities::is_placeholder(bytes) {
            return Err(SecretError::Placeholder(source));
        }

        if bytes.len() < SHORT_BYTES {
            notes.push(format!(
                "{source} has {} bytes only; a secret should have {SHORT_BYTES} or more",
                bytes.len()
            ));
        }

        notes.extend(
            oddities::oddities(bytes)
                .into_iter()
                .map(|what| format!("{source} {what}")),
        );

        Ok(LoadedSecret { secret, notes })
    }
}

/// Reads secrets from the process's environment and the file system.
#[derive(Debug, Clone, Copy)]
pub struct ProcessSecrets;

impl SecretReader for ProcessSecrets {
    fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        match source {
            SecretSource::Env(name) => match std::env::var(name) {
                Ok(value) => Ok(Zeroizing::new(value.into_bytes())),
                Err(std::env::VarError::NotPresent) => Err(SecretError::Unset(name.clone())),
                Err(std::env::VarError::NotUnicode(_)) => Err(SecretError::NotText(name.clone())),
            },
            SecretSource::File(path) => std::fs::read(at_home(path))
                .map(Zeroizing::new)
                .map_err(|error| SecretError::Unreadable(path.clone(), error.to_string())),
            SecretSource::Command(line) => {
                command::output(line).map_err(|what| SecretError::Command(source.clone(), what))
            }
            SecretSource::Systemd(name) => {
                let directory = std::env::var_os("CREDENTIALS_DIRECTORY");
                let directory = directory.ok_or_else(|| SecretError::NoSystemd(source.clone()))?;
                let path = PathBuf::from(directory).join(name);
                let unreadable = |error: std::io::Error| {
                    SecretError::Unreadable(source.to_string(), error.to_string())
                };
                std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
            }
        }
    }
}

/// Expands a leading `~` to the user's home, because shells do not expand it after `file:`.
fn at_home(path: &str) -> PathBuf {
    let home = || std::env::var_os("HOME").filter(|home| !home.is_empty());
    match (path.strip_prefix("~/"), home()) {
        (Some(below), Some(home)) => PathBuf::from(home).join(below),
        _ => PathBuf::from(path),
    }
}
