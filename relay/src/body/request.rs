//! Reads request bodies: at a minimum rate, up to a maximum size, within the body memory.

use std::time::Duration;

use bytes::Bytes;
use hookward_core::limits::{GATHER_TIMEOUT, Limits, SMALL_BODY};
use hookward_core::reason::{Check, Code, Refusal};
use hookward_runtime::body_memory::{BodyMemoryError, MemoryCharge};
use hookward_tunnel::body_buffer::BodyBuffer;
use http::HeaderMap;
use http_body::Frame;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::body::drain::DrainOnDrop;
use crate::overload::write_timeout::UnreadBody;

/// Body of a request, while it is received.
pub(crate) struct SenderBody {
    incoming: DrainOnDrop,
    /// Cleared when the end has been read.
    unread: UnreadBody,
    window: Duration,
    rate: u64,
    /// Time spent waiting for the sender in this window, and bytes received.
    waited: Duration,
    came: u64,
}

/// First bytes of a body that arrived at once.
pub(crate) struct BodyStart {
    pub bytes: Bytes,
    /// `true` if these bytes are the whole body.
    pub complete: bool,
    /// Trailer fields.
    pub trailers: Option<HeaderMap>,
}

impl SenderBody {
    /// Wraps a body that must arrive at the minimum rate of the limits.
    ///
    /// # Errors
    /// 413 when the announced length exceeds [`MAX_CONTENT_LENGTH`].
    pub(crate) fn new(
        incoming: DrainOnDrop,
        limits: &Limits,
        unread: UnreadBody,
    ) -> Result<Self, Refusal> {
        let (window, rate) = (limits.body_rate_window, limits.min_body_rate);
        let body = Self {
            incoming,
            unread,
            window,
            rate,
            waited: Duration::ZERO,
            came: 0,
        };
        match body.length() {
            Some(length) if length > MAX_CONTENT_LENGTH => Err(too_large(MAX_CONTENT_LENGTH)),
            _ => Ok(body),
        }
    }

    /// Returns the announced length, less the bytes read.
    #[must_use]
    pub(crate) fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Returns `true` if nothing is left to read.
    #[must_use]
    pub(crate) fn is_end(&self) -> bool {
        self.incoming.is_end_stream()
    }

    /// Returns the next frame, or `None` at the end. Only time spent waiting for the sender counts
    /// against the minimum rate.
    ///
    /// # Errors
    /// 408 for a slow body, and 400 for an aborted or malformed one.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame<Bytes>>, Refusal> {
        loop {
            let since = Instant::now();
            let left = self.window.saturating_sub(self.waited);
            let frame = timeout(left, self.incoming.frame()).await;
            self.waited += since.elapsed();

            match frame {
                Ok(Some(Ok(frame))) => {
                    self.came += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if self.is_end() {
                        self.unread.set(false);
                    }
                    return Ok(Some(frame));
                }
                Ok(Some(Err(error))) => return Err(broken(&error)),
                Ok(None) => {
                    self.unread.set(false);
                    return Ok(None);
                }
                Err(_) if self.came < self.rate.saturating_mul(self.window.as_secs().max(1)) => {
                    return Err(too_slow());
                }
                Err(_) => (self.waited, self.came) = (Duration::ZERO, 0),
            }
        }
    }

    /// Reads the whole body, up to `cap` bytes.
    ///
    /// # Errors
    /// As [`SenderBody::next`]; 413 above `cap`, and 503 when the body memory is full.
    pub(crate) async fn read_whole(
        &mut self,
        cap: u64,
        within: Duration,
        charge: &mut MemoryCharge,
    ) -> Result<Bytes, Refusal> {
        if self.length().is_some_and(|length| length > cap) {
            return Err(too_large(cap));
        }

        let deadline = Instant::now() + within;
        let mut collected = BodyBuffer::expecting(self.length());

        loop {
            let eviction = charge.evicted();
            let next = tokio::select! {
                biased;
                next = timeout_at(deadline, self.next()) => next.map_err(|_| too_slow())??,
                () = eviction => {
                    // This body waits for memory itself, so its own rest is not worth waiting for.
                    self.unread.set_slow();
                    return Err(evicted());
                }
            };
            let Some(frame) = next else { break };
            let Ok(data) = frame.into_data() else {
                continue;
            };

            if collected.len() as u64 + data.len() as u64 > cap {
                return Err(too_large(cap));
            }

            wait_for_memory(charge, data.len() as u64).await?;
            collected.add(data);

            if self.is_end() {
                break;
            }
        }

        charge.complete();
        Ok(collected.into_bytes())
    }

    /// Reads what arrives at once: all of a small body, or the first piece of a large one.
    ///
    /// # Errors
    /// As [`SenderBody::next`]; 503 when the body memory is full.
    pub(crate) async fn gather(&mut self, charge: &mut MemoryCharge) -> Result<BodyStart, Refusal> {
        let deadline = Instant::now() + GATHER_TIMEOUT;
        let mut collected = BodyBuffer::expecting(self.length());
        let mut trailers = None;
        let mut complete = self.is_end();
        while !complete && collected.len() < SMALL_BODY {
            let Ok(next) = timeout_at(deadline, self.next()).await else {
                break;
            };
            match next?.map(Frame::into_data) {
                None => complete = true,
                Some(Ok(data)) => {
                    wait_for_memory(charge, data.len() as u64).await?;
                    collected.add(data);
                    complete = self.is_end();
                }
                Some(Err(frame)) => trailers = frame.into_trailers().ok(),
            }
        }

        charge.complete();
        Ok(BodyStart {
            bytes: collected.into_bytes(),
            complete,
            trailers,
        })
    }
}

/// Maximum announced length, in bytes: 1 TiB takes three hours at 1 Gbit/s.
const MAX_CONTENT_LENGTH: u64 = 1 << 40;

/// Returns the refusal of a body above this size in bytes.
pub(crate) fn too_large(most: u64) -> Refusal {
    let reason = format!("the body has more than {most} bytes");
    Refusal::new(Check::BodySize, Code::BodyTooLarge, reason)
}

/// Returns the refusal of a body below the minimum rate, or beyond the time for a whole body.
fn too_slow() -> Refusal {
    Refusal::new(
        Check::Body,
        Code::RequestTimeout,
        "the body arrived too slowly",
    )
}

/// Returns the refusal of a body that was evicted for others.
fn evicted() -> Refusal {
    let reason = "body evicted: the memory for bodies was full, and this one was the slowest";
    Refusal::new(Check::Body, Code::Overloaded, reason)
}

fn broken(error: &hyper::Error) -> Refusal {
    let reason = format!("the body was aborted or is malformed: {error}");
    Refusal::new(Check::Body, Code::Malformed, reason)
}

/// Charges bytes. When memory is full, waits while the relay evicts the slowest body.
async fn wait_for_memory(charge: &mut MemoryCharge, bytes: u64) -> Result<(), Refusal> {
    let deadline = Instant::now() + MEMORY_WAIT;
    loop {
        match charge.grow(bytes) {
            Ok(()) => return Ok(()),
            Err(BodyMemoryError::Full) if Instant::now() < deadline => tokio::select! {
                () = sleep(MEMORY_RETRY_INTERVAL) => {}
                () = charge.evicted() => return Err(evicted()),
            },
            Err(error) => {
                let reason = error.to_string();
                return Err(Refusal::new(Check::Body, Code::Overloaded, reason));
            }
        }
    }
}

/// Maximum wait of a body for memory, while the relay evicts the slowest other one.
const MEMORY_WAIT: Duration = Duration::from_secs(1);

/// Interval between attempts to charge memory.
const MEMORY_RETRY_INTERVAL: Duration = Duration::from_millis(20);
