//! Updates the named address sets that a policy uses. The store keeps the last good copy, which
//! stays in use after a failure.

use hookward_core::reason::Reason;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hookward_core::address::parse_network;
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::ip_sets::{self, NamedSet, NamedSets, SetOrigin};
use hookward_core::url::HttpsUrl;
use hookward_runtime::interval::every;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fetch::client::Fetcher;
use crate::storage::Store;

/// Updater of address sets; clones share them.
#[derive(Clone)]
pub(crate) struct IpSetUpdater {
    /// The sets in use.
    pub sets: NamedSets,
    wanted: Arc<Mutex<BTreeSet<&'static str>>>,
    changed: Arc<Notify>,
}

impl IpSetUpdater {
    /// Loads the built-in copies, replaced by those in the store.
    #[must_use]
    pub(crate) fn load(store: &Store) -> Self {
        let sets = NamedSets::default();
        match store.address_lists() {
            Ok(kept) => {
                for (name, text, at) in kept {
                    let networks: Vec<_> = text
                        .lines()
                        .filter_map(|line| parse_network(line).ok())
                        .collect();
                    if let Some(set) = ip_sets::find(&name).filter(|_| !networks.is_empty()) {
                        sets.set(&set.name, &networks, at);
                    }
                }
            }
            Err(error) => tracing::error!(%error, "stored address sets could not be read"),
        }

        Self {
            sets,
            wanted: Arc::default(),
            changed: Arc::default(),
        }
    }

    /// Requests updates of these sets, because a policy names them.
    pub(crate) fn want(&self, names: &[String]) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wanted.len();
        wanted.extend(
            names
                .iter()
                .filter_map(|name| ip_sets::find(name))
                .map(|set| set.name.as_str()),
        );

        if wanted.len() > before {
            self.changed.notify_one();
        }
    }

    /// Fetches sets that are due, until `stop` is cancelled.
    pub(crate) async fn keep_fresh(
        self,
        fetcher: Fetcher,
        store: Store,
        clock: Clock,
        stop: CancellationToken,
    ) {
        let mut looks = every(CHECK_INTERVAL);
        let mut failed: std::collections::BTreeMap<&'static str, Instant> =
            std::collections::BTreeMap::new();

        loop {
            tokio::select! {
                _ = looks.tick() => {}
                () = self.changed.notified() => {}
                () = stop.cancelled() => return,
            }

            for set in self.wanted().into_iter().filter_map(ip_sets::find) {
                let name = set.name.as_str();
                let paused = failed
                    .get(name)
                    .is_some_and(|at| at.elapsed() < RETRY_PAUSE);
                if paused || !self.is_due(set, clock.now()) {
                    continue;
                }

                let read = tokio::select! {
                    read = self.refresh(set, &fetcher, &store, &clock) => read,
                    () = stop.cancelled() => return,
                };
                match read {
                    Ok(count) => {
                        failed.remove(name);
                        tracing::info!(set = name, count, "address set updated");
                    }
                    Err(error) => {
                        failed.insert(name, Instant::now());
                        let age = self
                            .sets
                            .get(name)
                            .map(|current| current.age(clock.now()))
                            .unwrap_or_default();
                        tracing::warn!(
                            set = name,
                            %error,
                            in_use = age,
                            "address set could not be updated"
                        );
                    }
                }
            }
        }
    }

    /// Returns the sets that policies name.
    pub(crate) fn wanted(&self) -> Vec<&'static str> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().copied().collect()
    }

    fn is_due(&self, set: &NamedSet, now: UnixMillis) -> bool {
        if set.url.is_none() {
            return false;
        }

        match self
            .sets
            .get(&set.name)
            .map(|current| current.origin.clone())
        {
            // A fetch in the future means that the clock was set back since.
            Some(SetOrigin::Fetched(at)) => now.0.abs_diff(at.0) >= MAX_AGE_MS,
            _ => true,
        }
    }

    async fn refresh(
        &self,
        set: &'static NamedSet,
        fetcher: &Fetcher,
        store: &Store,
        clock: &Clock,
    ) -> Result<usize, Reason> {
        let url = set.url.as_deref().unwrap_or_default();
        let url = HttpsUrl::parse(url).map_err(|what| format!("{url}: {what}"))?;
        let content = fetcher
            .get(&url, LIST_BYTES)
            .await
            .map_err(|error| error.to_string())?;
        let networks = set
            .read(&content)
            .map_err(|error| format!("{url}: {error}"))?;

        let now = clock.now();
        self.sets.set(&set.name, &networks, now);
        let text = networks
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n");

        store
            .run(move |store| store.keep_address_list(&set.name, &text, now))
            .await
            .map_err(|error| error.to_string())?;

        Ok(networks.len())
    }
}

/// Age at which a set is fetched again, in milliseconds.
const MAX_AGE_MS: u64 = 6 * 3600 * 1000;

/// Minimum pause before a failed fetch is repeated.
const RETRY_PAUSE: Duration = Duration::from_secs(300);

/// Interval of checks for due sets.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum size of one list, in bytes: Atlassian's has 300 KB.
const LIST_BYTES: usize = 8 * 1024 * 1024;
