//! TLS to the application: verified by the system's authorities, or by the user's own; or, where
//! the user says so in words, not at all.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hookward_core::diagnostics::Diagnostic;
use hookward_tunnel::transport::identity::crypto_provider;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Certificates (PEM) to trust beside the system's.
    pub ca: Option<PathBuf>,
    pub insecure: bool,
}

/// TLS by this trust.
///
/// # Errors
/// What is wrong with the certificates.
pub(crate) fn config(trust: &Trust, http2: bool) -> Result<Arc<ClientConfig>, Diagnostic> {
    let mut config = if trust.insecure {
        let provider = crypto_provider();
        let anybody = Arc::new(AcceptAnyCertificate {
            provider: Arc::clone(&provider),
        });

        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Diagnostic::new("TLS", error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(anybody)
            .with_no_client_auth()
    } else {
        trusting(trust.ca.as_deref(), "--upstream-ca")?
    };

    config.alpn_protocols = vec![if http2 {
        b"h2".to_vec()
    } else {
        b"http/1.1".to_vec()
    }];

    Ok(Arc::new(config))
}

/// TLS that trusts the system's authorities and the certificates of a file (PEM), which `flag` has
/// named.
///
/// # Errors
/// What is wrong with the certificates.
pub(crate) fn trusting(ca: Option<&Path>, flag: &'static str) -> Result<ClientConfig, Diagnostic> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let given = ca
        .map(|path| certificates(path, flag))
        .transpose()?
        .unwrap_or_default();
    for certificate in &given {
        roots
            .add(certificate.clone())
            .map_err(|error| Diagnostic::new(flag, error.to_string()))?;
    }

    let provider = crypto_provider();
    let failed = |error: &dyn std::fmt::Display| Diagnostic::new("TLS", error.to_string());
    let authorities =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let authorities = authorities.build().map_err(|error| match error {
        VerifierBuilderError::NoRootAnchors => Diagnostic::new(
            flag,
            "missing: this system has no certificates of authorities, so none is trusted",
        ),
        other => failed(&other),
    })?;

    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExtendedVerifier { authorities, given }))
        .with_no_client_auth())
}

fn certificates(
    path: &Path,
    flag: &'static str,
) -> Result<Vec<CertificateDer<'static>>, Diagnostic> {
    let failed = |error: &dyn std::fmt::Display| {
        Diagnostic::new(flag, format!("{}: {error}", path.display()))
    };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
    let certificates = read
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| failed(&error))?;
    if certificates.is_empty() {
        Err(failed(&"no certificate in it"))
    } else {
        Ok(certificates)
    }
}

/// Returns `true` if a handshake failed for a certificate that no known authority has issued.
#[must_use]
pub(crate) fn is_of_unknown_issuer(error: &io::Error) -> bool {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());

    matches!(
        inner,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::UnknownIssuer
        ))
    )
}

/// Says what to do about a handshake that failed, where that can be said.
pub(super) fn explain(error: io::Error) -> io::Error {
    use rustls::InvalidMessage;

    let what = match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "name its authority with --upstream-ca"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "name the application by a name that its certificate has",
        Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
            "does it speak http, without TLS?"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), format!("{error}; {what}"))
}

/// Returns `true` for a certificate that no authority has issued, and for one of an authority in a
/// server's place (RFC 5280 §4.2.1.9).
fn is_about_its_issuer(error: &CertificateError) -> bool {
    match error {
        CertificateError::UnknownIssuer => true,
        CertificateError::Other(other) => {
            other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}

/// Verifier that also accepts exactly the certificates in the given file, as curl does.
/// Certificates that applications make for themselves are often those of authorities, which webpki
/// rejects.
#[derive(Debug)]
struct ExtendedVerifier {
    authorities: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for ExtendedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.authorities.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Its dates were right: webpki looks at them before it looks for an issuer.
            Err(rustls::Error::InvalidCertificate(error))
                if is_about_its_issuer(&error) && self.given.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// Takes every certificate. Who can stand in the way can read and change everything.
#[derive(Debug)]
struct AcceptAnyCertificate {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAnyCertificate {
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
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
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
