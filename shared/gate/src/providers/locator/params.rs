//! Members of a signature list, and header fields with their names as written.

use hookward_core::reason::Reason;
use http::HeaderName;

/// Header name, in the provider's case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderField {
    pub(super) written: String,
    pub(super) name: HeaderName,
}

/// Members of a signature list: an optional key, and a value.
#[derive(Debug, Default)]
pub(crate) struct SignatureParams(pub Vec<(Option<Vec<u8>>, Vec<u8>)>);

impl HeaderField {
    /// Parses a header name.
    ///
    /// # Errors
    /// If it is not valid.
    pub(crate) fn parse(text: &str) -> Result<Self, Reason> {
        let name = HeaderName::from_bytes(text.as_bytes())
            .map_err(|_| format!("{text:?} is not a header name"))?;
        Ok(Self {
            written: text.to_owned(),
            name,
        })
    }

    /// Returns the name in lower case.
    #[must_use]
    pub const fn name(&self) -> &HeaderName {
        &self.name
    }
}
