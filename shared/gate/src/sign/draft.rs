//! A request in preparation, in which signing sets values at the provider's locations.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::value::to_raw_value;

use crate::providers::canonical::escape;
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::request::{Request, RequestHead};
use crate::sign::SignError;
use hookward_core::form;
use hookward_core::json::{JsonError, JsonPath};

/// A request in preparation.
#[derive(Debug, Clone)]
pub struct DraftRequest {
    /// Origin of the URL.
    pub origin: String,
    /// Path and query.
    pub target: String,
    /// Method of the request.
    pub method: Method,
    /// Header fields of the request.
    pub headers: HeaderMap,
    /// Body of the request.
    pub body: Vec<u8>,
}

impl DraftRequest {
    /// Returns the request in its current state.
    #[must_use]
    pub(crate) fn request(&self) -> Request<'_> {
        let Self {
            origin,
            target,
            method,
            headers,
            body,
        } = self;

        Request::new(
            RequestHead {
                method,
                target: target.as_bytes(),
                headers,
                origin,
            },
            body,
        )
    }

    /// Returns the value at this location.
    pub(crate) fn at(&self, place: &ValueLocator) -> Result<Option<Cow<'_, [u8]>>, SignError> {
        let none = SignatureParams::default();
        match place {
            // The value set there creates it.
            ValueLocator::Json(_) | ValueLocator::FormJson(..) | ValueLocator::Form(_)
                if self.body.is_empty() =>
            {
                Ok(None)
            }
            ValueLocator::Numbered(_) => Ok(None),
            place => place
                .read(&self.request(), &none)
                .map_err(|fault| SignError::Missing(fault.to_string())),
        }
    }

    /// Sets the value at this location.
    pub(crate) fn put(&mut self, place: &ValueLocator, text: &str) -> Result<(), SignError> {
        let impossible = || SignError::Place(place.to_string().into());
        match place {
            ValueLocator::Header(field) => {
                let value = HeaderValue::from_str(text).map_err(|_| impossible())?;
                self.headers.insert(field.name().clone(), value);
            }
            ValueLocator::Numbered(stem) => {
                let name = format!("{}-1", stem.name());
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| impossible())?;
                self.headers
                    .insert(name, HeaderValue::from_str(text).map_err(|_| impossible())?);
            }
            ValueLocator::Query(name) => {
                let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
                let query =
                    with_pair(query.as_bytes(), name, text.as_bytes()).ok_or_else(impossible)?;
                self.target = format!("{path}?{query}");
            }
            ValueLocator::Form(name) => {
                self.body = self
                    .form_with(name, text.as_bytes())
                    .ok_or_else(impossible)?
            }
            ValueLocator::Json(path) => self.body = with_json(path, &self.body, text)?,
            ValueLocator::FormJson(name, path) => {
                let document = self
                    .at(&ValueLocator::Form(name.clone()))?
                    .unwrap_or_default();
                let document = with_json(path, &document, text)?;
                self.body = self.form_with(name, &document).ok_or_else(impossible)?;
            }
            ValueLocator::Body => self.body = text.as_bytes().to_vec(),
            ValueLocator::Member(_) | ValueLocator::Position(_) => return Err(impossible()),
        }

        Ok(())
    }

    /// Wraps a JSON document in a form field, for providers that send it so.
    pub(crate) fn wrap(&mut self, name: &str) {
        self.body = format!("{name}={}", escape(&self.body, UNRESERVED)).into_bytes();
    }

    fn form_with(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        let kind = self.headers.get(header::CONTENT_TYPE)?.as_bytes();
        let urlencoded = kind
            .to_ascii_lowercase()
            .starts_with(b"application/x-www-form-urlencoded");
        urlencoded.then(|| with_pair(&self.body, name, value).map(String::into_bytes))?
    }
}

/// Characters that need no escape in queries and forms (RFC 3986 §2.3).
const UNRESERVED: &[u8] = b"-._~";

/// Returns the pairs as written, with those of this name replaced by one with the value.
fn with_pair(pairs: &[u8], name: &str, value: &[u8]) -> Option<String> {
    let mut kept = Vec::new();
    for pair in pairs
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
        if form::decode(key, true)?.as_ref() != name.as_bytes() {
            kept.push(String::from_utf8(pair.to_vec()).ok()?);
        }
    }

    kept.push(format!(
        "{}={}",
        escape(name.as_bytes(), UNRESERVED),
        escape(value, UNRESERVED)
    ));

    Some(kept.join("&"))
}

/// Returns the document with a text at the path; with a number if one was there.
fn with_json(path: &JsonPath, document: &[u8], text: &str) -> Result<Vec<u8>, SignError> {
    path.edit(document, &mut |stood| {
        let number =
            stood.is_some_and(|raw| raw.get().starts_with(|first: char| first.is_ascii_digit()));
        let raw = match text.parse::<u64>() {
            Ok(value) if number => to_raw_value(&value),
            _ => to_raw_value(text),
        };
        raw.map_err(|_| SignError::from(JsonError::NotJson))
    })
}
