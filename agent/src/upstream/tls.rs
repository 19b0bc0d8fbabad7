//! TLS to the application: verified by the system's authorities or the user's certificates, or not
//! at all if the user requests that explicitly.

mod verifier;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::verifier::{AcceptAnyCertificate, ExtendedVerifier};
use hookward_core::diagnostics::Diagnostic;
use hookward_tunnel::transport::identity::crypto_provider;
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Certificates (PEM) to trust, in addition to the system's.
    pub ca: Option<PathBuf>,
    pub insecure: bool,
}

/// Creates the TLS settings.
///
/// # Errors
/// Fault of the certificates.
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

/// Creates TLS settings that trust the system's authorities and the certificates of a file (PEM),
/// which `flag` named.
///
/// # Errors
/// Fault of the certificates.
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

/// Returns `true` if a handshake failed because no known authority issued the certificate.
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

/// Adds a remedy to a failed handshake, if one is known.
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

/// Returns `true` for a certificate without a known issuer, and for an authority's certificate used
/// by a server (RFC 5280 §4.2.1.9).
fn is_about_its_issuer(error: &CertificateError) -> bool {
    match error {
        CertificateError::UnknownIssuer => true,
        CertificateError::Other(other) => {
            other.0.downcast_ref::<webpki::Error>() == Some(&webpki::Error::CaUsedAsEndEntity)
        }
        _ => false,
    }
}
