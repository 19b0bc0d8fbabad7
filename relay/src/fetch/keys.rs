//! Public keys that providers publish: fetched when a request needs one, then cached. One task
//! fetches a key for all requests that wait, and the last good copy stays in use.
//!
//! A request names its key before its signature is verified. So the work that unverified requests
//! can cause is bounded: concurrent fetches, fetches a minute, and keys in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::url::HttpsUrl;
use hookward_gate::engine::WantedKey;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use crate::fetch::client::Fetcher;

/// Cache of keys; clones share it.
#[derive(Clone)]
pub(crate) struct KeyCache {
    fetcher: Fetcher,
    tasks: TaskTracker,
    // A std mutex: it guards a map, and nothing waits while it is held.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    keys: HashMap<HttpsUrl, CachedKey>,
    recent: std::collections::VecDeque<Instant>,
}

#[derive(Default)]
struct CachedKey {
    key: Option<(Arc<[u8]>, Instant)>,
    tried: Option<Instant>,
    /// Notified when the current fetch ends.
    in_flight: Option<watch::Receiver<()>>,
}

impl CachedKey {
    /// Returns the end of the fetch that is in progress.
    fn fetching(&self) -> Option<&watch::Receiver<()>> {
        // An error means that the task ended without a result.
        self.in_flight
            .as_ref()
            .filter(|in_flight| in_flight.has_changed().is_ok())
    }
}

impl Inner {
    fn forget_old_fetches(&mut self) {
        let is_old = |at: &Instant| at.elapsed() >= Duration::from_secs(60);
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
    }

    /// Removes a key that could not be fetched, else the oldest. Returns `false` if all are being
    /// fetched.
    fn remove_oldest(&mut self) -> bool {
        let idle = self
            .keys
            .iter()
            .filter(|(_, entry)| entry.in_flight.is_none());
        let oldest = idle
            .min_by_key(|(_, entry)| entry.key.as_ref().map(|(_, at)| *at))
            .map(|(url, _)| url.clone());
        oldest.is_some_and(|url| self.keys.remove(&url).is_some())
    }
}

impl KeyCache {
    #[must_use]
    pub(crate) fn new(fetcher: Fetcher, tasks: TaskTracker) -> Self {
        Self {
            fetcher,
            tasks,
            inner: Arc::default(),
        }
    }

    /// Returns the keys that a request is verified with, as far as they arrive within `patience`.
    pub(crate) async fn get(&self, wanted: &[WantedKey], patience: Duration) -> FetchedKeys {
        let mut found = FetchedKeys::default();
        for WantedKey { url, in_catalog } in wanted {
            if !in_catalog && !self.fetcher.allows(url.host()) {
                tracing::warn!(%url, "public key not fetched: [fetch] hosts does not allow its host");
                continue;
            }

            if let Some(mut fetching) = self.begin(url) {
                // An error means that the task ended without a result.
                let _ = timeout(patience, fetching.changed()).await;
            }

            if let Some(key) = self.have(url) {
                found.0.insert(url.clone(), key);
            }
        }

        found
    }

    /// Returns the cached key, unless it is too old.
    fn have(&self, url: &HttpsUrl) -> Option<Arc<[u8]>> {
        let inner = self.lock();
        let (key, at) = inner.keys.get(url)?.key.as_ref()?;
        (at.elapsed() < MAX_AGE + STALE_FOR).then(|| Arc::clone(key))
    }

    /// Starts to fetch a key that is not fresh, unless a fetch is in progress. Returns its end.
    fn begin(&self, url: &HttpsUrl) -> Option<watch::Receiver<()>> {
        let mut inner = self.lock();
        let now = Instant::now();

        if let Some(entry) = inner.keys.get(url) {
            if entry
                .key
                .as_ref()
                .is_some_and(|(_, at)| at.elapsed() < MAX_AGE)
            {
                return None;
            }

            if let Some(in_flight) = entry.fetching() {
                return Some(in_flight.clone());
            }

            if entry.tried.is_some_and(|at| at.elapsed() < RETRY_PAUSE) {
                return None;
            }
        }

        inner.forget_old_fetches();
        let known = inner.keys.get(url).is_some_and(|entry| entry.key.is_some());
        let in_flight = inner.keys.values().filter_map(CachedKey::fetching).count();

        // A known key is fetched again regardless of the load by unknown keys.
        if !known && (in_flight >= CONCURRENT_FETCHES || inner.recent.len() >= FETCHES_PER_MINUTE) {
            tracing::warn!(%url, "public key not fetched: too many fetches in the last minute");
            return None;
        }

        if !known && inner.keys.len() >= MAX_KEYS && !inner.remove_oldest() {
            return None;
        }

        inner.recent.push_back(now);
        let (done, waits) = watch::channel(());
        let entry = inner.keys.entry(url.clone()).or_default();
        entry.tried = Some(now);
        entry.in_flight = Some(waits.clone());
        drop(inner);

        let (keys, url) = (self.clone(), url.clone());
        self.tasks.spawn(async move {
            let fetched = keys.fetcher.get(&url, KEY_BYTES).await;
            keys.end(&url, fetched.map(|bytes| bytes.as_ref().into()));
            let _ = done.send(());
        });

        Some(waits)
    }

    fn end(&self, url: &HttpsUrl, fetched: Result<Arc<[u8]>, crate::fetch::client::FetchError>) {
        let mut inner = self.lock();
        let Some(entry) = inner.keys.get_mut(url) else {
            return;
        };
        entry.in_flight = None;

        match fetched {
            Ok(key) => entry.key = Some((key, Instant::now())),
            Err(error) => {
                tracing::warn!(%error, kept = entry.key.is_some(), "a public key could not be fetched")
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Age at which a key is fetched again; providers publish a new key well before they use it.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Additional time for which a key that cannot be fetched again stays in use.
const STALE_FOR: Duration = Duration::from_secs(24 * 3600);

/// Minimum pause before a failed fetch is repeated.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// Maximum size of one key or key set, in bytes.
const KEY_BYTES: usize = 16 * 1024;

/// Maximum number of cached keys.
const MAX_KEYS: usize = 256;

/// Maximum number of concurrent fetches.
const CONCURRENT_FETCHES: usize = 8;

const FETCHES_PER_MINUTE: usize = 60;
