//! TLS at the edge: rustls with the relay's certificate, HTTP/2 or HTTP/1.1 by ALPN.

use std::sync::Arc;

use hookward_shared::transport::identity::crypto_provider;
use rustls::ServerConfig;
use tokio_rustls::TlsAcceptor;

use crate::certs::Certified;

/// HTTP/2, as ALPN names it (RFC 9113 §3.1).
pub const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// What accepts TLS connections with this certificate.
///
/// # Errors
/// When the key does not fit the certificate.
pub fn acceptor(certified: Certified) -> Result<TlsAcceptor, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certified.chain, certified.key)?;
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
