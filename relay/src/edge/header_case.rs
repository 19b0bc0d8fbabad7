//! Records how header names were written. hyper folds names to lower case; some applications
//! (such as FlexDeploy's match scripts) compare names exactly. So the recorder keeps the bytes
//! that hyper read, and looks up there the names of the head that hyper parsed.
//!
//! This is no second parser: it decides nothing but letter case. The relay forwards a name that
//! is not found in lower case, as HTTP/2 does.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use hookward_tunnel::protocol::head::{HeaderCase, HeaderCaseBuilder};
use http::HeaderMap;
use memchr::{memchr, memmem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::overload::connections::{ConnectionSlot, HeaderMemory};

/// Most recent bytes of one connection.
#[derive(Clone, Default)]
pub(crate) struct RecordedCase {
    // A std mutex: reader and request handler are one task, it is never contended.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    bytes: Vec<u8>,
    /// Bytes of a body that are still to come; they contain no names.
    skip: u64,
    /// `true` while a body of unknown length is received. Its bytes are recorded only because the
    /// next head may follow.
    in_body: bool,
    /// Memory for an unfinished head.
    held: Option<HeaderMemory>,
}

impl RecordedCase {
    /// Returns the names of this head as written, in the iteration order of `headers`. `start` is the
    /// request line up to the version, `body` the body's length if known. Discards the recorded bytes
    /// up to the head's end.
    #[must_use]
    pub(crate) fn header_case(
        &self,
        start: &[u8],
        headers: &HeaderMap,
        body: Option<u64>,
    ) -> HeaderCase {
        let mut inner = self.lock();
        let Some(head) = inner.find_head(start) else {
            return HeaderCase::default();
        };
        let spelling = inner
            .bytes
            .get(head.clone())
            .map(|head| in_order(head, headers))
            .unwrap_or_default();

        let mut used = head.end;
        if let Some(length) = body {
            let here = usize::try_from(length)
                .unwrap_or(usize::MAX)
                .min(inner.bytes.len() - used);
            used += here;
            inner.skip = length - here as u64;
        }

        inner.in_body = body.is_none();
        inner.bytes.drain(..used);
        inner.bytes.shrink_to(MAX_KEPT_BYTES);
        inner.hold();

        spelling
    }

    /// Returns `true` if the sender wrote a fragment after its target, which hyper drops. `line` is
    /// the request line as hyper parsed it, `target` its part up to the target's end. After a
    /// chunked body the search covers both forms, and the plain line wins.
    #[must_use]
    pub(crate) fn has_fragment(&self, line: &[u8], target: &[u8]) -> bool {
        let inner = self.lock();
        let behind = |at: usize| inner.bytes.get(at + target.len()) == Some(&b'#');
        if inner.bytes.starts_with(target) {
            return behind(0);
        }
        memmem::find(&inner.bytes, line).is_none()
            && memmem::find_iter(&inner.bytes, target).any(behind)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Capacity kept for the next head, in bytes: more than one webhook needs.
const MAX_KEPT_BYTES: usize = 8 * 1024;

impl Inner {
    /// Records bytes. Returns `false` if memory is full.
    fn add(&mut self, new: &[u8]) -> bool {
        let skipped = usize::try_from(self.skip)
            .unwrap_or(usize::MAX)
            .min(new.len());
        self.skip -= skipped as u64;
        self.bytes
            .extend_from_slice(new.get(skipped..).unwrap_or_default());

        if self.bytes.len() > MAX_REMEMBERED + SLACK {
            let oldest = self.bytes.len() - MAX_REMEMBERED;
            self.bytes.drain(..oldest);
        }

        self.hold()
    }

    fn hold(&mut self) -> bool {
        // hyper keeps no copy of a chunked body, so its bytes cost less.
        let cost = if self.in_body { 1 } else { COST };
        let granted = self
            .held
            .as_mut()
            .is_none_or(|held| held.set(self.bytes.len() as u64 * cost));

        granted || self.in_body
    }

    /// Finds the lines that begin with `start`: nearly always the next bytes, but after a chunked
    /// body they must be searched.
    fn find_head(&self, start: &[u8]) -> Option<Range<usize>> {
        let at = if self.bytes.starts_with(start) {
            0
        } else {
            memmem::find(&self.bytes, start)?
        };
        let from = at + start.len();
        let length = memmem::find(self.bytes.get(from..)?, b"\r\n\r\n")? + 4;
        Some(from..from + length)
    }
}

/// Maximum number of recorded bytes; the oldest are dropped first. A head is smaller.
const MAX_REMEMBERED: usize = 64 * 1024;

/// Number of bytes beyond the maximum before old ones are dropped.
const SLACK: usize = 16 * 1024;

/// Memory cost of each byte of an unfinished head: here, in hyper's buffer, in the TLS buffer, and
/// their spare capacity.
const COST: u64 = 4;

/// Returns the names of a head's lines in the order of the map, which keeps equal names together.
fn in_order(head: &[u8], headers: &HeaderMap) -> HeaderCase {
    let mut found: Vec<&[u8]> = head
        .split(|byte| *byte == b'\n')
        .filter_map(name_of)
        .collect();
    let mut spelled = HeaderCaseBuilder::new();
    let mut next = 0;

    for (name, _) in headers {
        let lower = name.as_str().as_bytes();
        let fits = |index: &usize| {
            found
                .get(*index)
                .is_some_and(|written| written.eq_ignore_ascii_case(lower))
        };

        let index = Some(next)
            .filter(fits)
            .or_else(|| (0..found.len()).find(fits));
        match index.and_then(|index| Some((index, found.get_mut(index)?))) {
            Some((index, written)) => {
                // Taken, because a later equal name was written elsewhere.
                spelled.add(std::mem::take(written), name);
                next = index + 1;
            }
            None => spelled.add(lower, name),
        }
    }

    spelled.finish()
}

fn name_of(line: &[u8]) -> Option<&[u8]> {
    line.get(..memchr(b':', line)?)
}

/// Stream that records the bytes read from it.
pub(crate) struct HeaderCaseRecorder<S> {
    inner: S,
    recorded: RecordedCase,
}

impl<S> HeaderCaseRecorder<S> {
    /// Records the bytes read from this stream, charged to its slot.
    pub(crate) fn new(inner: S, slot: &Arc<ConnectionSlot>) -> (Self, RecordedCase) {
        let recorded = RecordedCase::default();
        recorded.lock().held = Some(slot.hold_coming());
        (
            Self {
                inner,
                recorded: recorded.clone(),
            },
            recorded,
        )
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeaderCaseRecorder<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = Pin::new(&mut self.inner).poll_read(cx, buf);

        if let Some(new) = buf.filled().get(before..)
            && !new.is_empty()
            && !self.recorded.lock().add(new)
        {
            return Poll::Ready(Err(io::Error::other("no memory for the head")));
        }

        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeaderCaseRecorder<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_written_also_when_repeated_and_pipelined() {
        let start: &[u8] = b"POST /a HTTP/1.1\r\n";
        let head = "Host: x\r\nX-A: 1\r\nX-GitHub-Event: push\r\nx-a: 2\r\n\r\n";
        let mut headers = HeaderMap::new();

        for (name, value) in [
            ("host", "x"),
            ("x-a", "1"),
            ("x-github-event", "push"),
            ("x-a", "2"),
        ] {
            headers.append(http::HeaderName::from_static(name), value.parse().unwrap());
        }

        let recorded = RecordedCase::default();
        // After a chunked body, then twice after a body of known length that arrives in pieces.
        recorded.lock().add(b"0\r\n\r\n");

        for pieces in [["", "body"], ["", "bo"], ["dy", "body"]] {
            let [before, behind] = pieces;
            recorded
                .lock()
                .add(format!("{before}POST /a HTTP/1.1\r\n{head}{behind}").as_bytes());

            let spelling = recorded.header_case(start, &headers, Some(4));
            let written: Vec<_> = spelling
                .names()
                .map(|name| std::str::from_utf8(name).unwrap())
                .collect();
            assert_eq!(written, ["Host", "X-A", "x-a", "X-GitHub-Event"]);
        }

        assert!(
            recorded.lock().bytes.is_empty(),
            "bodies are not remembered"
        );
        assert_eq!(
            recorded.header_case(b"GET / HTTP/1.1\r\n", &headers, Some(0)),
            HeaderCase::default()
        );
    }
}
