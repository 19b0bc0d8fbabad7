//! The task that orders and renews certificates, one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::clock::Clock;
use hookward_core::secret::SecretReader as _;
use hookward_observe::audit::{Actor, AuditLog};
use hookward_runtime::secrets::ProcessSecrets;
use instant_acme::{Account, CertificateIdentifier, ExternalAccountKey, NewAccount};
use rustls::ClientConfig;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::AcmeError;
use super::challenges::Challenges;
use super::client::AcmeClient;
use super::files::{AcmeFiles, IssuedCertificate};
use super::order::{OrderRequest, Solvers, order};
use super::schedule::{renewal_time, retry_wait, suggested_time};
use super::status::{AcmeStatus, NameStatus};
use crate::certs::resolver::CertificateResolver;
use crate::certs::review::WantedNames;
use crate::settings::AcmeSettings;

/// What the task works with.
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
    account: Option<Account>,
    solvers: Solvers,
    /// Certificates by their first name.
    managed: BTreeMap<String, Managed>,
    /// First names in the order in which they are issued.
    queue: Vec<String>,
    /// Times of the first certificates of hosts in the last day.
    first_orders: VecDeque<Instant>,
}

/// A certificate that is kept, or wanted.
struct Managed {
    names: Vec<String>,
    issued: Option<Issued>,
    failures: u32,
    /// Time of the next attempt after a failure.
    retry_at: Option<Instant>,
    last_error: Option<String>,
}

/// What the schedule needs of a certificate.
struct Issued {
    id: Option<CertificateIdentifier<'static>>,
    /// Time of the renewal, in seconds since 1970.
    renewal_s: i64,
    /// Number from 0 to 1 that spreads renewals.
    random: f64,
    /// Time of the next question for the server's suggestion; `None` if it makes none.
    ask_at: Option<Instant>,
    /// `true` once the server has suggested a time: it accepts what a certificate replaces.
    has_suggestion: bool,
}

impl Managed {
    fn new(names: Vec<String>) -> Self {
        Self {
            names,
            issued: None,
            failures: 0,
            retry_at: None,
            last_error: None,
        }
    }
}

impl Issued {
    fn of(certificate: &IssuedCertificate) -> Self {
        let first = certificate.pair.chain.first();
        let digest = Sha256::digest(first.map_or(&[][..], |first| first.as_ref()));
        let random = digest.first().map_or(0.0, |byte| share(*byte));
        Self {
            id: first.and_then(|first| CertificateIdentifier::try_from(first).ok()),
            renewal_s: renewal_time(certificate.not_before, certificate.not_after, random),
            random,
            ask_at: Some(Instant::now()),
            has_suggestion: false,
        }
    }
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
        let mut task = Self {
            client: AcmeClient::new(Arc::clone(&parts.tls)),
            files: Arc::new(files),
            account: None,
            solvers,
            managed: BTreeMap::new(),
            queue: Vec::new(),
            first_orders: VecDeque::new(),
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
        let has_wildcard = self.solvers.dns_hook.is_some();
        let mut certificates = vec![match has_wildcard {
            true => vec![domain.clone(), format!("*.{domain}")],
            false => vec![domain.clone()],
        }];
        for host in hosts.iter().filter(|host| **host != wanted.domain) {
            let below = host.as_str().strip_suffix(&format!(".{domain}"));
            let is_covered = has_wildcard && below.is_some_and(|label| !label.contains('.'));
            if !is_covered {
                certificates.push(vec![host.to_string()]);
            }
        }

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

    /// Hands a certificate to the handshakes. Returns `None` if it lacks a name.
    fn put_in_force(&self, names: &[String], issued: IssuedCertificate) -> Option<Issued> {
        if names.iter().any(|name| !issued.names.contains(name)) {
            return None;
        }
        let schedule = Issued::of(&issued);
        match self.parts.resolver.set_issued(names, issued.pair) {
            Ok(()) => Some(schedule),
            Err(error) => {
                tracing::error!(%error, "a certificate of the ACME server is unusable");
                None
            }
        }
    }

    /// Orders what is due, and asks for suggested times.
    async fn work(&mut self) {
        let queue = self.queue.clone();
        for name in &queue {
            self.ask(name).await;
            if self.is_due(name) {
                self.attempt(name).await;
                self.show();
            }
        }
    }

    fn is_due(&mut self, name: &str) -> bool {
        let (now, at) = (self.parts.clock.now(), Instant::now());
        let now = i64::try_from(now.seconds()).unwrap_or(i64::MAX);
        let is_domain = self.queue.first().is_some_and(|first| first == name);
        let Some(managed) = self.managed.get_mut(name) else {
            return false;
        };
        if managed.retry_at.is_some_and(|retry_at| retry_at > at) {
            return false;
        }
        if let Some(issued) = &managed.issued {
            return issued.renewal_s <= now;
        }
        if is_domain {
            return true;
        }

        self.first_orders.retain(|order| order.elapsed() < DAY);
        let is_free = self.first_orders.len() < self.parts.settings.new_names_per_day;
        match is_free {
            true => self.first_orders.push_back(at),
            false => {
                let free = self.first_orders.front().map(|first| *first + DAY);
                managed.retry_at = free;
                managed.last_error = Some(format!(
                    "{} hosts got their first certificate within a day (new_names_per_day)",
                    self.first_orders.len()
                ));
            }
        }
        is_free
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

        let ordered = match self.order(&names, replaces).await {
            Ok(text) => {
                let (files, file) = (Arc::clone(&self.files), name.to_owned());
                let keeping = spawn_blocking(move || files.keep_certificate(&file, &text)).await;
                keeping.unwrap_or_else(|error| Err(AcmeError::Certificate(error.to_string())))
            }
            Err(error) => Err(error),
        };
        let issued = ordered.and_then(|certificate| {
            let end = certificate.not_after;
            let issued = self.put_in_force(&names, certificate);
            let lacks = || AcmeError::Certificate(format!("it is not for {}", names.join(", ")));
            Ok((issued.ok_or_else(lacks)?, end))
        });

        let Some(managed) = self.managed.get_mut(name) else {
            return;
        };
        match issued {
            Ok((issued, end)) => {
                (managed.failures, managed.retry_at, managed.last_error) = (0, None, None);
                managed.issued = Some(issued);
                tracing::info!(
                    event = "certificate_issued",
                    names = names.join(", "),
                    is_renewal,
                    "a certificate was issued"
                );
                let details = json!({ "names": names, "is_renewal": is_renewal, "expires_s": end });
                let audit = &self.parts.audit;
                audit.act("certificate_issued", Actor::program(), details);
            }
            Err(error) => {
                managed.failures += 1;
                let server = self.client.take_retry_after();
                let wait = retry_wait(managed.failures, server, random());
                managed.retry_at = Some(Instant::now() + wait);
                managed.last_error = Some(error.to_string());
                let failures = managed.failures;
                tracing::error!(
                    event = "certificate_failed",
                    names = names.join(", "),
                    is_renewal,
                    failures,
                    retry_s = wait.as_secs(),
                    %error,
                    "no certificate was issued; an earlier one stays in force"
                );
                let details = json!({
                    "names": names,
                    "is_renewal": is_renewal,
                    "failures": failures,
                    "reason": error.to_string(),
                    "retry_s": wait.as_secs(),
                });
                let audit = &self.parts.audit;
                audit.act("certificate_failed", Actor::program(), details);
            }
        }
    }

    /// Orders a certificate. Names that the server did not validate in one way are proved in the next.
    async fn order(
        &mut self,
        names: &[String],
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Zeroizing<String>, AcmeError> {
        let mut account = self.account().await?;
        let (mut way, mut is_new_account) = (0, false);
        loop {
            let request = OrderRequest {
                names,
                replaces: replaces.clone(),
                way,
            };
            let ordering = order(&account, request, &self.solvers);
            let ordered = timeout(ORDER_TIMEOUT, ordering).await;
            let ordered = ordered.map_err(|_| AcmeError::Timeout)?;
            match ordered {
                // The server has lost its accounts, or has ended this one.
                Err(error) if error.is_lost_account() && !is_new_account => {
                    tracing::warn!(%error, "a new ACME account is created");
                    self.account = None;
                    self.files.forget_account();
                    (account, is_new_account) = (self.account().await?, true);
                    continue;
                }
                Err(AcmeError::Rejected { names }) if way + 1 < self.solvers.ways() => {
                    let reasons = names.join("; ");
                    tracing::warn!(reasons, "names are proved in another way");
                }
                ordered => return ordered,
            }
            way += 1;
        }
    }

    /// Returns the account; creates one at the first time.
    async fn account(&mut self) -> Result<Account, AcmeError> {
        if let Some(account) = &self.account {
            return Ok(account.clone());
        }

        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let account = match self.files.account()? {
            Some(credentials) => builder
                .from_credentials(credentials)
                .await
                .map_err(AcmeError::Account)?,
            None => {
                let contact = format!("mailto:{}", self.parts.settings.email);
                let new = NewAccount {
                    contact: &[&contact],
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let external = self.external_account()?;
                let directory = self.parts.settings.directory.clone();
                let created = builder.create(&new, directory, external.as_ref()).await;
                let (account, credentials) = created.map_err(AcmeError::Account)?;
                self.files.keep_account(&credentials)?;
                let details = json!({ "server": self.parts.settings.directory });
                let audit = &self.parts.audit;
                audit.act("acme_account_created", Actor::program(), details);
                account
            }
        };
        self.account = Some(account.clone());
        Ok(account)
    }

    fn external_account(&self) -> Result<Option<ExternalAccountKey>, AcmeError> {
        let Some((id, source)) = &self.parts.settings.external_account else {
            return Ok(None);
        };
        let loaded = ProcessSecrets.load(&source.to_string());
        let loaded = loaded.map_err(|error| AcmeError::ExternalAccount(error.to_string()))?;
        // Servers hand it out with and without padding.
        let text: Vec<u8> = loaded.secret.expose().to_vec();
        let text = text
            .trim_ascii()
            .strip_suffix(b"=")
            .unwrap_or(text.trim_ascii());
        let text = text.strip_suffix(b"=").unwrap_or(text);
        let key = data_encoding::BASE64URL_NOPAD.decode(text);
        let key = key.map_err(|_| {
            AcmeError::ExternalAccount(format!("the key in {source} is not base64url"))
        })?;
        Ok(Some(ExternalAccountKey::new(id.clone(), &key)))
    }

    /// Asks the server for the time at which it suggests a renewal (RFC 9773).
    async fn ask(&mut self, name: &str) {
        let issued = self
            .managed
            .get(name)
            .and_then(|managed| managed.issued.as_ref());
        let is_due = issued.is_some_and(|issued| {
            issued.id.is_some() && issued.ask_at.is_some_and(|at| at <= Instant::now())
        });
        let Some(id) = issued
            .filter(|_| is_due)
            .and_then(|issued| issued.id.clone())
        else {
            return;
        };
        let answer = match self.account().await {
            Ok(account) => timeout(ORDER_TIMEOUT, account.renewal_info(&id)).await,
            // The order says what is wrong.
            Err(_) => return self.ask_later(name, ASK_RETRY),
        };

        let managed = self.managed.get_mut(name);
        let Some(issued) = managed.and_then(|managed| managed.issued.as_mut()) else {
            return;
        };
        match answer {
            Ok(Ok((info, again))) => {
                let window = info.suggested_window;
                let (start, end) = (window.start.unix_timestamp(), window.end.unix_timestamp());
                issued.renewal_s = suggested_time(start, end, issued.random);
                issued.has_suggestion = true;
                let again = again.clamp(SHORTEST_ASK, LONGEST_ASK);
                issued.ask_at = Some(Instant::now() + again);
                tracing::debug!(
                    name,
                    renewal_s = issued.renewal_s,
                    "renewal suggested by the server"
                );
            }
            Ok(Err(instant_acme::Error::Unsupported(_))) => issued.ask_at = None,
            Ok(Err(error)) => {
                tracing::debug!(name, %error, "the server has suggested no renewal");
                issued.ask_at = Some(Instant::now() + ASK_RETRY);
            }
            Err(_) => issued.ask_at = Some(Instant::now() + ASK_RETRY),
        }
    }

    fn ask_later(&mut self, name: &str, wait: Duration) {
        let managed = self.managed.get_mut(name);
        if let Some(issued) = managed.and_then(|managed| managed.issued.as_mut()) {
            issued.ask_at = Some(Instant::now() + wait);
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
            retry.max(renewal).unwrap_or(LONGEST_WAIT)
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

/// Returns a byte as a number from 0 to 1.
fn share(byte: u8) -> f64 {
    f64::from(byte) / f64::from(u8::MAX)
}

/// Maximum time of an order.
pub(super) const ORDER_TIMEOUT: Duration = Duration::from_secs(600);

/// Shortest and longest wait of the task.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(86_400);

/// Bounds of the time between two questions for a suggestion (RFC 9773 §4.3.2).
const SHORTEST_ASK: Duration = Duration::from_secs(60);
const LONGEST_ASK: Duration = Duration::from_secs(86_400);

/// Wait after the server has not suggested a time (RFC 9773 §4.3.3).
const ASK_RETRY: Duration = Duration::from_secs(6 * 3600);
