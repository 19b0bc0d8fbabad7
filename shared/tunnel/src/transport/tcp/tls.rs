//! TLS settings of the tunnel over TCP.

use crate::protocol::ALPN;
use crate::transport::identity::{PinnedVerifier, Pins, crypto_provider};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// Returns the TLS settings of the agent's side, which accept only the relay with these pins.
///
/// # Errors
/// If rustls rejects the settings.
pub fn client_tls(pins: Pins) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = crypto_provider();
    let verifier = PinnedVerifier {
        pins,
        provider: Arc::clone(&provider),
    };

    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous() // which only means: not the web's authorities, but the pin
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];

    Ok(Arc::new(tls))
}

/// Returns the TLS settings of the relay's side: its identity, on the port of the edge.
///
/// # Errors
/// If rustls rejects the settings.
pub fn server_tls(
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut tls = ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(tls))
}
