//! Source of the edge's certificate: files of the settings, or a self-signed one. Watches the
//! files, and replaces the certificate in use when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_core::reason::Reason;
use hookward_observe::audit::{Actor, AuditLog};
use hookward_runtime::interval::every;
use hookward_runtime::reload::Reloads;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
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

    /// Reviews a chain of this source.
    fn review(
        &self,
        chain: &[CertificateDer<'static>],
        wanted: &WantedNames,
        clock: &Clock,
    ) -> Vec<Finding> {
        match self {
            Self::Files { chain: file, .. } => review::findings(chain, file, wanted, clock.now()),
            Self::SelfSigned { .. } => Vec::new(),
        }
    }
}

/// Watches the source of the certificate in use.
pub(crate) struct CertificateWatch<W> {
    source: CertificateSource,
    resolver: Arc<CertificateResolver>,
    /// Returns the names that the certificate must cover now.
    wanted: W,
    clock: Clock,
    audit: AuditLog,
    /// Reason for which the files were refused last; the watch tries them again.
    refused: Option<Reason>,
}

impl<W: Fn() -> WantedNames + Clone + Send + 'static> CertificateWatch<W> {
    pub(crate) fn new(
        source: CertificateSource,
        resolver: Arc<CertificateResolver>,
        wanted: W,
        clock: Clock,
    ) -> Self {
        Self {
            audit: AuditLog::off(clock.clone()),
            source,
            resolver,
            wanted,
            clock,
            refused: None,
        }
    }

    /// Records changes of the certificate in this log.
    pub(crate) fn recorded_in(self, audit: AuditLog) -> Self {
        Self { audit, ..self }
    }

    /// Runs until `stop` is cancelled. Reloads the files after a change and on SIGHUP. Renews a
    /// self-signed certificate. Warns daily before an expiry.
    pub(crate) async fn run(mut self, mut reloads: Reloads, stop: CancellationToken) {
        let (mut days, mut retries) = (every(REVIEW_INTERVAL), every(RETRY_INTERVAL));
        days.reset();

        loop {
            tokio::select! {
                () = reloads.next() => self.on_change(&stop).await,
                _ = retries.tick(), if self.refused.is_some() => self.reload().await,
                _ = days.tick() => self.on_day().await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Reloads changed files. Programs that renew certificates write one file after the other, so a
    /// bad pair gets a second chance.
    async fn on_change(&mut self, stop: &CancellationToken) {
        let mut loaded = self.load().await;
        if loaded.is_err() {
            tokio::select! {
                () = sleep(SETTLE_TIME) => {}
                () = stop.cancelled() => return,
            }
            loaded = self.load().await;
        }
        self.refused = None;
        self.apply(loaded);
    }

    /// Loads the files. The previous pair stays in force when the new one is bad.
    async fn reload(&mut self) {
        let loaded = self.load().await;
        self.apply(loaded);
    }

    fn apply(&mut self, loaded: Result<LoadedCertificate, Reason>) {
        match loaded.and_then(|loaded| self.replace(loaded)) {
            Ok(expires) => {
                self.refused = None;
                tracing::info!(
                    event = "certificate_loaded",
                    expires,
                    "certificate reloaded"
                );
                let details = json!({ "expires": expires });
                self.audit
                    .act("certificate_loaded", Actor::program(), details);
            }
            // Logged once, although the watch tries again.
            Err(reason) if self.refused.as_ref() == Some(&reason) => {}
            Err(reason) => {
                tracing::error!(
                    event = "certificate_refused", %reason,
                    "the new certificate is unusable; the previous one stays in force"
                );
                let details = json!({ "reason": reason.to_string() });
                self.audit
                    .act("certificate_refused", Actor::program(), details);
                self.refused = Some(reason);
            }
        }
    }

    /// Renews a self-signed certificate near its expiry, and repeats the warnings of one from files.
    async fn on_day(&mut self) {
        match self.source {
            CertificateSource::SelfSigned { .. } => self.reload().await,
            CertificateSource::Files { .. } => {
                self.review_current().await.iter().for_each(Finding::log);
            }
        }
    }

    /// Reviews the certificate in use.
    async fn review_current(&self) -> Vec<Finding> {
        let (resolver, source) = (Arc::clone(&self.resolver), self.source.clone());
        let (wanted, clock) = (self.wanted.clone(), self.clock.clone());
        let review = move || source.review(&resolver.current().cert, &wanted(), &clock);
        spawn_blocking(review).await.unwrap_or_default()
    }

    async fn load(&self) -> Result<LoadedCertificate, Reason> {
        let (source, resolver) = (self.source.clone(), Arc::clone(&self.resolver));
        let (wanted, clock) = (self.wanted.clone(), self.clock.clone());
        // Reads files and the store.
        let loading = spawn_blocking(move || {
            let wanted = wanted();
            let loaded = source.load(&wanted, &clock)?;
            // By the same names and time, because both may have changed since the last load.
            let current = source.review(&resolver.current().cert, &wanted, &clock);
            Ok::<_, CertError>((loaded, current))
        });
        let loaded = loading.await.map_err(|error| error.to_string())?;
        let (loaded, current) = loaded.map_err(|error| error.to_string())?;

        // A new certificate may have the faults of the one in use, and no others.
        let is_new = |finding: &&Finding| {
            finding.is_fault() && !current.iter().any(|old| old.is_same_fault(finding))
        };
        match loaded.findings.iter().find(is_new) {
            Some(fault) => Err(fault.to_string().into()),
            None => Ok(loaded),
        }
    }

    /// Puts a certificate in force. Returns its expiry.
    fn replace(&self, loaded: LoadedCertificate) -> Result<String, Reason> {
        let expires = review::expiry(&loaded.pair);
        self.resolver
            .replace(loaded.pair)
            .map_err(|error| error.to_string())?;
        loaded.findings.iter().for_each(Finding::log);
        Ok(expires)
    }
}

/// Interval between attempts to load files that were refused: their owner, or the clock, may change.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

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
            hosts: Some(Vec::new()),
        };

        let first = source.load(&wanted(), &set).unwrap().pair;
        let chain = first.chain.clone();
        let resolver = Arc::new(CertificateResolver::new(first).unwrap());
        let mut watch = CertificateWatch::new(source, resolver, wanted, set.clone());

        for (days, renewed) in [(300, false), (370, true)] {
            set.set(UnixMillis(START + days * DAY));
            watch.on_day().await;
            let current = watch.resolver.current();
            assert_eq!(current.cert != chain, renewed, "after {days} days");
        }
    }

    /// An agent may claim a host after the certificate was issued. That must not stop its renewal.
    #[tokio::test]
    async fn a_renewal_may_have_the_faults_of_the_certificate_in_use() {
        let dir = tempfile::TempDir::new().unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        let write = |name: &str| {
            let pair = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
            std::fs::write(&chain, pair.cert.pem()).unwrap();
            std::fs::write(&key, pair.signing_key.serialize_pem()).unwrap();
        };
        let wanted = || WantedNames {
            domain: HostName::parse("example.test").unwrap(),
            hosts: ["a.example.test", "b.example.test"]
                .map(HostName::parse)
                .into_iter()
                .collect(),
        };

        write("a.example.test");
        let source = CertificateSource::Files {
            chain: chain.clone(),
            key: key.clone(),
        };
        let first = source.load(&wanted(), &Clock::default()).unwrap().pair;
        let resolver = Arc::new(CertificateResolver::new(first).unwrap());
        let before = resolver.current();
        let mut watch =
            CertificateWatch::new(source, Arc::clone(&resolver), wanted, Clock::default());

        write("a.example.test");
        watch.reload().await;
        let renewed = resolver.current();
        assert!(watch.refused.is_none() && renewed.cert != before.cert);

        write("elsewhere.test");
        watch.reload().await;
        assert!(watch.refused.is_some(), "the watch tries again");
        assert_eq!(resolver.current().cert, renewed.cert);

        write("b.example.test");
        watch.reload().await;
        assert!(
            watch.refused.is_some(),
            "it lacks a name that the one in use has"
        );
    }

    /// The files may not change for months.
    #[tokio::test]
    async fn an_expiry_is_found_without_a_reload() {
        const DAY: Duration = Duration::from_secs(86_400);

        let dir = tempfile::TempDir::new().unwrap();
        let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
        let own = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["*.example.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (
            rcgen::date_time_ymd(2027, 1, 1),
            rcgen::date_time_ymd(2027, 4, 1),
        );
        std::fs::write(&chain, params.self_signed(&own).unwrap().pem()).unwrap();
        std::fs::write(&key, own.serialize_pem()).unwrap();

        let clock = Clock::at(UnixMillis(1_800_000_000_000)); // 2027-01-15
        let wanted = || WantedNames {
            domain: HostName::parse("example.test").unwrap(),
            hosts: Some(Vec::new()),
        };
        let source = CertificateSource::Files { chain, key };
        let first = source.load(&wanted(), &clock).unwrap().pair;
        let resolver = Arc::new(CertificateResolver::new(first).unwrap());
        let watch = CertificateWatch::new(source, resolver, wanted, clock.clone());
        assert!(watch.review_current().await.is_empty());

        clock.pass(DAY * 65);
        let found = watch.review_current().await;
        assert!(found[0].to_string().contains("expires soon") && !found[0].is_fault());
        clock.pass(DAY * 20);
        let found = watch.review_current().await;
        assert!(found[0].to_string().contains("expired") && found[0].is_fault());
    }
}
