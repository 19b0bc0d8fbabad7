//! Header names as the sender wrote them.

use bytes::Bytes;
use http::HeaderName;

/// The names of a head as they were written: one for each field, in the order in which the head's
/// `HeaderMap` iterates, each with a newline behind it (which no name holds). Empty when all are
/// lower case. One piece of memory, because every request has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HeaderCase(pub Bytes);

impl HeaderCase {
    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split_inclusive(|byte| *byte == b'\n')
            .filter_map(|name| name.strip_suffix(b"\n"))
    }

    /// Returns `true` if all names are lower case.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.is_empty()
    }
}

/// Names that are being collected.
#[derive(Default)]
pub struct HeaderCaseBuilder {
    names: Vec<u8>,
    plain: bool,
}

impl HeaderCaseBuilder {
    /// With room for the names of most heads.
    #[must_use]
    pub fn new() -> Self {
        Self {
            names: Vec::with_capacity(512),
            plain: true,
        }
    }

    /// Adds the next name: as it was written, and in lower case.
    pub fn add(&mut self, written: &[u8], lower: &HeaderName) {
        self.plain &= written == lower.as_str().as_bytes();
        self.names.extend_from_slice(written);
        self.names.push(b'\n');
    }

    /// Returns the collected names.
    #[must_use]
    pub fn finish(self) -> HeaderCase {
        if self.plain {
            HeaderCase::default()
        } else {
            HeaderCase(self.names.into())
        }
    }
}
