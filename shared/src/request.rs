//! A request as the gate sees it: the bytes that were received, before anything interprets them.

use http::{HeaderMap, Method};

/// A request's head.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'r> {
    /// The method.
    pub method: &'r Method,
    /// Path and query, as sent.
    pub target: &'r [u8],
    /// The header fields.
    pub headers: &'r HeaderMap,
    /// Scheme and authority of the tunnel's public URL, such as `https://hooks.example.com`: from
    /// configuration, never from the request.
    pub origin: &'r str,
}

impl<'r> RequestHead<'r> {
    /// The target up to its query.
    #[must_use]
    pub fn path(&self) -> &'r [u8] {
        self.target.split(|byte| *byte == b'?').next().unwrap_or_default()
    }

    /// The target behind its `?`; `None` without one.
    #[must_use]
    pub fn query(&self) -> Option<&'r [u8]> {
        let question = self.target.iter().position(|byte| *byte == b'?')?;
        self.target.get(question + 1..)
    }
}

/// A whole request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// The head.
    pub head: RequestHead<'r>,
    /// The body, after transfer coding and before anything else.
    pub body: &'r [u8],
}
