//! Queue of events for the tunnel's owner. It sends a bounded number of refusals a second one by
//! one and the rest as counts by check, so that a flood fills neither memory nor the owner's
//! screen.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::quota::Quota;
use hookward_core::reason::Check;
use hookward_tunnel::protocol::control::{RefusedContent, RefusedRequest, RelayMessage};
use tokio::sync::Notify;

/// The queue; clones share it.
#[derive(Clone)]
pub(crate) struct OwnerEvents {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    inner: Arc<Mutex<Inner>>,
    /// `true` if the agent wants the refused requests.
    wants_content: bool,
    changed: Arc<Notify>,
}

struct Inner {
    quota: Quota<Check>,
    /// Refusals for the next message, with their times.
    requests: Vec<(Instant, RefusedRequest)>,
    /// Size of the requests that were sent in this second, in bytes.
    content_bytes: usize,
    content_since: Instant,
}

impl Inner {
    /// Returns `true` if one more request may be sent in this second.
    fn has_room(&mut self) -> bool {
        if self.content_since.elapsed() >= CONTENT_WINDOW {
            (self.content_bytes, self.content_since) = (0, Instant::now());
        }
        self.content_bytes < CONTENT_BYTES
    }

    fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.quota.is_empty()
    }
}

impl OwnerEvents {
    /// Creates a queue that sends up to `most` refusals a second one by one; with `wants_content`,
    /// with their requests.
    #[must_use]
    pub(crate) fn new(most: usize, wants_content: bool) -> Self {
        let inner = Inner {
            quota: Quota::new(most),
            requests: Vec::new(),
            content_bytes: 0,
            content_since: Instant::now(),
        };

        Self {
            inner: Arc::new(Mutex::new(inner)),
            wants_content,
            changed: Arc::new(Notify::new()),
        }
    }

    /// Records a refusal. Calls `describe` only if the refusal is sent in full; its argument is `true`
    /// if there is room for the request, too.
    pub(crate) fn push(&self, check: Check, describe: impl FnOnce(bool) -> RefusedRequest) {
        let mut inner = self.lock();
        if inner.quota.take(check) {
            let has_room = self.wants_content && inner.has_room();
            // Encoding a request takes time.
            drop(inner);
            let refused = describe(has_room);
            inner = self.lock();
            inner.content_bytes += refused.content.as_ref().map_or(0, RefusedContent::len);
            inner.requests.push((Instant::now(), refused));
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Returns `true` if the agent wants the refused requests.
    pub(crate) const fn wants_content(&self) -> bool {
        self.wants_content
    }

    /// Waits for refusals and returns the message that reports them. Cancel-safe.
    pub(crate) async fn next_message(&self) -> RelayMessage {
        // Checked first: a call that was cancelled has consumed the notification, but not the
        // refusals.
        while self.lock().is_empty() {
            self.changed.notified().await;
        }

        // Counts can wait; a single refusal keeps its order among permitted requests.
        if self.lock().requests.is_empty() {
            tokio::time::sleep(GATHER_TIME).await;
        }

        let mut inner = self.lock();
        let ago = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let requests = std::mem::take(&mut inner.requests).into_iter();
        let requests = requests
            .map(|(since, refused)| RefusedRequest {
                age_ms: ago(since),
                ..refused
            })
            .collect();

        let counts = inner.quota.take_counted();
        RelayMessage::Refusals { requests, counts }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Size of the requests from which no more are sent in a second, in bytes, far below that of a
/// message: a flood of large requests must not delay other messages.
const CONTENT_BYTES: usize = 256 * 1024;

/// Window of that size.
const CONTENT_WINDOW: Duration = Duration::from_secs(1);

/// Time in which counts are combined.
const GATHER_TIME: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use hookward_core::fetched_keys::FetchedKeys;
    use hookward_tunnel::protocol::head::{ExchangeRequest, HeaderCase, RequestId, RequestMeta};
    use http::{HeaderMap, Method};

    use super::*;

    fn refused(n: usize) -> RefusedRequest {
        RefusedRequest {
            id: n.to_string(),
            host: String::new(),
            method: String::new(),
            path: String::new(),
            client: String::new(),
            status: 403,
            check: Check::Token,
            reason: String::new(),
            ms: 0,
            observed: false,
            answered: false,
            note: false,
            age_ms: 0,
            at_ms: 0,
            order: 0,
            content: None,
        }
    }

    #[tokio::test]
    async fn a_flood_becomes_counts() {
        let refusals = OwnerEvents::new(20, false);
        for n in 0..1000 {
            refusals.push(Check::Token, |_| refused(n));
        }

        let RelayMessage::Refusals { requests, counts } = refusals.next_message().await else {
            unreachable!()
        };
        assert_eq!(
            requests.len() as u64 + counts.iter().map(|(_, n)| n).sum::<u64>(),
            1000
        );
        assert!(requests.len() < 100, "{}", requests.len());
    }

    #[tokio::test]
    async fn large_requests_do_not_fill_a_message() {
        let refusals = OwnerEvents::new(20, true);
        let request = ExchangeRequest {
            meta: RequestMeta {
                id: RequestId([0; 16]),
                host: "h".into(),
                client: [127, 0, 0, 1].into(),
                keys: FetchedKeys::default(),
                delivery: None,
                timing: None,
            },
            method: Method::POST,
            target: "/".into(),
            length: None,
            trailers: false,
            upgrade: false,
            headers: HeaderMap::new(),
            header_case: HeaderCase::default(),
        };
        for n in 0..20 {
            let content = || RefusedContent::new(&request, Some(&[b'x'; 100_000]), None);
            refusals.push(Check::Token, |has_room| RefusedRequest {
                content: has_room.then(content),
                ..refused(n)
            });
        }

        let RelayMessage::Refusals { requests, .. } = refusals.next_message().await else {
            unreachable!()
        };
        let contents = requests
            .iter()
            .filter_map(|refused| refused.content.as_ref());
        let sizes: Vec<_> = contents.map(RefusedContent::len).collect();
        assert_eq!(requests.len(), 20);
        assert!((2..20).contains(&sizes.len()), "{sizes:?}");
        assert!(sizes.iter().sum::<usize>() <= CONTENT_BYTES + sizes[0]);

        let parts = requests[0].content.as_ref().unwrap().decode().unwrap();
        assert_eq!((parts.head, parts.body_bytes), (request, 100_000));
        assert_eq!(parts.body.len(), RefusedContent::BODY_BYTES);
        assert!(!parts.is_whole);
    }

    #[tokio::test]
    async fn cancelling_loses_nothing() {
        let refusals = OwnerEvents::new(0, false);
        refusals.push(Check::Token, |_| refused(1));
        assert!(
            tokio::time::timeout(GATHER_TIME / 2, refusals.next_message())
                .await
                .is_err()
        );

        let RelayMessage::Refusals { counts, .. } = refusals.next_message().await else {
            unreachable!()
        };
        assert_eq!(counts, [(Check::Token, 1)]);
    }
}
