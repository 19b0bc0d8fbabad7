//! Members of a signature list, and header fields with their names as written.

use hookward_core::reason::Reason;
use http::HeaderName;

/// A header name, with its letters as the provider writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderField {
    pub(super) written: String,
    pub(super) name: HeaderName,
}

/// The members of a signature's list: a key, where they have keys, and a value.
#[derive(Debug, Default)]
pub(crate) struct SignatureParams(pub Vec<(Option<Vec<u8>>, Vec<u8>)>);

impl HeaderField {
    /// Reads a header name.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, Reason> {
        let name = HeaderName::from_bytes(text.as_bytes())
            .map_err(|_| format!("{text:?} is not a header name"))?;
        Ok(Self {
            written: text.to_owned(),
            name,
        })
    }

    #[must_use]
    pub(crate) const fn name(&self) -> &HeaderName {
        &self.name
    }
}
