//! Results about one request, cached so that none is computed twice, and their cost.
//!
//! The gate parses a body before its signature is verified. One [`Inspection`] per request caches
//! each scan of the body, each signed text and each message authentication code; all accept rules,
//! schemes and secrets share them. [`Work`] counts the bytes, and ends a request that exceeds its
//! limit.

mod body_fields;
mod message;
mod work;

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;

use http::{HeaderMap, header};

pub(crate) use self::body_fields::{BodyFields, BodyFieldsBuilder};
pub(crate) use self::message::SignedMessage;
pub(crate) use self::work::WorkLimitExceeded;
pub use self::work::{Kind, Work};
use hookward_core::form::{FormError, FormFields};
use hookward_core::json::{JsonError, JsonPath, JsonPaths, Scan};

/// Id of a key and its algorithm: the digest of both.
pub(crate) type KeyId = [u8; 32];

/// A message with its number, which is unique in the request.
pub(crate) type Numbered = (usize, Arc<SignedMessage>);

/// Authentication codes, by signed text and key.
type Macs = BTreeMap<(usize, KeyId), Arc<[u8]>>;

/// Results about one request.
#[derive(Debug)]
pub struct Inspection {
    body_fields: Arc<BodyFields>,
    work: Arc<Work>,
    json: OnceCell<Scan>,
    fields: OnceCell<Result<FormFields, FormError>>,
    documents: RefCell<BTreeMap<String, Option<Arc<BodyDocument>>>>,
    messages: RefCell<BTreeMap<Vec<u8>, Numbered>>,
    macs: RefCell<Macs>,
}

/// JSON in a field of a form.
#[derive(Debug)]
struct BodyDocument {
    text: Vec<u8>,
    scan: Scan,
}

/// Failure to read a value of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BodyReadError {
    Json(JsonError),
    Form(FormError),
    /// The work for this request reached its limit.
    WorkLimit(WorkLimitExceeded),
}

impl From<WorkLimitExceeded> for BodyReadError {
    fn from(overworked: WorkLimitExceeded) -> Self {
        Self::WorkLimit(overworked)
    }
}

impl Default for Inspection {
    fn default() -> Self {
        Self::new(Arc::default(), Work::of_a_request())
    }
}

impl Inspection {
    /// Creates an empty inspection. It finds the values at `places` in one pass.
    #[must_use]
    pub(crate) const fn new(places: Arc<BodyFields>, work: Arc<Work>) -> Self {
        Self {
            body_fields: places,
            work,
            json: OnceCell::new(),
            fields: OnceCell::new(),
            documents: RefCell::new(BTreeMap::new()),
            messages: RefCell::new(BTreeMap::new()),
            macs: RefCell::new(BTreeMap::new()),
        }
    }

    /// Creates an inspection that shares the work, for an item of a batch, which is a document of
    /// its own.
    #[must_use]
    pub(crate) fn of_item(&self, places: &Arc<BodyFields>) -> Self {
        Self::new(Arc::clone(places), Arc::clone(&self.work))
    }

    #[must_use]
    pub(crate) const fn work(&self) -> &Arc<Work> {
        &self.work
    }

    /// Returns the values at this path of a JSON body, as text. At least one.
    ///
    /// # Errors
    /// [`BodyReadError`].
    pub(crate) fn texts(&self, path: &JsonPath, body: &[u8]) -> Result<Vec<String>, BodyReadError> {
        if !self.body_fields.json.has(path) {
            self.work.spend(Kind::Parsed, body.len())?;
            return path.texts(body).map_err(BodyReadError::Json);
        }
        self.scan(body)?
            .texts(&self.body_fields.json, path, body)
            .map_err(BodyReadError::Json)
    }

    /// Returns the only value at this path of a JSON body, as text.
    ///
    /// # Errors
    /// [`BodyReadError`].
    pub(crate) fn single(&self, path: &JsonPath, body: &[u8]) -> Result<String, BodyReadError> {
        if !self.body_fields.json.has(path) {
            self.work.spend(Kind::Parsed, body.len())?;
            return path.single(body).map_err(BodyReadError::Json);
        }
        self.scan(body)?
            .single(&self.body_fields.json, path, body)
            .map_err(BodyReadError::Json)
    }

    /// Returns the values as written in a JSON body. At least one.
    ///
    /// # Errors
    /// [`BodyReadError`].
    pub(crate) fn raw<'b>(
        &self,
        path: &JsonPath,
        body: &'b [u8],
    ) -> Result<Vec<&'b str>, BodyReadError> {
        if !self.body_fields.json.has(path) {
            self.work.spend(Kind::Parsed, body.len())?;
            return path.raw(body).map_err(BodyReadError::Json);
        }
        self.scan(body)?
            .raw(&self.body_fields.json, path, body)
            .map_err(BodyReadError::Json)
    }

    fn scan(&self, body: &[u8]) -> Result<&Scan, WorkLimitExceeded> {
        if self.json.get().is_none() {
            self.work.spend(Kind::Parsed, body.len())?;
        }

        let is_first = self.json.get().is_none();
        let scan = self.json.get_or_init(|| self.body_fields.json.scan(body));

        if is_first {
            self.work.spend(
                Kind::Parsed,
                usize::try_from(scan.cost()).unwrap_or(usize::MAX),
            )?;
        }

        Ok(scan)
    }

    /// Returns the value of a form's field, which may occur once.
    ///
    /// # Errors
    /// [`BodyReadError`], also for another kind of body.
    pub(crate) fn field<'b>(
        &self,
        name: &str,
        headers: &HeaderMap,
        body: &'b [u8],
    ) -> Result<Option<Cow<'b, [u8]>>, BodyReadError> {
        if self.fields.get().is_none() {
            self.work.spend(Kind::Parsed, body.len())?;
        }

        let fields = self.fields.get_or_init(|| fields(headers, body));
        let value = fields
            .as_ref()
            .map_err(|fault| *fault)
            .and_then(|fields| fields.single(body, name));
        let value = value.map_err(BodyReadError::Form)?;
        if let Some(Cow::Owned(decoded)) = &value {
            self.work.spend(Kind::Parsed, decoded.len())?;
        }

        Ok(value)
    }

    /// Returns the values in the JSON of a form's field as text, at least one, or `None` without the
    /// field.
    ///
    /// # Errors
    /// [`BodyReadError`].
    pub(crate) fn field_texts(
        &self,
        field: &str,
        path: &JsonPath,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Option<Vec<String>>, BodyReadError> {
        let Some(document) = self.document(field, headers, body)? else {
            return Ok(None);
        };
        let texts = match self
            .body_fields
            .documents
            .get(field)
            .filter(|paths| paths.has(path))
        {
            Some(paths) => document.scan.texts(paths, path, &document.text),
            None => {
                self.work.spend(Kind::Parsed, document.text.len())?;
                path.texts(&document.text)
            }
        };
        texts.map(Some).map_err(BodyReadError::Json)
    }

    /// Returns the only value in the JSON of a form's field as text, or `None` without the field.
    ///
    /// # Errors
    /// [`BodyReadError`].
    pub(crate) fn field_json(
        &self,
        field: &str,
        path: &JsonPath,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Option<String>, BodyReadError> {
        let Some(mut texts) = self.field_texts(field, path, headers, body)? else {
            return Ok(None);
        };
        match (texts.pop(), texts.is_empty()) {
            (Some(text), true) => Ok(Some(text)),
            _ => Err(BodyReadError::Json(JsonError::NotScalar(path.to_string()))),
        }
    }

    fn document(
        &self,
        field: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Option<Arc<BodyDocument>>, BodyReadError> {
        if let Some(known) = self.documents.borrow().get(field) {
            return Ok(known.clone());
        }

        let document = match self.field(field, headers, body)? {
            None => None,
            Some(text) => {
                self.work.spend(Kind::Parsed, text.len())?;
                let text = text.into_owned();
                let paths = self.body_fields.documents.get(field);
                let scan = paths.map_or_else(
                    || JsonPaths::new([]).scan(b"null"),
                    |paths| paths.scan(&text),
                );

                Some(Arc::new(BodyDocument { text, scan }))
            }
        };

        self.documents
            .borrow_mut()
            .insert(field.to_owned(), document.clone());

        Ok(document)
    }

    /// Returns the signed text for `key`: the cached one, or the result of `make`.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn message<E>(
        &self,
        key: Vec<u8>,
        make: impl FnOnce() -> Result<SignedMessage, E>,
    ) -> Result<Numbered, E> {
        if let Some(known) = self.messages.borrow().get(&key) {
            return Ok(known.clone());
        }

        let message = Arc::new(make()?);
        let mut messages = self.messages.borrow_mut();
        let numbered = (messages.len(), message);
        messages.insert(key, numbered.clone());

        Ok(numbered)
    }

    /// Returns the code of a message by a key: the cached one, or the result of `make`.
    ///
    /// # Errors
    /// [`WorkLimitExceeded`].
    pub(crate) fn mac(
        &self,
        message: &Numbered,
        key: Option<KeyId>,
        make: impl FnOnce() -> Vec<u8>,
    ) -> Result<Arc<[u8]>, WorkLimitExceeded> {
        let (number, text) = message;
        let known = key.and_then(|key| self.macs.borrow().get(&(*number, key)).cloned());
        if let Some(known) = known {
            return Ok(known);
        }

        self.work.spend(Kind::Hashed, text.len())?;
        let made: Arc<[u8]> = make().into();

        if let Some(key) = key {
            self.macs
                .borrow_mut()
                .insert((*number, key), Arc::clone(&made));
        }

        Ok(made)
    }
}

/// Returns the media type of a body, without parameters.
fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Returns the fields of a form body: urlencoded, or multipart.
fn fields(headers: &HeaderMap, body: &[u8]) -> Result<FormFields, FormError> {
    let kind = media_type(headers);
    let media = kind.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("multipart/form-data") {
        return FormFields::multipart(kind, body);
    }

    // The application parses other kinds of bodies differently.
    if media.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return FormFields::urlencoded(body);
    }

    Err(FormError::Broken)
}

#[cfg(test)]
mod tests {
    use super::message::position;
    use super::*;

    fn inspection(paths: &[&str]) -> (Inspection, Vec<JsonPath>) {
        let paths: Vec<_> = paths
            .iter()
            .map(|text| JsonPath::parse(text).unwrap())
            .collect();
        let mut places = BodyFieldsBuilder::default();
        paths.iter().for_each(|path| places.json(path));

        (
            Inspection::new(Arc::new(places.finish()), Work::of_a_request()),
            paths,
        )
    }

    #[test]
    fn a_body_is_scanned_once_for_all_places() {
        let body = br#"{"a":{"b":1},"c":2}"#;
        let (inspection, paths) = inspection(&["a.b", "c", "d"]);

        for _ in 0..3 {
            assert_eq!(inspection.single(&paths[0], body).unwrap(), "1");
            assert_eq!(inspection.single(&paths[1], body).unwrap(), "2");
            assert!(inspection.single(&paths[2], body).is_err());
        }

        assert_eq!(inspection.work().used(Kind::Parsed), body.len() as u64);
    }

    #[test]
    fn work_has_a_limit() {
        let work = Work::up_to(100);
        assert_eq!(work.spend(Kind::Hashed, 60), Ok(()));
        assert_eq!(work.spend(Kind::Parsed, 100), Ok(()));
        assert_eq!(
            work.spend(Kind::Hashed, 41),
            Err(WorkLimitExceeded(Kind::Hashed))
        );

        let places = Arc::new(BodyFieldsBuilder::default().finish());
        let inspection = Inspection::new(places, Work::up_to(5));
        let fault = inspection
            .single(&JsonPath::parse("a").unwrap(), br#"{"a":1}"#)
            .unwrap_err();
        assert_eq!(
            fault,
            BodyReadError::WorkLimit(WorkLimitExceeded(Kind::Parsed))
        );
    }

    #[test]
    fn equal_codes_are_computed_once() {
        let inspection = Inspection::default();
        let body = vec![b'x'; 1000];
        let make = || {
            let mut message = SignedMessage::default();
            assert_eq!(
                message.push(Cow::Borrowed(&body), &body),
                0,
                "the body is not copied"
            );
            Ok::<_, ()>(message)
        };
        let message = inspection.message(b"{body}".to_vec(), make).unwrap();

        for (key, times) in [([1; 32], 1), ([1; 32], 1), ([2; 32], 2)] {
            inspection.mac(&message, Some(key), || vec![7]).unwrap();
            assert_eq!(inspection.work().used(Kind::Hashed), 1000 * times);
        }

        assert_eq!(
            inspection.message(b"{body}".to_vec(), make).unwrap().0,
            message.0
        );
        assert_eq!(message.1.concat(&body), body);
    }

    #[test]
    fn a_slice_of_something_else_is_copied() {
        let (body, other) = (vec![b'a'; 64], vec![b'a'; 64]);
        assert_eq!(position(&other, &body), None);
        assert_eq!(position(&body[3..40], &body), Some(3..40));
    }
}
