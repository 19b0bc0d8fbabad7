//! Certificates: the relay's own identity for the tunnel, and the edge's certificate.
//!
//! Without a certificate in the settings, rcgen makes a self-signed one. The data directory keeps
//! it with mode 0600. [`review`] reports what senders will reject in a configured certificate.

mod identity;
pub(crate) mod review;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) use self::identity::IDENTITY_FILE;
pub use self::identity::TunnelIdentity;
use hookward_core::clock::UnixMillis;
use hookward_core::names::HostName;
use hookward_runtime::process;
use memchr::memmem;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use zeroize::Zeroizing;

/// Files of the self-signed certificate in the data directory: the certificate, its key, its names.
pub(crate) const EDGE_FILE: &str = "edge.pem";
pub(crate) const EDGE_KEY_FILE: &str = "edge-key.pem";
pub(crate) const EDGE_NAMES_FILE: &str = "edge.names";

/// Failure to load or make a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error("{path}: {source}")]
    File {
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// A file has unusable content.
    #[error("{path}: {what}")]
    Content {
        path: PathBuf,
        /// Description of the error.
        what: String,
    },
    #[error(
        "{path}: {what}. It holds the relay's identity, which every agent pins: restore it from a backup, or start once \
         with --reset, which sets it aside and makes another (every agent must join again)"
    )]
    Identity {
        path: PathBuf,
        /// Description of the error.
        what: String,
    },
    /// rcgen failed to make a certificate.
    #[error("making a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// A certificate chain with its key.
pub(crate) struct CertificatePair {
    /// The chain; the leaf certificate comes first.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// Reads a chain and a key from PEM files.
///
/// # Errors
/// [`CertError`] with the file's name.
pub(crate) fn read_pem(chain: &Path, key: &Path) -> Result<CertificatePair, CertError> {
    let content = |path: &Path, what: &str| CertError::Content {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let text = read_pem_text(chain)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(without_mark(&text))
        .collect::<Result<_, _>>()
        .map_err(|error| content(chain, &pem_error(&error)))?;
    if certificates.is_empty() {
        return Err(content(
            chain,
            "no certificate (PEM, -----BEGIN CERTIFICATE-----) in it",
        ));
    }

    let text = read_pem_text(key)?;
    let private = match PrivateKeyDer::from_pem_slice(without_mark(&text)) {
        Ok(private) => private,
        Err(_) if memmem::find(&text, b"ENCRYPTED").is_some() => {
            let what = "the private key is encrypted, and the relay has no password for it: write it without, \
                        with `openssl pkey -in KEY -out KEY.plain`, readable by the relay's user only";
            return Err(content(key, what));
        }
        Err(rustls_pki_types::pem::Error::NoItemsFound) => {
            return Err(content(
                key,
                "no private key (PEM, -----BEGIN PRIVATE KEY-----) in it",
            ));
        }
        Err(error) => return Err(content(key, &pem_error(&error))),
    };

    Ok(CertificatePair {
        chain: certificates,
        key: private,
    })
}

/// Reads a PEM file, which may hold a private key.
fn read_pem_text(path: &Path) -> Result<Zeroizing<Vec<u8>>, CertError> {
    let bytes = fs::read(path).map(Zeroizing::new);
    let bytes = bytes.map_err(|source| CertError::File {
        path: path.to_owned(),
        source,
    })?;

    // DER begins with a SEQUENCE (X.690 §8.9).
    if bytes.first() == Some(&0x30) && memmem::find(&bytes, b"-----BEGIN").is_none() {
        let what =
            "certificates and keys are read as PEM (-----BEGIN …-----), not as DER or PKCS#12"
                .to_owned();
        return Err(CertError::Content {
            path: path.to_owned(),
            what,
        });
    }

    Ok(bytes)
}

/// Returns the text without a byte order mark, which editors on Windows write.
fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Describes an error in a PEM file.
fn pem_error(error: &rustls_pki_types::pem::Error) -> String {
    use rustls_pki_types::pem::Error;

    match error {
        Error::MissingSectionEnd { .. } => {
            "it is cut off: a section begins and does not end".to_owned()
        }
        Error::IllegalSectionStart { .. } => {
            "a section does not begin as -----BEGIN …-----".to_owned()
        }
        Error::Base64Decode(_) => "a section is not valid base64".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the self-signed certificate for these names (wildcards allowed) and its path, which
/// clients must trust. Makes a new one when the names change or its expiry is near.
///
/// # Errors
/// [`CertError`].
pub(crate) fn self_signed(
    dir: &Path,
    names: &[String],
    now: UnixMillis,
) -> Result<(CertificatePair, PathBuf), CertError> {
    let (certificate, key, note) = (
        dir.join(EDGE_FILE),
        dir.join(EDGE_KEY_FILE),
        dir.join(EDGE_NAMES_FILE),
    );
    let end = now.seconds() + EDGE_LIFETIME.as_secs();
    let wanted = names.join("\n");

    let kept = fs::read_to_string(&note).ok().and_then(|text| {
        let (kept_end, kept_names) = text.split_once('\n')?;
        Some(
            kept_names == wanted
                && kept_end.parse::<u64>().ok()? > now.seconds() + EDGE_RENEW_BEFORE.as_secs(),
        )
    });

    let damage = match (certificate.exists() && key.exists()).then(|| make_pair(&certificate, &key))
    {
        None | Some(Ok(())) => None,
        Some(Err(error @ CertError::Content { .. })) => Some(error),
        // An unreadable file may be intact, so it is not replaced.
        Some(Err(error)) => return Err(error),
    };
    if let Some(error) = &damage {
        tracing::warn!(%error, "made a new self-signed certificate; clients must trust the new one");
    }

    if kept != Some(true) || damage.is_some() || !certificate.exists() || !key.exists() {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = named("Hookward self-signed");

        let at = |seconds: u64| {
            let seconds = i64::try_from(seconds).unwrap_or_default();
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        params.not_before = at(now.seconds().saturating_sub(86_400)); // clocks differ
        params.not_after = at(end);

        let made = params.self_signed(&pair)?;
        write_secret(&key, &pair.serialize_pem())?;
        write_secret(&certificate, &made.pem())?;
        write_secret(&note, &format!("{end}\n{wanted}"))?;
    }

    Ok((read_pem(&certificate, &key)?, certificate))
}

/// Lifetime of a self-signed edge certificate: the maximum for public ones.
const EDGE_LIFETIME: Duration = Duration::from_secs(397 * 86_400);

/// Remaining lifetime at which the relay renews its self-signed certificate.
const EDGE_RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Makes the relay's self-signed certificate and its key.
fn make_pair(certificate: &Path, key: &Path) -> Result<(), CertError> {
    let certified = read_pem(certificate, key)?;
    let content = |what: String| CertError::Content {
        path: certificate.to_owned(),
        what,
    };
    review::check_key(&certified, key).map_err(|reason| content(reason.into()))
}

/// Returns the names of a relay's self-signed certificate: its domain, one label below it, and the
/// reserved hosts. Those below the domain are listed in full as well: clients reject a wildcard
/// directly below a top-level name such as `localhost`.
#[must_use]
pub(crate) fn names_of<'h>(
    domain: &HostName,
    given: impl Iterator<Item = &'h HostName>,
) -> Vec<String> {
    let mut names = vec![domain.to_string(), format!("*.{domain}")];
    for host in given.filter(|host| *host != domain) {
        names.push(host.to_string());
    }
    names
}

/// Writes a file that only its owner can read.
fn write_secret(path: &Path, content: &str) -> Result<(), CertError> {
    process::write_private(path, content.as_bytes()).map_err(|source| CertError::File {
        path: path.to_owned(),
        source,
    })
}

fn named(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}
