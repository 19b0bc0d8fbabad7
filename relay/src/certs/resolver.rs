//! Resolves the edge's certificate for each TLS handshake.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hookward_tunnel::transport::identity::crypto_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::CertificatePair;

/// Certificate of the edge. Replacing it affects later handshakes only: connections are kept.
pub(crate) struct CertificateResolver {
    current: ArcSwap<CertifiedKey>,
}

// Not derived: the key stays out of every log.
impl fmt::Debug for CertificateResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateResolver")
    }
}

impl CertificateResolver {
    /// Creates a resolver with this pair.
    ///
    /// # Errors
    /// If the key is unusable, or does not match the certificate.
    pub(crate) fn new(pair: CertificatePair) -> Result<Self, rustls::Error> {
        Ok(Self {
            current: ArcSwap::from_pointee(certified(pair)?),
        })
    }

    /// Replaces the certificate.
    ///
    /// # Errors
    /// As [`CertificateResolver::new`]; the previous pair then stays in force.
    pub(crate) fn replace(&self, pair: CertificatePair) -> Result<(), rustls::Error> {
        self.current.store(Arc::new(certified(pair)?));
        Ok(())
    }

    /// Returns the certificate in use.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        self.current.load_full()
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

fn certified(pair: CertificatePair) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(pair.chain, pair.key, &crypto_provider())
}
