//! Header names as the sender wrote them, for hyper to write again.
//!
//! hyper can write names in the case in which it read them. It keeps that information in an
//! extension that only its parser creates. So the cache passes a head with just these names to
//! hyper's parser and keeps the extension: senders use the same few sets of names repeatedly.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hookward_tunnel::protocol::head::HeaderCase;
use http::{Extensions, Response};
use http_body_util::Empty;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::service::service_fn;

/// Cache of sets of names.
#[derive(Default)]
pub(crate) struct HeaderCaseCache {
    // A std mutex: lookups are short, and nothing waits while it is held.
    known: Mutex<HashMap<HeaderCase, Option<Extensions>>>,
}

impl HeaderCaseCache {
    /// Returns the extensions that make hyper write these names in their case, or `None` if all are
    /// lower case.
    #[must_use]
    pub(crate) fn of(&self, spelling: &HeaderCase) -> Option<Extensions> {
        if spelling.is_plain() {
            return None;
        }

        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(extensions) = known.get(spelling) {
            return extensions.clone();
        }

        let learnt = learn(spelling);
        if known.len() >= MAX_ENTRIES {
            known.clear();
        }

        // The names are slices of a whole frame, which must not be kept for them.
        known.insert(
            HeaderCase(Bytes::copy_from_slice(&spelling.0)),
            learnt.clone(),
        );

        learnt
    }
}

/// Maximum number of sets. Beyond it, the cache is cleared.
const MAX_ENTRIES: usize = 128;

/// Lets hyper parse a head with these names.
fn learn(spelling: &HeaderCase) -> Option<Extensions> {
    if spelling.names().count() > NAMES {
        return None;
    }

    let mut head = b"GET / HTTP/1.1\r\n".to_vec();
    for name in spelling.names().chain(OWN_NAMES.map(str::as_bytes)) {
        head.extend_from_slice(name);
        head.extend_from_slice(b": 0\r\n");
    }

    head.extend_from_slice(b"\r\n");

    let found = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&found);
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (parts, _) = request.into_parts();
        *keep.lock().unwrap_or_else(PoisonError::into_inner) = Some(parts.extensions);
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    });

    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .preserve_header_case(true)
            .header_read_timeout(None)
            .max_headers(NAMES + OWN_NAMES.len())
            .serve_connection(CannedStream(head.into()), service)
    );

    // All bytes are available, so one poll reads the head.
    let _ = connection
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));

    found.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Maximum number of names of a set; above, hyper's own limit would reject the head.
const NAMES: usize = 200;

/// Header fields that the agent adds to every request, in the case that proxies use.
const OWN_NAMES: [&str; 3] = ["X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"];

/// Connection that returns these bytes and discards writes.
struct CannedStream(Bytes);

impl Read for CannedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let length = self.0.len().min(buf.remaining());
        buf.put_slice(&self.0.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl Write for CannedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hyper_learns_a_spelling_once() {
        let cases = HeaderCaseCache::default();
        assert!(cases.of(&HeaderCase::default()).is_none());
        let spelling = HeaderCase("X-GitHub-Event\ncontent-LENGTH\nHost\n".into());
        assert!(
            cases
                .of(&spelling)
                .is_some_and(|extensions| !extensions.is_empty())
        );
        assert!(cases.of(&spelling).is_some());

        assert_eq!(cases.known.lock().unwrap().len(), 1);
    }
}
