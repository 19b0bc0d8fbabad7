//! Work that the gate may do for one request, in bytes.

use hookward_core::limits::{GATE_HASHED_BYTES, GATE_PARSED_BYTES, GATE_RENDERED_BYTES};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that the gate has worked on for one request.
#[derive(Debug)]
pub struct Work {
    parsed: Meter,
    hashed: Meter,
    rendered: Meter,
}

#[derive(Debug)]
pub(super) struct Meter {
    used: AtomicU64,
    most: u64,
}

/// The kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes read as JSON, as a form, or decoded.
    Parsed,
    /// Bytes that went through a hash function.
    Hashed,
    /// Bytes of signed texts that had to be put together.
    Rendered,
}

/// A request costs more work than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkLimitExceeded(pub Kind);

impl Work {
    /// The work that one request may cost.
    #[must_use]
    pub(crate) fn of_a_request() -> Arc<Self> {
        let meter = |most| Meter {
            used: AtomicU64::new(0),
            most,
        };

        Arc::new(Self {
            parsed: meter(GATE_PARSED_BYTES),
            hashed: meter(GATE_HASHED_BYTES),
            rendered: meter(GATE_RENDERED_BYTES),
        })
    }

    /// Creates a meter with the same limit for each kind of work.
    #[must_use]
    pub fn up_to(bytes: u64) -> Arc<Self> {
        let meter = || Meter {
            used: AtomicU64::new(0),
            most: bytes,
        };

        Arc::new(Self {
            parsed: meter(),
            hashed: meter(),
            rendered: meter(),
        })
    }

    /// Counts bytes before they are worked on.
    ///
    /// # Errors
    /// [`WorkLimitExceeded`] when there are more than the limit.
    pub(crate) fn spend(&self, kind: Kind, bytes: usize) -> Result<(), WorkLimitExceeded> {
        let meter = self.meter(kind);
        let before = meter.used.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) > meter.most {
            Err(WorkLimitExceeded(kind))
        } else {
            Ok(())
        }
    }

    /// Bytes of this kind so far.
    #[must_use]
    pub fn used(&self, kind: Kind) -> u64 {
        self.meter(kind).used.load(Ordering::Relaxed)
    }

    /// Bytes of all kinds so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        [Kind::Parsed, Kind::Hashed, Kind::Rendered]
            .into_iter()
            .map(|kind| self.used(kind))
            .sum()
    }

    const fn meter(&self, kind: Kind) -> &Meter {
        match kind {
            Kind::Parsed => &self.parsed,
            Kind::Hashed => &self.hashed,
            Kind::Rendered => &self.rendered,
        }
    }
}
