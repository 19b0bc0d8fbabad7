//! Secrets: values without `Debug`, zeroed on drop, compared in constant time.

pub mod names;
pub mod oddities;

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use self::oddities::MIN_BYTES;

/// A secret: a signature key, a token, a credential. Never empty.
///
/// The type has no `Debug` and no `Display`. It serializes (as base64) for one purpose only: the agent's
/// policy on its way to the relay, inside the tunnel.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps a secret. Returns `None` if it is empty, because an empty key protects nothing.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (!bytes.is_empty()).then(|| Self(Zeroizing::new(bytes)))
    }

    /// Returns the placeholder for a secret in output without secrets.
    pub fn placeholder() -> Self {
        Self(Zeroizing::new(b"-".to_vec()))
    }

    /// Creates a secret of 256 random bits, as base64url text without padding.
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut())?;
        let text = data_encoding::BASE64URL_NOPAD.encode(bytes.as_ref());
        Ok(Self(Zeroizing::new(text.into_bytes())))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Returns the SHA-256 digest, which is stored where a secret only has to be recognised.
    #[must_use]
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::of(&self.0)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        BASE64
            .decode(text.as_bytes())
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| serde::de::Error::custom("not a secret: empty or not base64"))
    }
}

/// SHA-256 digest of a secret with high entropy. Comparison takes constant time, regardless of the
/// candidate's length.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// Computes the digest of a candidate.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Wraps a stored digest. Returns `None` unless it has 32 bytes.
    #[must_use]
    pub fn from_stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the 32 bytes of the digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns `true` if `candidate` is the secret. Takes constant time.
    #[must_use]
    pub fn matches(&self, candidate: &[u8]) -> bool {
        bool::from(self.0.ct_eq(&Self::of(candidate).0))
    }
}

/// Source of a secret: never the command line, which every process can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// `env:NAME`: an environment variable.
    Env(String),
    /// `file:PATH`: the content of a file.
    File(String),
    /// `cmd:COMMAND`: the output of a shell command, such as `vault kv get`.
    Command(String),
    /// `systemd:NAME`: a credential of the systemd unit (systemd.io/CREDENTIALS).
    Systemd(String),
}

/// Failure to load a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The text names no source.
    #[error(
        "a secret is given as env:NAME, file:PATH, cmd:COMMAND or systemd:NAME, never as itself: \
         every process on this machine can read a command line, and policy files get copied"
    )]
    Literal,
    /// The command failed. Its error output is not shown, because it may contain the secret.
    #[error("{0} {1}; run the command by hand to see its error")]
    Command(SecretSource, String),
    /// The program was not started by a systemd unit with credentials.
    #[error(
        "{0}: this process has no credentials of systemd; the unit needs LoadCredential= or SetCredentialEncrypted="
    )]
    NoSystemd(SecretSource),
    /// The variable is not set.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// The variable is not valid text.
    #[error("the environment variable {0} is not valid UTF-8")]
    NotText(String),
    /// The file is unreadable.
    #[error("the secret file {0} can't be read: {1}")]
    Unreadable(String, String),
    /// The source is empty.
    #[error("{0} is empty; an empty secret would let everybody in")]
    Empty(SecretSource),
    /// The text is not a valid variable name: perhaps the secret itself, which the error does not
    /// repeat.
    #[error(
        "what follows env: is no name of a variable (letters, digits and _); write env:NAME without a $, or the shell puts \
         the secret itself there"
    )]
    NoName,
    /// The secret is too short, so it can be guessed.
    #[error("{0} has {1} bytes; a secret has at least {least}: make one with `openssl rand -hex 32`", least = MIN_BYTES)]
    Short(SecretSource, usize),
    /// The value is a placeholder for a secret.
    #[error(
        "{0} holds no secret: a word that stands for one (undefined, changeme), one repeated letter, or ${{VARIABLE}}"
    )]
    Placeholder(SecretSource),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Command(line) => write!(f, "cmd:{}", shown_command(line)),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

impl SecretSource {
    /// Parses `env:NAME`, `file:PATH`, `cmd:COMMAND` or `systemd:NAME`.
    ///
    /// # Errors
    /// [`SecretError::Literal`] for anything else; the error does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("env", name)) if is_variable(name) => Ok(Self::Env(name.to_owned())),
            Some(("env", _)) => Err(SecretError::NoName),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            Some(("cmd", line)) if !line.trim().is_empty() => Ok(Self::Command(line.to_owned())),
            Some(("systemd", name)) if is_file_name(name) => Ok(Self::Systemd(name.to_owned())),
            _ => Err(SecretError::Literal),
        }
    }
}

/// A loaded secret.
pub struct LoadedSecret {
    /// The secret's bytes.
    pub secret: Secret,
    /// Notes for the user: that a trailing newline was removed, or that the secret looks altered.
    pub notes: Vec<String>,
}

/// Reader of a [`SecretSource`]. The programs read the environment and files of the process; tests
/// use a map.
pub trait SecretReader {
    /// Reads the raw content of the source.
    ///
    /// # Errors
    /// If the variable is not set, or the file is unreadable.
    fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError>;

    /// Loads the secret whose source this text names, without one trailing newline.
    ///
    /// # Errors
    /// [`SecretError`].
    fn load(&self, text: &str) -> Result<LoadedSecret, SecretError> {
        self.load_from(SecretSource::parse(text)?)
    }

    /// Loads the secret of a source, without one trailing newline.
    ///
    /// # Errors
    /// [`SecretError`].
    fn load_from(&self, source: SecretSource) -> Result<LoadedSecret, SecretError> {
        let mut bytes = self.read(&source)?.to_vec();
        let newline_removed = bytes.last() == Some(&b'\n');
        if newline_removed {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }

        // Every command ends its output with one.
        let is_notable = newline_removed && !matches!(source, SecretSource::Command(_));
        let note = is_notable.then(|| format!("{source}: the trailing newline was trimmed"));
        let secret = Secret::new(bytes).ok_or(SecretError::Empty(source))?;

        Ok(LoadedSecret {
            secret,
            notes: note.into_iter().collect(),
        })
    }
}

/// Returns the program of a command, with two bytes of the line's digest, which tell two secrets of one
/// program apart. The rest may contain a secret of its own.
fn shown_command(line: &str) -> String {
    let mut words = line.split_whitespace();
    // Assignments of variables come first (POSIX.1-2017 §2.9.1).
    let program = words.find(|word| !word.contains('='));
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-+~".contains(char);
    let program = program.filter(|word| word.chars().all(is_plain));
    // Quotes and expansions make words that only the shell can tell.
    let is_simple = |word: &&str| {
        let before = line.split(*word).next().unwrap_or_default();
        !before.contains(['\'', '"', '\\', '$', '`', '('])
    };
    let program = program.filter(is_simple);
    let [first, second, ..] = *SecretDigest::of(line.as_bytes()).as_bytes();
    format!("{}…{first:02x}{second:02x}", program.unwrap_or_default())
}

/// Returns `true` for a name of a file in a given directory.
fn is_file_name(name: &str) -> bool {
    let is_part = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    !name.is_empty() && name.chars().all(is_part) && !matches!(name, "." | "..")
}

/// Returns `true` for a valid variable name (POSIX.1-2017 §8.1), in either case.
fn is_variable(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty()
        && name.bytes().all(plain)
        && !name.starts_with(|first: char| first.is_ascii_digit())
}
