//! Reads certificates and keys from PEM files.

use std::fs;
use std::path::Path;

use memchr::memmem;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::{CertError, CertificatePair};

/// Reads a chain and a key from PEM files.
///
/// # Errors
/// [`CertError`] with the file's name.
pub(crate) fn read_pem(chain: &Path, key: &Path) -> Result<CertificatePair, CertError> {
    parse_pem((chain, &read_pem_text(chain)?), (key, &read_pem_text(key)?))
}

/// Parses a chain and a key, which the files contain or will contain.
///
/// # Errors
/// [`CertError`] with the file's name.
pub(crate) fn parse_pem(
    (chain, chain_text): (&Path, &[u8]),
    (key, key_text): (&Path, &[u8]),
) -> Result<CertificatePair, CertError> {
    let content = |path: &Path, what: &str| CertError::Content {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(without_mark(chain_text))
        .collect::<Result<_, _>>()
        .map_err(|error| content(chain, &pem_error(&error)))?;
    if certificates.is_empty() {
        return Err(content(
            chain,
            "no certificate (PEM, -----BEGIN CERTIFICATE-----) in it",
        ));
    }

    let private = match PrivateKeyDer::from_pem_slice(without_mark(key_text)) {
        Ok(private) => private,
        Err(_) if memmem::find(key_text, b"ENCRYPTED").is_some() => {
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
