//! The relay's identity towards its agents: a key of its own, created at the first start, and pinned.
//!
//! The tunnel does not use the edge's certificate. So certificates can change without notice to the
//! agents, and no certificate authority can impersonate the relay.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// SHA-256 of a public key (its SubjectPublicKeyInfo, as in RFC 7469 §2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pin([u8; 32]);

impl Pin {
    /// Returns the pin of no key, for a relay whose key is unknown: every key differs from it.
    #[must_use]
    pub const fn of_no_key() -> Self {
        Self([0; 32])
    }

    /// Returns the pin of the key in a certificate.
    ///
    /// # Errors
    /// If the certificate is malformed.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|_| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
        })?;
        Ok(Self(
            Sha256::digest(certificate.subject_public_key_info()).into(),
        ))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", BASE64.encode(&self.0))
    }
}

impl std::str::FromStr for Pin {
    type Err = PinError;

    /// Parses a pin as the relay shows it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.strip_prefix("sha256/").ok_or(PinError)?;
        let bytes = BASE64.decode(encoded.as_bytes()).map_err(|_| PinError)?;
        bytes.try_into().map(Self).map_err(|_| PinError)
    }
}

/// The text is not a pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a pin is sha256/ and 44 characters, as `hookward-relay status` shows it")]
pub struct PinError;

impl TryFrom<String> for Pin {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        BASE64URL_NOPAD
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .map(Self)
            .ok_or("a pin is the base64url of a SHA-256 digest")
    }
}

impl From<Pin> for String {
    fn from(pin: Pin) -> Self {
        BASE64URL_NOPAD.encode(&pin.0)
    }
}

/// Returns the cryptography of both programs: aws-lc-rs, with X25519MLKEM768 preferred.
#[must_use]
pub fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Keys that an agent accepts from its relay: one, or two while the relay changes it. Clones share the
/// last refused key.
#[derive(Debug, Clone)]
pub struct Pins {
    first: Pin,
    second: Option<Pin>,
    // A std mutex: it guards one value, and nothing waits while it is held.
    refused: Arc<Mutex<Option<Pin>>>,
}

impl Pins {
    /// Creates the pins of a relay.
    #[must_use]
    pub fn new(first: Pin, second: Option<Pin>) -> Self {
        Self {
            first,
            second,
            refused: Arc::default(),
        }
    }

    /// Returns the first pin.
    #[must_use]
    pub const fn first(&self) -> Pin {
        self.first
    }

    /// Returns the pin of the last key that was refused.
    #[must_use]
    pub fn refused(&self) -> Option<Pin> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepts(&self, pin: Pin) -> bool {
        let is_known = pin == self.first || self.second == Some(pin);
        if !is_known {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            *refused = Some(pin);
        }
        is_known
    }
}

/// Accepts only the relay whose key has one of these pins, and ignores the other fields of its certificate.
#[derive(Debug)]
pub(crate) struct PinnedVerifier {
    pub(crate) pins: Pins,
    pub(crate) provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pins.accepts(Pin::of_certificate(end_entity)?) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::InvalidCertificate(
            rustls::CertificateError::ApplicationVerificationFailure,
        ))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // QUIC is TLS 1.3 (RFC 9001 §4.2).
        Err(rustls::Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls13RequiredForQuic,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
