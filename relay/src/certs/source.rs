//! Source of the edge's certificate: files of the settings, or a self-signed one. Watches the
//! files, and replaces the certificate in use when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_core::reason::Reason;
use hookward_runtime::reload::Reloads;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::resolver::CertificateResolver;
use super::review::{self, Finding, WantedNames};
use super::{CertError, CertificatePair, pem, self_signed};

/// Source of the edge's certificate.
#[derive(Debug, Clone)]
pub(crate) enum CertificateSource {
    /// Files of the settings: the chain, and its private key.
    Files { chain: PathBuf, key: PathBuf },
    /// A self-signed certificate in this directory, for these names.
    SelfSigned { dir: PathBuf, names: Vec<String> },
}

/// A loaded certificate, with the findings of its review.
pub(crate) struct LoadedCertificate {
    pub pair: CertificatePair,
    pub findings: Vec<Finding>,
}

impl CertificateSource {
    /// Returns the files to watch.
    pub(crate) fn files(&self) -> Vec<&Path> {
        match self {
            Self::Files { chain, key } => vec![chain, key],
            Self::SelfSigned { .. } => Vec::new(),
        }
    }

    /// Returns the path of the self-signed certificate that clients must trust, if there is one.
    pub(crate) fn self_signed(&self) -> Option<PathBuf> {
        match self {
            Self::Files { .. } => None,
            Self::SelfSigned { dir, .. } => Some(dir.join(self_signed::EDGE_FILE)),
        }
    }

    /// Loads the certificate, and reviews it. Makes or renews a self-signed one.
    ///
    /// # Errors
    /// [`CertError`], also for a pair that every sender rejects.
    pub(crate) fn load(
        &self,
        wanted: &WantedNames,
        clock: &Clock,
    ) -> Result<LoadedCertificate, CertError> {
        match self {
            Self::Files { chain, key } => {
                let pair = pem::read_pem(chain, key)?;
                let findings = review::review(&pair, (chain, key), wanted, clock.now())?;
                Ok(LoadedCertificate { pair, findings })
            }
            Self::SelfSigned { dir, names } => Ok(LoadedCertificate {
                pair: self_signed::self_signed(dir, names, clock.now())?,
                findings: Vec::new(),
            }),
        }
    }
}

/// Watches the source of the certificate in use.
pub(crate) struct CertificateWatch<W> {
    pub source: CertificateSource,
    pub resolver: Arc<CertificateResolver>,
    /// Returns the names that the certificate must cover now.
    pub wanted: W,
    pub clock: Clock,
    /// Findings of the certificate in use.
    pub findings: Vec<Finding>,
}

impl<W: Fn() -> WantedNames + Clone + Send + 'static> CertificateWatch<W> {
    /// Replaces the certificate when its files change or on SIGHUP, renews a self-signed one, and
    /// warns once a day of an expiry, until `stop` is cancelled.
    pub(crate) async fn run(mut self, mut reloads: Reloads, stop: CancellationToken) {
        let mut days = interval(REVIEW_INTERVAL);
        days.set_missed_tick_behavior(MissedTickBehavior::Delay);
        days.reset();

        loop {
            tokio::select! {
                () = reloads.next() => self.reload(&stop).await,
                _ = days.tick() => self.review().await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Loads the files again. The previous pair stays in force when the new one is bad.
    async fn reload(&mut self, stop: &CancellationToken) {
        let mut loaded = self.load().await;
        if loaded.is_err() {
            // Programs that renew certificates write one file after the other.
            tokio::select! {
                () = sleep(SETTLE_TIME) => {}
                () = stop.cancelled() => return,
            }
            loaded = self.load().await;
        }

        match loaded.and_then(|loaded| self.replace(loaded)) {
            Ok(expires) => tracing::info!(expires, "certificate reloaded"),
            Err(reason) => {
                tracing::error!(%reason, "the new certificate is unusable; the previous one stays in force");
            }
        }
    }

    /// Renews a self-signed certificate near its expiry, and repeats the warnings of one from files.
    async fn review(&mut self) {
        match self.load().await {
            Ok(loaded) => {
                loaded.findings.iter().for_each(Finding::log);
                if matches!(self.source, CertificateSource::SelfSigned { .. })
                    && let Err(reason) = self.replace(loaded)
                {
                    tracing::error!(%reason, "the self-signed certificate could not be renewed");
                }
            }
            Err(reason) => tracing::error!(%reason, "the certificate could not be reviewed"),
        }
    }

    async fn load(&self) -> Result<LoadedCertificate, Reason> {
        let (source, wanted, clock) =
            (self.source.clone(), self.wanted.clone(), self.clock.clone());
        // Reads files and the store.
        let loading = spawn_blocking(move || source.load(&wanted(), &clock)).await;
        let loaded = loading.map_err(|error| error.to_string())?;
        let loaded = loaded.map_err(|error| error.to_string())?;

        // A new certificate may have the faults of the one in use, and no others.
        let is_new = |finding: &&Finding| {
            finding.is_fault() && !self.findings.iter().any(|old| old.is_same_fault(finding))
        };
        match loaded.findings.iter().find(is_new) {
            Some(fault) => Err(fault.to_string().into()),
            None => Ok(loaded),
        }
    }

    /// Puts a certificate in force. Returns its expiry.
    fn replace(&mut self, loaded: LoadedCertificate) -> Result<String, Reason> {
        let LoadedCertificate { pair, findings } = loaded;
        let expires = review::expiry(&pair);
        self.resolver
            .replace(pair)
            .map_err(|error| error.to_string())?;
        findings.iter().for_each(Finding::log);
        self.findings = findings;
        Ok(expires)
    }
}

/// Interval between reviews of the certificate in use.
const REVIEW_INTERVAL: Duration = Duration::from_secs(86_400);

/// Time between a change of one file and the second attempt to load the pair.
const SETTLE_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_core::clock::UnixMillis;
    use hookward_core::names::HostName;

    /// A relay that runs for longer than its self-signed certificate is valid.
    #[tokio::test]
    async fn a_self_signed_certificate_is_renewed_before_it_expires() {
        const DAY: u64 = 86_400_000;
        const START: u64 = 1_800_000_000_000;

        let dir = tempfile::TempDir::new().unwrap();
        let set = Clock::at(UnixMillis(START));
        let source = CertificateSource::SelfSigned {
            dir: dir.path().to_owned(),
            names: vec!["hooks.example.test".to_owned()],
        };
        let wanted = || WantedNames {
            domain: HostName::parse("hooks.example.test").unwrap(),
            hosts: Vec::new(),
        };

        let first = source.load(&wanted(), &set).unwrap().pair;
        let chain = first.chain.clone();
        let mut watch = CertificateWatch {
            source,
            resolver: Arc::new(CertificateResolver::new(first).unwrap()),
            wanted,
            clock: set.clone(),
            findings: Vec::new(),
        };

        for (days, renewed) in [(300, false), (370, true)] {
            set.set(UnixMillis(START + days * DAY));
            watch.review().await;
            let current = watch.resolver.current();
            assert_eq!(current.cert != chain, renewed, "after {days} days");
        }
    }
}
