//! Header names as the sender wrote them.

use bytes::Bytes;
use http::HeaderName;

/// Names of a head as written: one for each field, in the iteration order of the head's
/// `HeaderMap`, each followed by a newline (which no name contains). Empty if all are lower case.
/// One allocation, because every request has one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HeaderCase(pub Bytes);

impl HeaderCase {
    /// Returns the names in order.
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

/// Builder of a [`HeaderCase`].
#[derive(Default)]
pub struct HeaderCaseBuilder {
    names: Vec<u8>,
    plain: bool,
}

impl HeaderCaseBuilder {
    /// Creates a builder with capacity for most heads.
    #[must_use]
    pub fn new() -> Self {
        Self {
            names: Vec::with_capacity(512),
            plain: true,
        }
    }

    /// Adds the next name: as written, and in lower case.
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
