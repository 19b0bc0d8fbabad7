//! The relay's identity: the key that agents pin.

use super::pem::read_pem;
use super::{CertError, CertificatePair, named, write_secret};
use hookward_tunnel::transport::identity::Pin;
use hookward_tunnel::transport::quic::SERVER_NAME;
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// File of the relay's identity in the data directory.
pub(crate) const IDENTITY_FILE: &str = "identity.pem";

/// The relay's identity towards its agents, constant as long as its data directory exists.
pub struct TunnelIdentity {
    /// Certificate that carries the key. Agents ignore its other fields.
    pub certificate: CertificateDer<'static>,
    /// Private key of the certificate.
    pub key: PrivateKeyDer<'static>,
    /// Pin that agents compare with the key.
    pub pin: Pin,
}

impl TunnelIdentity {
    /// Loads the identity in this directory, or makes one if there is none.
    ///
    /// # Errors
    /// `CertError`. A broken file is an error and is never replaced: every agent would lose access.
    pub fn load_or_make(dir: &Path) -> Result<Self, CertError> {
        let path = dir.join(IDENTITY_FILE);
        if !path.exists() {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![SERVER_NAME.to_owned()])?;
            params.distinguished_name = named("Hookward relay identity");
            params.not_after = rcgen::date_time_ymd(9999, 12, 31); // RFC 5280 §4.1.2.5: no end

            let certificate = params.self_signed(&key)?;
            write_secret(
                &path,
                &format!("{}{}", certificate.pem(), key.serialize_pem()),
            )?;
        }

        Self::load(dir)
    }

    /// Loads the identity in this directory.
    ///
    /// # Errors
    /// `CertError`, also if there is none.
    pub fn load(dir: &Path) -> Result<Self, CertError> {
        let path = dir.join(IDENTITY_FILE);
        if !path.exists() {
            return Err(CertError::Identity {
                path,
                what: "it is missing".to_owned(),
            });
        }

        let content = |what: String| CertError::Identity {
            path: path.clone(),
            what,
        };
        let CertificatePair { chain, key } =
            read_pem(&path, &path).map_err(|error| match error {
                CertError::Content { what, .. } => content(what),
                other => other,
            })?;
        let certificate = chain
            .into_iter()
            .next()
            .ok_or_else(|| content("no certificate in it".to_owned()))?;
        let pin = Pin::of_certificate(&certificate).map_err(|error| content(error.to_string()))?;

        Ok(Self {
            certificate,
            key,
            pin,
        })
    }
}
