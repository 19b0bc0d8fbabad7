//! Resolves the edge's certificate for each TLS handshake.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hookward_core::names::HostName;
use hookward_tunnel::transport::identity::crypto_provider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::CertificatePair;

/// Certificates of the edge. Replacing one affects later handshakes only: connections are kept.
pub(crate) struct CertificateResolver {
    /// Certificate of the settings, or a self-signed one.
    own: ArcSwap<CertifiedKey>,
    issued: ArcSwap<IssuedCertificates>,
}

/// Certificates of the ACME server.
#[derive(Clone, Default)]
struct IssuedCertificates {
    /// Certificates by each name that they cover; a wildcard begins with `*.`.
    by_name: HashMap<String, Arc<CertifiedKey>>,
    /// Name whose certificate clients get that name none, or one without a certificate.
    default: Option<String>,
}

impl IssuedCertificates {
    fn find(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let exact = self.by_name.get(host);
        exact.or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        })
    }
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
            own: ArcSwap::from_pointee(certified(pair)?),
            issued: ArcSwap::default(),
        })
    }

    /// Replaces the certificate of the settings, or the self-signed one.
    ///
    /// # Errors
    /// As [`CertificateResolver::new`]; the previous pair then stays in force.
    pub(crate) fn replace(&self, pair: CertificatePair) -> Result<(), rustls::Error> {
        self.own.store(Arc::new(certified(pair)?));
        Ok(())
    }

    /// Sets the name whose certificate clients get that name none, or one without a certificate.
    pub(crate) fn set_default(&self, name: &str) {
        self.issued.rcu(|issued| {
            let mut issued = IssuedCertificates::clone(issued);
            issued.default = Some(name.to_owned());
            issued
        });
    }

    /// Adds or replaces a certificate of the ACME server.
    ///
    /// # Errors
    /// As [`CertificateResolver::new`]; a previous pair then stays in force.
    pub(crate) fn set_issued(
        &self,
        names: &[String],
        pair: CertificatePair,
    ) -> Result<(), rustls::Error> {
        let certified = Arc::new(certified(pair)?);
        self.issued.rcu(|issued| {
            let mut issued = IssuedCertificates::clone(issued);
            for name in names {
                issued.by_name.insert(name.clone(), Arc::clone(&certified));
            }
            issued
        });
        Ok(())
    }

    /// Returns `true` if this name has a certificate of the ACME server.
    pub(crate) fn has_issued(&self, name: &str) -> bool {
        self.issued.load().by_name.contains_key(name)
    }

    /// Removes a certificate of the ACME server.
    pub(crate) fn remove_issued(&self, names: &[String]) {
        self.issued.rcu(|issued| {
            let mut issued = IssuedCertificates::clone(issued);
            for name in names {
                issued.by_name.remove(name);
            }
            issued
        });
    }

    /// Returns the certificate of the settings, or the self-signed one.
    pub(crate) fn current(&self) -> Arc<CertifiedKey> {
        self.own.load_full()
    }

    /// Returns the certificates that clients get.
    pub(crate) fn in_use(&self) -> Vec<Arc<CertifiedKey>> {
        let issued = self.issued.load();
        if issued.by_name.is_empty() {
            return vec![self.current()];
        }
        let mut names: Vec<_> = issued.by_name.iter().collect();
        names.sort_by_key(|(name, _)| *name);
        let mut certificates: Vec<Arc<CertifiedKey>> = Vec::new();
        for (_, certificate) in names {
            if !certificates
                .iter()
                .any(|known| Arc::ptr_eq(known, certificate))
            {
                certificates.push(Arc::clone(certificate));
            }
        }
        certificates
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let issued = self.issued.load();
        let host = hello.server_name().and_then(HostName::parse);
        let named = host.and_then(|host| issued.find(host.as_str()).cloned());
        let default = || issued.by_name.get(issued.default.as_ref()?).cloned();
        Some(named.or_else(default).unwrap_or_else(|| self.current()))
    }
}

fn certified(pair: CertificatePair) -> Result<CertifiedKey, rustls::Error> {
    CertifiedKey::from_der(pair.chain, pair.key, &crypto_provider())
}
