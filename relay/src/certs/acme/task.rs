//! The task that orders and renews certificates, one after the other.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::clock::Clock;
use hookward_core::text::printable;
use hookward_observe::audit::{Actor, AuditLog};
use instant_acme::CertificateIdentifier;
use rustls::ClientConfig;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::AcmeError;
use super::account::AccountKeeper;
use super::challenges::Challenges;
use super::client::AcmeClient;
use super::files::{AcmeFiles, IssuedCertificate};
use super::managed::{Issued, Managed, share};
use super::order::{OrderRequest, Solvers, order};
use super::schedule::{retry_wait, shortest_gap, suggested_time};
use super::status::{AcmeStatus, NameStatus};
use crate::certs::resolver::CertificateResolver;
use crate::certs::review::WantedNames;
use crate::settings::AcmeSettings;

/// Settings and shared state of the task.
pub(crate) struct AcmeParts<W> {
    pub settings: AcmeSettings,
    pub data_dir: PathBuf,
    /// Trusts the certificate of the server.
    pub tls: Arc<ClientConfig>,
    pub resolver: Arc<CertificateResolver>,
    pub challenges: Challenges,
    /// Returns the names that need a certificate now.
    pub wanted: W,
    pub clock: Clock,
    pub audit: AuditLog,
    pub status: AcmeStatus,
}

/// Task that keeps the certificates of the ACME server.
pub(crate) struct AcmeTask<W> {
    parts: AcmeParts<W>,
    files: Arc<AcmeFiles>,
    client: AcmeClient,
    account: AccountKeeper,
    solvers: Solvers,
    /// Certificates by their first name.
    managed: BTreeMap<String, Managed>,
    /// First names in the order in which they are issued.
    queue: Vec<String>,
    /// Times of the first certificates of hosts in the last day, in seconds since 1970.
    first_certificates: Vec<i64>,
    /// Time of the next daily warnings and removals.
    warn_at: Instant,
}

impl<W: Fn() -> WantedNames + Clone + Send + 'static> AcmeTask<W> {
    /// Creates the task, and puts the kept certificates in force.
    ///
    /// # Errors
    /// Error of the system: the directory of the files is not usable.
    pub(crate) fn new(parts: AcmeParts<W>) -> io::Result<Self> {
        let files = AcmeFiles::create(&parts.data_dir, &parts.settings.directory)?;
        let solvers = Solvers {
            challenges: parts.challenges.clone(),
            has_http: parts.settings.http_listen.is_some(),
            dns_hook: parts.settings.dns_hook.clone(),
        };
        let files = Arc::new(files);
        let first_certificates = files.first_certificates();
        let client = AcmeClient::new(Arc::clone(&parts.tls));
        let mut task = Self {
            account: AccountKeeper::new(
                parts.settings.clone(),
                Arc::clone(&files),
                client.clone(),
                parts.audit.clone(),
            ),
            client,
            files,
            solvers,
            managed: BTreeMap::new(),
            queue: Vec::new(),
            first_certificates,
            warn_at: Instant::now(),
            parts,
        };
        let wanted = (task.parts.wanted)();
        task.keep_only(&wanted);
        Ok(task)
    }

    /// Runs until `stop` is cancelled.
    pub(crate) async fn run(mut self, mut changes: watch::Receiver<u64>, stop: CancellationToken) {
        loop {
            changes.borrow_and_update();
            let wanted = self.parts.wanted.clone();
            if let Ok(wanted) = spawn_blocking(wanted).await {
                self.keep_only(&wanted);
            }
            tokio::select! {
                () = self.work() => {}
                () = stop.cancelled() => return,
            }
            self.show();

            tokio::select! {
                () = sleep(self.next_wait()) => {}
                // Names are read at most once a second.
                Ok(()) = changes.changed() => sleep(SHORTEST_WAIT).await,
                () = stop.cancelled() => return,
            }
        }
    }

    /// Manages these names and no others.
    fn keep_only(&mut self, wanted: &WantedNames) {
        // Without the store, the names stay.
        let Some(hosts) = &wanted.hosts else {
            return;
        };
        let domain = wanted.domain.to_string();
        let has_hook = self.solvers.dns_hook.is_some();
        let mut certificates = vec![match has_hook {
            true => vec![domain.clone(), format!("*.{domain}")],
            false => vec![domain.clone()],
        }];
        let has_wildcard = has_hook && self.parts.resolver.has_issued(&format!("*.{domain}"));
        for host in hosts.iter().filter(|host| **host != wanted.domain) {
            let below = host.as_str().strip_suffix(&format!(".{domain}"));
            let is_covered = has_hook && below.is_some_and(|label| !label.contains('.'));
            // Until the wildcard certificate is there, kept ones of single hosts stay.
            let is_needed = match is_covered {
                true => !has_wildcard && self.files.has_certificate(host.as_str()),
                false => true,
            };
            if is_needed {
                certificates.push(vec![host.to_string()]);
            }
        }
        self.parts.resolver.set_default(&domain);

        self.queue = certificates
            .iter()
            .filter_map(|names| names.first().cloned())
            .collect();
        let queue = &self.queue;
        let resolver = &self.parts.resolver;
        self.managed.retain(|name, managed| {
            let stays = queue.contains(name);
            if !stays {
                resolver.remove_issued(&managed.names);
            }
            stays
        });
        for names in certificates {
            let Some(first) = names.first().cloned() else {
                continue;
            };
            if self.managed.contains_key(&first) {
                continue;
            }
            let mut managed = Managed::new(names);
            if let Some(kept) = self.files.certificate(&first) {
                managed.issued = self.put_in_force(&managed.names, kept);
            }
            self.managed.insert(first, managed);
        }
    }

    /// Hands a certificate to the handshakes, for those of the names that it covers. A renewal is due at
    /// once if it lacks one.
    fn put_in_force(&self, names: &[String], certificate: IssuedCertificate) -> Option<Issued> {
        let covered = names.iter().filter(|name| certificate.names.contains(name));
        let covered: Vec<_> = covered.cloned().collect();
        let mut issued = Issued::of(&certificate);
        if covered.len() < names.len() {
            (issued.renewal_s, issued.suggestion_at) = (0, None);
        }
        match self.parts.resolver.set_issued(&covered, certificate.pair) {
            Ok(()) => Some(issued),
            Err(error) => {
                tracing::error!(%error, "a certificate of the ACME server is unusable");
                None
            }
        }
    }

    /// Requests suggested times, and orders one certificate. The names are read again before the next.
    async fn work(&mut self) {
        let queue = self.queue.clone();
        for name in &queue {
            self.save(name).await;
        }
        // One at a time: a server that does not respond must not hold up orders.
        if let Some(name) = queue.iter().find(|name| self.has_suggestion_due(name)) {
            self.request_suggestion(name).await;
        }
        if self.warn_at <= Instant::now() {
            self.warn_at = Instant::now() + DAY;
            self.warn_of_ends();
            self.remove_expired().await;
        }
        if let Some(name) = self.most_urgent() {
            self.attempt(&name).await;
        }
    }

    /// Returns the name whose order is due and matters most: the domain's, a renewal near its end, then
    /// first certificates with few failures.
    fn most_urgent(&mut self) -> Option<String> {
        let (now, at) = (self.now_s(), Instant::now());
        // A clock that was set back must not count them for longer.
        self.first_certificates
            .retain(|issued| (now - DAY_S..=now).contains(issued));
        let has_room = self.first_certificates.len() < self.parts.settings.new_names_per_day;
        let mut due = Vec::new();
        for (place, name) in self.queue.iter().enumerate() {
            let Some(managed) = self.managed.get_mut(name) else {
                continue;
            };
            if managed.retry_at.is_some_and(|retry_at| retry_at > at) {
                continue;
            }
            match &managed.issued {
                Some(issued) if issued.renewal_s > now => continue,
                None if place > 0 && !has_room => {
                    managed.last_error = Some(TOO_MANY_NEW.to_owned());
                    continue;
                }
                _ => {}
            }
            let end = managed.issued.as_ref().map(|issued| issued.not_after);
            let urgency = (place > 0, end.unwrap_or(i64::MAX), managed.failures, place);
            due.push((urgency, name));
        }
        let first = due.into_iter().min_by_key(|(urgency, _)| *urgency);
        first.map(|(_, name)| name.clone())
    }

    /// Writes a certificate that is not on the disk yet.
    async fn save(&mut self, name: &str) {
        let managed = self.managed.get_mut(name);
        let Some(text) = managed.and_then(|managed| managed.unsaved.take()) else {
            return;
        };
        let (files, file) = (Arc::clone(&self.files), name.to_owned());
        let saving = spawn_blocking(move || {
            let saved = files.keep_certificate(&file, &text);
            saved.map_err(|error| (error, text))
        });
        if let Ok(Err((error, text))) = saving.await {
            tracing::error!(%error, "a certificate is in force, but not on the disk; the relay tries again");
            if let Some(managed) = self.managed.get_mut(name) {
                managed.unsaved = Some(text);
            }
        }
    }

    /// Writes the times of first certificates, so that a restart does not begin to count anew.
    async fn save_first_certificates(&self) {
        let (files, times) = (Arc::clone(&self.files), self.first_certificates.clone());
        let saving = spawn_blocking(move || files.keep_first_certificates(&times));
        if let Ok(Err(error)) = saving.await {
            tracing::warn!(%error, "the count of first certificates begins anew after a restart");
        }
    }

    /// Removes the files of names that are not served any more.
    async fn remove_expired(&self) {
        let (files, served, now) = (Arc::clone(&self.files), self.queue.clone(), self.now_s());
        // It fails only while the runtime stops.
        let _ = spawn_blocking(move || files.remove_expired(&served, now)).await;
    }

    /// Warns of certificates that end soon, because their renewals fail.
    fn warn_of_ends(&self) {
        let now = self.now_s();
        for (name, managed) in &self.managed {
            let Some(issued) = &managed.issued else {
                continue;
            };
            let life = issued.not_after.saturating_sub(issued.not_before);
            let left = issued.not_after.saturating_sub(now);
            if left < (life / 4).min(NEAR_END_S) {
                let reason = managed.last_error.as_deref().unwrap_or_default();
                tracing::warn!(name, hours = left / 3600, reason, "a certificate ends soon");
            }
        }
    }

    fn now_s(&self) -> i64 {
        i64::try_from(self.parts.clock.now().seconds()).unwrap_or(i64::MAX)
    }

    /// Orders a certificate, and puts it in force.
    async fn attempt(&mut self, name: &str) {
        let Some(managed) = self.managed.get(name) else {
            return;
        };
        let names = managed.names.clone();
        let is_renewal = managed.issued.is_some();
        let replaces = managed.issued.as_ref().filter(|issued| {
            // A server may refuse the field, so a second attempt is without it.
            issued.has_suggestion && managed.failures == 0
        });
        let replaces = replaces.and_then(|issued| issued.id.clone());
        let failures = usize::try_from(managed.failures).unwrap_or_default();
        let way = (managed.way + failures) % self.solvers.ways();
        // A first certificate is worth a second failure; the server counts them.
        let may_change = !is_renewal && failures == 0;

        // That of an earlier response is over.
        self.client.take_retry_after();
        let result = self.order(&names, replaces, way, may_change).await;
        let result = result.and_then(|(text, way)| {
            let certificate = self.files.parse(name, &text)?;
            if names.iter().any(|name| !certificate.names.contains(name)) {
                let what = format!("it is not for {}", names.join(", "));
                return Err(AcmeError::Certificate(what));
            }
            let issued = self.put_in_force(&names, certificate);
            let unusable = || AcmeError::Certificate("it is unusable".to_owned());
            Ok((issued.ok_or_else(unusable)?, text, way))
        });

        match result {
            Ok((issued, text, way)) => {
                if !is_renewal && self.queue.first().is_none_or(|domain| domain != name) {
                    self.first_certificates.push(self.now_s());
                    self.save_first_certificates().await;
                }
                self.issued(name, names, issued, (text, way));
                self.save(name).await;
            }
            Err(error) => self.failed(name, &error),
        }
    }

    fn issued(
        &mut self,
        name: &str,
        names: Vec<String>,
        issued: Issued,
        (text, way): (Zeroizing<String>, usize),
    ) {
        let end = issued.not_after;
        let managed = Managed {
            retry_at: Some(Instant::now() + shortest_gap(issued.not_before, end)),
            issued: Some(issued),
            way,
            unsaved: Some(text),
            ..Managed::new(names)
        };
        tracing::info!(
            event = "certificate_issued",
            names = managed.names.join(", "),
            "a certificate was issued"
        );
        let details = json!({ "names": managed.names, "expires_s": end });
        let audit = &self.parts.audit;
        audit.act("certificate_issued", Actor::program(), details);
        self.managed.insert(name.to_owned(), managed);
    }

    fn failed(&mut self, name: &str, error: &AcmeError) {
        // The next attempt reads the server's directory again.
        self.account.forget();
        let now = self.now_s();
        let Some(managed) = self.managed.get_mut(name) else {
            return;
        };
        managed.failures += 1;
        let left = managed.issued.as_ref().map(|issued| issued.not_after - now);
        let server = self.client.take_retry_after();
        let wait = retry_wait(managed.failures, server, left, random());
        let (failures, reason) = (managed.failures, error.shown());
        managed.retry_at = Some(Instant::now() + wait);
        managed.last_error = Some(reason.clone());

        let effect = match managed.issued.is_some() {
            true => "a certificate was not renewed; it stays in force",
            false => "no certificate was issued",
        };
        tracing::error!(
            event = "certificate_failed",
            names = managed.names.join(", "),
            failures,
            retry_s = wait.as_secs(),
            reason,
            "{effect}"
        );
        let details = json!({
            "names": managed.names,
            "failures": failures,
            "reason": reason,
            "retry_s": wait.as_secs(),
        });
        let audit = &self.parts.audit;
        audit.act("certificate_failed", Actor::program(), details);
    }

    /// Orders a certificate. Returns it with the way in which the names were proved. With `may_change`,
    /// names that the server did not validate are proved in the next way.
    async fn order(
        &mut self,
        names: &[String],
        replaces: Option<CertificateIdentifier<'static>>,
        mut way: usize,
        may_change: bool,
    ) -> Result<(Zeroizing<String>, usize), AcmeError> {
        let mut account = self.account.get().await?;
        let mut changes = 0;
        loop {
            let request = OrderRequest {
                names,
                replaces: replaces.clone(),
                way,
            };
            match order(&account, request, &self.solvers).await {
                // The server has lost its accounts, or has ended this one.
                Err(error) if error.is_lost_account() && self.account.may_replace() => {
                    tracing::warn!(reason = error.shown(), "a new ACME account is created");
                    account = self.account.replace().await?;
                }
                Err(AcmeError::Rejected { names })
                    if may_change && changes + 1 < self.solvers.ways() =>
                {
                    let reasons = printable(&names.join("; "));
                    tracing::warn!(reasons, "the names are proved in another way");
                    (way, changes) = ((way + 1) % self.solvers.ways(), changes + 1);
                }
                ordered => return Ok((ordered?, way)),
            }
        }
    }

    /// Returns `true` if a suggestion is due.
    fn has_suggestion_due(&self, name: &str) -> bool {
        let managed = self.managed.get(name);
        let issued = managed.and_then(|managed| managed.issued.as_ref());
        issued.is_some_and(|issued| {
            issued.id.is_some() && issued.suggestion_at.is_some_and(|at| at <= Instant::now())
        })
    }

    /// Requests the time at which the server suggests a renewal (RFC 9773).
    async fn request_suggestion(&mut self, name: &str) {
        let managed = self.managed.get(name);
        let issued = managed.and_then(|managed| managed.issued.as_ref());
        let Some(id) = issued.and_then(|issued| issued.id.clone()) else {
            return;
        };
        let answer = match self.account.get().await {
            Ok(account) => timeout(SUGGESTION_TIMEOUT, account.renewal_info(&id)).await,
            // The order says what is wrong.
            Err(_) => return self.postpone_suggestion(name, SUGGESTION_RETRY),
        };

        let managed = self.managed.get_mut(name);
        let Some(issued) = managed.and_then(|managed| managed.issued.as_mut()) else {
            return;
        };
        match answer {
            Ok(Ok((info, again))) => {
                let window = info.suggested_window;
                let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
                let life = (issued.not_before, issued.not_after);
                issued.renewal_s = suggested_time((start, end), life, issued.random);
                issued.has_suggestion = true;
                let again = again.clamp(SHORTEST_SUGGESTION_WAIT, LONGEST_SUGGESTION_WAIT);
                issued.suggestion_at = Some(Instant::now() + again);
                tracing::debug!(
                    name,
                    renewal_s = issued.renewal_s,
                    "renewal suggested by the server"
                );
            }
            Ok(Err(instant_acme::Error::Unsupported(_))) => issued.suggestion_at = None,
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "the server has suggested no renewal");
                issued.suggestion_at = Some(Instant::now() + SUGGESTION_RETRY);
            }
            Err(_) => issued.suggestion_at = Some(Instant::now() + SUGGESTION_RETRY),
        }
    }

    fn postpone_suggestion(&mut self, name: &str, wait: Duration) {
        let managed = self.managed.get_mut(name);
        if let Some(issued) = managed.and_then(|managed| managed.issued.as_mut()) {
            issued.suggestion_at = Some(Instant::now() + wait);
        }
    }

    fn show(&self) {
        let status = self.managed.iter().map(|(name, managed)| {
            let status = NameStatus {
                renewal_s: managed.issued.as_ref().map(|issued| issued.renewal_s),
                failures: managed.failures,
                last_error: managed.last_error.clone(),
            };
            (name.clone(), status)
        });
        self.parts.status.replace(status.collect());
    }

    /// Returns the time until something is due. The clock may be set meanwhile, so it is bounded.
    fn next_wait(&self) -> Duration {
        let (now, at) = (self.parts.clock.now(), Instant::now());
        let now = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
        let waits = self.managed.values().map(|managed| {
            let retry = managed
                .retry_at
                .map(|retry_at| retry_at.saturating_duration_since(at));
            let renewal = managed.issued.as_ref().map(|issued| {
                let seconds = u64::try_from(issued.renewal_s.saturating_sub(now));
                Duration::from_secs(seconds.unwrap_or_default())
            });
            retry.max(renewal).unwrap_or_default()
        });
        waits
            .min()
            .unwrap_or(LONGEST_WAIT)
            .clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }
}

/// Returns a random number from 0 to 1.
fn random() -> f64 {
    let mut byte = [0];
    let [byte] = match getrandom::fill(&mut byte) {
        Ok(()) => byte,
        // Without a random number, the wait is the longest.
        Err(_) => [u8::MAX],
    };
    share(byte)
}

/// Maximum time of a request for a suggestion.
const SUGGESTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Reason of a first certificate that waits.
const TOO_MANY_NEW: &str =
    "it waits: hosts have got as many first certificates today as new_names_per_day allows";

/// Remaining life below which the relay warns, in seconds: 14 days.
const NEAR_END_S: i64 = 14 * 86_400;

/// Shortest and longest wait of the task.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const DAY_S: i64 = 86_400;
const DAY: Duration = Duration::from_secs(DAY_S.unsigned_abs());

/// Bounds of the time between two requests for a suggestion (RFC 9773 §4.3.2).
const SHORTEST_SUGGESTION_WAIT: Duration = Duration::from_secs(60);
const LONGEST_SUGGESTION_WAIT: Duration = Duration::from_secs(86_400);

/// Wait after the server has not suggested a time (RFC 9773 §4.3.3).
const SUGGESTION_RETRY: Duration = Duration::from_secs(6 * 3600);

#[cfg(test)]
mod tests {
    use hookward_core::clock::UnixMillis;
    use hookward_core::names::HostName;

    use super::*;
    use crate::fetch::client::client_tls;
    use crate::settings::AcmeSettings;

    fn task(dir: &std::path::Path) -> AcmeTask<impl Fn() -> WantedNames + Clone + Send + 'static> {
        let pair = rcgen::generate_simple_self_signed(vec!["own.test".to_owned()]).unwrap();
        let own = crate::certs::CertificatePair {
            chain: vec![pair.cert.der().clone()],
            key: pair.signing_key.serialize_der().try_into().unwrap(),
        };
        let wanted = || WantedNames {
            domain: HostName::parse("example.test").unwrap(),
            hosts: ["b.example.test", "a.example.test"]
                .map(HostName::parse)
                .into_iter()
                .collect(),
        };
        let parts = AcmeParts {
            settings: AcmeSettings {
                email: "a@example.test".to_owned(),
                directory: "https://ca.test/dir".to_owned(),
                ca: None,
                http_listen: None,
                dns_hook: None,
                external_account: None,
                new_names_per_day: 1,
            },
            data_dir: dir.to_owned(),
            tls: client_tls(None).unwrap(),
            resolver: Arc::new(CertificateResolver::new(own).unwrap()),
            challenges: Challenges::default(),
            wanted,
            clock: Clock::default(),
            audit: AuditLog::off(Clock::default()),
            status: AcmeStatus::default(),
        };
        AcmeTask::new(parts).unwrap()
    }

    fn issued(renewal_s: i64) -> Option<Issued> {
        Some(Issued {
            id: None,
            not_before: 0,
            not_after: i64::MAX,
            renewal_s,
            random: 0.0,
            suggestion_at: None,
            has_suggestion: false,
        })
    }

    #[test]
    fn the_domain_is_first_and_new_hosts_have_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let mut task = task(dir.path());
        assert_eq!(task.most_urgent().as_deref(), Some("example.test"));

        let domain = task.managed.get_mut("example.test").unwrap();
        domain.issued = issued(i64::MAX);
        assert_eq!(task.most_urgent().as_deref(), Some("b.example.test"));
        // One that fails lets others pass.
        task.managed.get_mut("b.example.test").unwrap().failures = 1;
        assert_eq!(task.most_urgent().as_deref(), Some("a.example.test"));

        let now = task.now_s();
        task.first_certificates.push(now);
        assert_eq!(task.most_urgent(), None);
        // A renewal does not count.
        task.managed.get_mut("a.example.test").unwrap().issued = issued(0);
        assert_eq!(task.most_urgent().as_deref(), Some("a.example.test"));
    }

    /// A clock that is set causes a renewal at most, and loses no certificate.
    #[test]
    fn a_clock_that_is_set_changes_what_is_due() {
        let dir = tempfile::tempdir().unwrap();
        let mut task = task(dir.path());
        task.parts.clock = Clock::at(UnixMillis(100 * 86_400_000));
        for name in ["example.test", "a.example.test", "b.example.test"] {
            task.managed.get_mut(name).unwrap().issued = issued(150 * DAY_S);
        }
        task.first_certificates.push(task.now_s());
        assert_eq!(task.most_urgent(), None);
        assert!(task.next_wait() <= LONGEST_WAIT);

        task.parts.clock.set(UnixMillis(300 * 86_400_000));
        assert_eq!(task.most_urgent().as_deref(), Some("example.test"));
        task.parts.clock.set(UnixMillis(86_400_000));
        assert_eq!(task.most_urgent(), None);
        assert!(
            task.managed
                .values()
                .all(|managed| managed.issued.is_some())
        );
        // It was counted in the future.
        assert!(task.first_certificates.is_empty());
    }

    #[test]
    fn the_count_of_first_certificates_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = task(dir.path());
        let now = first.now_s();
        first.files.keep_first_certificates(&[now]).unwrap();
        let mut second = task(dir.path());
        second.managed.get_mut("example.test").unwrap().issued = issued(i64::MAX);
        assert_eq!(second.most_urgent(), None);
    }
}
