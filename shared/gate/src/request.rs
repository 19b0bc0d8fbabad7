//! A request as the gate sees it: the received bytes, before any interpretation.

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
    /// Origin of the tunnel's public URL, such as `https://hooks.example.com`: from configuration,
    /// never from the request.
    pub origin: &'r str,
}

impl<'r> RequestHead<'r> {
    /// Returns the path of the target.
    #[must_use]
    pub(crate) fn path(&self) -> &'r [u8] {
        self.target
            .split(|byte| *byte == b'?')
            .next()
            .unwrap_or_default()
    }

    /// Returns the query of the target, or `None` without one.
    #[must_use]
    pub(crate) fn query(&self) -> Option<&'r [u8]> {
        let question = self.target.iter().position(|byte| *byte == b'?')?;
        self.target.get(question + 1..)
    }
}

/// Head of a request, for another thread.
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
    /// Returns the head for the gate.
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
    /// Body, after transfer decoding and before any other step.
    pub body: &'r [u8],
    /// Cached results.
    pub inspection: Option<&'r Inspection>,
}

impl<'r> Request<'r> {
    /// Creates a request without cached results.
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
