//! Account and certificates of an ACME server in the data directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hookward_runtime::process;
use instant_acme::AccountCredentials;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::AcmeError;
use crate::certs::review::dns_names;
use crate::certs::{CertificatePair, pem};

/// Directory of the files below the data directory.
const DIRECTORY: &str = "acme";

const ACCOUNT_FILE: &str = "account.json";

const FIRST_CERTIFICATES_FILE: &str = "first-certificates.json";

/// Files of one ACME server, readable by the relay's user only. Those of another server stay beside
/// them, so that a change of the server issues everything again.
pub(super) struct AcmeFiles {
    dir: PathBuf,
}

/// A certificate of the ACME server.
pub(super) struct IssuedCertificate {
    pub pair: CertificatePair,
    /// Names that it covers.
    pub names: Vec<String>,
    /// Times in seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
}

impl AcmeFiles {
    /// Creates the directory for the server with this URL.
    ///
    /// # Errors
    /// Error of the system.
    pub(super) fn create(data_dir: &Path, server: &str) -> io::Result<Self> {
        let name: String = server
            .trim_start_matches("https://")
            .chars()
            .map(|char| match char {
                'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => char,
                _ => '_',
            })
            .collect();
        let dir = data_dir.join(DIRECTORY).join(name.trim_matches('.'));
        process::make_private_dir(&data_dir.join(DIRECTORY))?;
        process::make_private_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Returns the account, if there is one. Sets a damaged one aside.
    ///
    /// # Errors
    /// [`AcmeError::File`].
    pub(super) fn account(&self) -> Result<Option<AccountCredentials>, AcmeError> {
        let path = self.dir.join(ACCOUNT_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(file_error(&path)(error)),
        };
        match serde_json::from_slice(&text) {
            Ok(credentials) => Ok(Some(credentials)),
            Err(error) => {
                let aside = self.dir.join(format!("{ACCOUNT_FILE}.damaged"));
                fs::rename(&path, &aside).map_err(file_error(&path))?;
                tracing::error!(%error, kept_as = %aside.display(), "the ACME account is damaged; another one is created");
                Ok(None)
            }
        }
    }

    /// Keeps the account.
    ///
    /// # Errors
    /// [`AcmeError::File`].
    pub(super) fn keep_account(&self, account: &AccountCredentials) -> Result<(), AcmeError> {
        let path = self.dir.join(ACCOUNT_FILE);
        let text = serde_json::to_vec(account);
        let text = text.map_err(|error| file_error(&path)(io::Error::other(error)))?;
        process::write_private(&path, &text).map_err(file_error(&path))
    }

    /// Returns the certificate of a name, if there is a usable one.
    pub(super) fn certificate(&self, name: &str) -> Option<IssuedCertificate> {
        let path = self.path(name);
        if !path.exists() {
            return None;
        }
        let parsed = pem::read_pem(&path, &path)
            .map_err(|error| error.to_string())
            .and_then(|pair| parse(pair, &path));
        match parsed {
            Ok(issued) => Some(issued),
            Err(error) => {
                tracing::error!(%error, "the kept certificate is unusable; another one is ordered");
                None
            }
        }
    }

    /// Parses a new certificate, with its key.
    ///
    /// # Errors
    /// [`AcmeError::Certificate`].
    pub(super) fn parse(&self, name: &str, text: &str) -> Result<IssuedCertificate, AcmeError> {
        let (path, text) = (self.path(name), text.as_bytes());
        let pair = pem::parse_pem((&path, text), (&path, text));
        let pair = pair.map_err(|error| AcmeError::Certificate(error.to_string()))?;
        parse(pair, &path).map_err(AcmeError::Certificate)
    }

    /// Keeps chain and key in one file, so that they always match.
    ///
    /// # Errors
    /// [`AcmeError::File`]; the earlier file stays.
    pub(super) fn keep_certificate(&self, name: &str, text: &str) -> Result<(), AcmeError> {
        let path = self.path(name);
        process::write_private(&path, text.as_bytes()).map_err(file_error(&path))
    }

    /// Returns the times of first certificates, in seconds since 1970.
    pub(super) fn first_certificates(&self) -> Vec<i64> {
        let text = fs::read(self.dir.join(FIRST_CERTIFICATES_FILE)).unwrap_or_default();
        // A count that is lost begins anew.
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Keeps the times of first certificates.
    ///
    /// # Errors
    /// [`AcmeError::File`].
    pub(super) fn keep_first_certificates(&self, times: &[i64]) -> Result<(), AcmeError> {
        let path = self.dir.join(FIRST_CERTIFICATES_FILE);
        let text = serde_json::json!(times).to_string();
        process::write_private(&path, text.as_bytes()).map_err(file_error(&path))
    }

    /// Removes expired certificates of names that are not served any more. One that is valid stays, for
    /// a host that gets an owner again.
    pub(super) fn remove_expired(&self, served: &[String], now_s: i64) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_suffix(".pem")) else {
                continue;
            };
            let is_served = served.iter().any(|served| served == name);
            let has_expired = || {
                self.certificate(name)
                    .is_none_or(|issued| issued.not_after < now_s)
            };
            if !is_served && has_expired() {
                // It is tried again tomorrow.
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Returns `true` if there is a file of a name.
    pub(super) fn has_certificate(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// Returns the file of a name, which is a valid host name.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pem"))
    }
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> AcmeError {
    move |source| AcmeError::File {
        path: path.to_owned(),
        source,
    }
}

fn parse(pair: CertificatePair, path: &Path) -> Result<IssuedCertificate, String> {
    crate::certs::review::check_key(&pair, path).map_err(String::from)?;
    let first = pair.chain.first().ok_or("no certificate")?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|error| error.to_string())?;
    let validity = certificate.validity();
    Ok(IssuedCertificate {
        names: dns_names(&certificate),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
        pair,
    })
}
