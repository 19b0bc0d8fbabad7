//! A request as the gate sees it: the bytes that were received, before anything interprets them.

use http::{HeaderMap, Method};

use crate::inspection::Inspection;

/// Head of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'r> {
    /// Method.
    pub method: &'r Method,
    /// Path and query, as sent.
    pub target: &'r [u8],
    /// Header fields.
    pub headers: &'r HeaderMap,
    /// Scheme and authority of the tunnel's public URL, such as `https://hooks.example.com`: from
    /// configuration, never from the request.
    pub origin: &'r str,
}

impl<'r> RequestHead<'r> {
    /// The target up to its query.
    #[must_use]
    pub(crate) fn path(&self) -> &'r [u8] {
        self.target
            .split(|byte| *byte == b'?')
            .next()
            .unwrap_or_default()
    }

    /// The target behind its `?`; `None` without one.
    #[must_use]
    pub(crate) fn query(&self) -> Option<&'r [u8]> {
        let question = self.target.iter().position(|byte| *byte == b'?')?;
        self.target.get(question + 1..)
    }
}

/// A request's head for another thread.
#[derive(Debug, Clone)]
pub struct OwnedHead {
    method: Method,
    target: Vec<u8>,
    headers: HeaderMap,
    origin: String,
}

impl From<RequestHead<'_>> for OwnedHead {
    fn from(head: RequestHead<'_>) -> Self {
        Self {
            method: head.method.clone(),
            target: head.target.to_vec(),
            headers: head.headers.clone(),
            origin: head.origin.to_owned(),
        }
    }
}

impl OwnedHead {
    /// As the gate takes it.
    #[must_use]
    pub fn head(&self) -> RequestHead<'_> {
        let Self {
            method,
            target,
            headers,
            origin,
        } = self;

        RequestHead {
            method,
            target,
            headers,
            origin,
        }
    }
}

/// A whole request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'r> {
    /// Head of the request.
    pub head: RequestHead<'r>,
    /// The body, after transfer coding and before anything else.
    pub body: &'r [u8],
    /// Results that are computed once.
    pub inspection: Option<&'r Inspection>,
}

impl<'r> Request<'r> {
    /// A request about which nothing has been worked out yet.
    #[must_use]
    pub const fn new(head: RequestHead<'r>, body: &'r [u8]) -> Self {
        Self {
            head,
            body,
            inspection: None,
        }
    }

    /// Returns the request with its inspection.
    #[must_use]
    pub(crate) const fn inspected(self, inspection: &'r Inspection) -> Self {
        Self {
            inspection: Some(inspection),
            ..self
        }
    }
}
