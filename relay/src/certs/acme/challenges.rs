//! Challenges that an ACME server may validate now: certificates of TLS-ALPN-01 (RFC 8737), and
//! texts of HTTP-01 (RFC 8555 §8.3).

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hookward_core::names::HostName;
use hookward_tunnel::transport::identity::crypto_provider;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

/// Challenges in progress; clones share them. They never show anything to other clients: the
/// certificates answer `acme-tls/1` only, and the texts have a random token as name.
#[derive(Clone, Default)]
pub(crate) struct Challenges(Arc<Inner>);

#[derive(Default)]
struct Inner {
    // Std mutexes: they guard a few entries, and nothing waits while they are held.
    certificates: Mutex<HashMap<HostName, Arc<CertifiedKey>>>,
    texts: Mutex<HashMap<String, String>>,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges")
    }
}

/// Guard of an offered challenge, which ends with it.
pub(super) struct OfferedChallenge(Option<Box<dyn FnOnce() + Send>>);

impl Drop for OfferedChallenge {
    fn drop(&mut self) {
        if let Some(withdraw) = self.0.take() {
            withdraw();
        }
    }
}

impl Challenges {
    /// Offers the certificate of a TLS-ALPN-01 challenge.
    ///
    /// # Errors
    /// rcgen's or rustls's, as text.
    pub(super) fn offer_certificate(
        &self,
        host: &HostName,
        digest: &[u8],
    ) -> Result<OfferedChallenge, String> {
        let made = || {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(vec![host.to_string()])?;
            params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
            let certificate = params.self_signed(&key)?;
            Ok::<_, rcgen::Error>((certificate, key))
        };
        let (certificate, key) = made().map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
        let chain = vec![certificate.der().clone()];
        let signing = crypto_provider().key_provider.load_private_key(key);
        let signing = signing.map_err(|error| error.to_string())?;
        // `from_der` would refuse the critical extension of the challenge.
        let certified = CertifiedKey::new(chain, signing);

        lock(&self.0.certificates).insert(host.clone(), Arc::new(certified));
        let (challenges, host) = (self.clone(), host.clone());
        Ok(OfferedChallenge(Some(Box::new(move || {
            lock(&challenges.0.certificates).remove(&host);
        }))))
    }

    /// Offers the text of an HTTP-01 challenge.
    pub(super) fn offer_text(&self, token: &str, text: &str) -> OfferedChallenge {
        lock(&self.0.texts).insert(token.to_owned(), text.to_owned());
        let (challenges, token) = (self.clone(), token.to_owned());
        OfferedChallenge(Some(Box::new(move || {
            lock(&challenges.0.texts).remove(&token);
        })))
    }

    /// Returns the text of the HTTP-01 challenge with this token.
    pub(crate) fn text(&self, token: &str) -> Option<String> {
        lock(&self.0.texts).get(token).cloned()
    }
}

impl ResolvesServerCert for Challenges {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let host = HostName::parse(hello.server_name()?)?;
        lock(&self.0.certificates).get(&host).cloned()
    }
}

fn lock<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>) -> MutexGuard<'_, HashMap<K, V>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}
