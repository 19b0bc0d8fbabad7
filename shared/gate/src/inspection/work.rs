//! Limits of the gate's work for one request, in bytes.

use hookward_core::limits::{GATE_HASHED_BYTES, GATE_PARSED_BYTES, GATE_RENDERED_BYTES};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that the gate has processed for one request.
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

/// Kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes parsed as JSON or as a form, or decoded.
    Parsed,
    /// Bytes that were hashed.
    Hashed,
    /// Bytes of signed texts that were rendered.
    Rendered,
}

/// A request exceeded its work limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WorkLimitExceeded(pub Kind);

impl Work {
    /// Creates a meter with the limits of one request.
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

    /// Charges bytes before they are processed.
    ///
    /// # Errors
    /// [`WorkLimitExceeded`] above the limit.
    pub(crate) fn spend(&self, kind: Kind, bytes: usize) -> Result<(), WorkLimitExceeded> {
        let meter = self.meter(kind);
        let before = meter.used.fetch_add(bytes as u64, Ordering::Relaxed);
        if before.saturating_add(bytes as u64) > meter.most {
            Err(WorkLimitExceeded(kind))
        } else {
            Ok(())
        }
    }

    /// Returns the bytes of this kind so far.
    #[must_use]
    pub fn used(&self, kind: Kind) -> u64 {
        self.meter(kind).used.load(Ordering::Relaxed)
    }

    /// Returns the bytes of all kinds so far.
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
