//! TLS to the application: verified by the system's authorities, or by the user's own; or, where the user says
//! so in words, not at all.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hookward_shared::config::Problem;
use hookward_shared::transport::identity::crypto_provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Whom to trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Certificates (PEM) to trust beside the system's.
    pub ca: Option<PathBuf>,
    /// Nobody is verified.
    pub insecure: bool,
}

/// TLS by this trust.
///
/// # Errors
/// What is wrong with the certificates.
pub fn config(trust: &Trust, http2: bool) -> Result<Arc<ClientConfig>, Problem> {
    let provider = crypto_provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Problem::new("TLS", error.to_string()))?;
    let mut config = if trust.insecure {
        let anybody = Arc::new(Anybody { provider });
        builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots(trust)?).with_no_client_auth()
    };
    config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(Arc::new(config))
}

fn roots(trust: &Trust) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let Some(path) = &trust.ca else { return Ok(roots) };
    let failed = |error: &dyn std::fmt::Display| Problem::new("--upstream-ca", format!("{}: {error}", path.display()));
    let before = roots.len();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
        roots.add(certificate.map_err(|error| failed(&error))?).map_err(|error| failed(&error))?;
    }
    if roots.len() == before { Err(failed(&"no certificate in it")) } else { Ok(roots) }
}

/// Says what to do about a handshake that failed, where that can be said.
pub(super) fn explain(error: io::Error) -> io::Error {
    use rustls::{CertificateError, InvalidMessage};
    let what = match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "name its authority with --upstream-ca"
        }
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => "does it speak http, without TLS?",
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {what}"))
}

/// Takes every certificate. Who can stand in the way can read and change everything.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
