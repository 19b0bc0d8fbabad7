//! Locations of values in a request: a header, the query, the body.

mod params;

use hookward_core::reason::Reason;
use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use serde::{Deserialize, Serialize};

pub use self::params::HeaderField;
pub(crate) use self::params::SignatureParams;
use crate::inspection::{BodyFieldsBuilder, BodyReadError, Inspection};
use crate::providers::error::SignatureError;
use crate::request::{Request, RequestHead};
use hookward_core::form::{self, FormError};
use hookward_core::json::{JsonError, JsonPath};

/// Location of a value in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ValueLocator {
    /// Header field, `header:NAME`.
    Header(HeaderField),
    /// `header:NAME-*`: numbered headers, from `NAME-1` on.
    Numbered(HeaderField),
    /// `query:NAME`: a query parameter, decoded.
    Query(String),
    /// `form:NAME`: a field of a form, decoded.
    Form(String),
    /// `json:PATH`: a value of a JSON body.
    Json(JsonPath),
    /// `formjson:FIELD:PATH`: a value of JSON in a form field.
    FormJson(String, JsonPath),
    /// `body`: the whole body.
    Body,
    /// `sig:KEY`: a member of the signature's list.
    Member(String),
    /// `sig:#N`: the list's member at this position, from 0.
    Position(usize),
}

impl ValueLocator {
    /// Parses a location of the catalog or a policy.
    ///
    /// # Errors
    /// The mistake.
    pub(crate) fn parse(text: &str) -> Result<Self, Reason> {
        let named = |name: &str| {
            if name.is_empty() {
                Err(format!("{text:?} names nothing"))
            } else {
                Ok(name.to_owned())
            }
        };

        match text.split_once(':') {
            Some(("header", name)) => match name.strip_suffix("-*") {
                Some(stem) => HeaderField::parse(stem).map(Self::Numbered),
                None => HeaderField::parse(name).map(Self::Header),
            },
            Some(("query", name)) => named(name).map(Self::Query).map_err(Reason::from),
            Some(("form", name)) => named(name).map(Self::Form).map_err(Reason::from),
            Some(("json", path)) => JsonPath::parse(path).map(Self::Json),
            Some(("formjson", rest)) => match rest.split_once(':') {
                Some((field, path)) => Ok(Self::FormJson(named(field)?, JsonPath::parse(path)?)),
                None => Err(format!("{text:?}: write formjson:FIELD:PATH").into()),
            },
            Some(("sig", key)) => match key.strip_prefix('#') {
                Some(digits) => digits
                    .parse()
                    .map(Self::Position)
                    .map_err(|_| format!("{text:?}: write sig:#0")).map_err(Reason::from),
                None => named(key).map(Self::Member).map_err(Reason::from),
            },
            None if text == "body" => Ok(Self::Body),
            _ => Err(format!(
                "{text:?} is not a location; write header:NAME, query:NAME, form:NAME, json:PATH, formjson:FIELD:PATH, sig:KEY or body"
            ).into()),
        }
    }

    /// Returns `true` if the value is in the body.
    #[must_use]
    pub(crate) const fn is_in_body(&self) -> bool {
        matches!(
            self,
            Self::Form(_) | Self::Json(_) | Self::FormJson(..) | Self::Body
        )
    }

    /// Returns `false` if the head alone shows that the location has no value.
    #[must_use]
    pub(crate) fn may_stand_in(&self, head: RequestHead<'_>) -> bool {
        match self {
            Self::Header(field) => head.headers.contains_key(&field.name),
            Self::Query(_) => head.query().is_some(),
            _ => true,
        }
    }

    /// Returns the only value as text; `None` without one, or if it is ambiguous.
    pub(crate) fn text(&self, request: &Request<'_>) -> Option<String> {
        let value = self.read(request, &SignatureParams::default()).ok()??;
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// Returns the only value, or `None` without one.
    ///
    /// # Errors
    /// If the value is ambiguous, or the body has another format.
    pub(crate) fn read<'r>(
        &self,
        request: &Request<'r>,
        members: &SignatureParams,
    ) -> Result<Option<Cow<'r, [u8]>>, SignatureError> {
        match self {
            Self::Header(field) => {
                let mut values = request.head.headers.get_all(&field.name).iter();
                let value = values.next().map(|value| Cow::Borrowed(value.as_bytes()));
                if values.next().is_some() {
                    return Err(SignatureError::Repeated(self.to_string()));
                }
                Ok(value)
            }
            Self::Numbered(_) => Err(SignatureError::Repeated(self.to_string())),
            Self::Query(name) => match request.head.query() {
                Some(query) => form::single(query, name).map_err(|fault| self.form_error(fault)),
                None => Ok(None),
            },
            Self::Form(name) => inspected(request, |inspection| {
                inspection.field(name, request.head.headers, request.body)
            })
            .map_err(|fault| self.read_error(fault)),
            Self::Json(path) => {
                let text = inspected(request, |inspection| inspection.single(path, request.body));
                self.unless_absent(text.map(Some))
            }
            Self::FormJson(field, path) => {
                let text = inspected(request, |inspection| {
                    inspection.field_json(field, path, request.head.headers, request.body)
                });
                self.unless_absent(text)
            }
            Self::Body => Ok(Some(Cow::Borrowed(request.body))),
            Self::Member(key) => {
                let mut found = members
                    .0
                    .iter()
                    .filter(|(name, _)| name.as_deref() == Some(key.as_bytes()));
                let value = found.next().map(|(_, value)| Cow::Owned(value.clone()));

                if found.next().is_some() {
                    return Err(SignatureError::Repeated(self.to_string()));
                }

                Ok(value)
            }
            Self::Position(index) => Ok(members
                .0
                .get(*index)
                .map(|(_, value)| Cow::Owned(value.clone()))),
        }
    }

    /// Returns all values; at least one.
    ///
    /// # Errors
    /// As [`ValueLocator::read`], and if there is none.
    pub(crate) fn read_all<'r>(
        &self,
        request: &Request<'r>,
        repeats: bool,
    ) -> Result<Vec<Cow<'r, [u8]>>, SignatureError> {
        let values = match self {
            Self::Header(field) if repeats => request
                .head
                .headers
                .get_all(&field.name)
                .iter()
                .map(|value| Cow::Borrowed(value.as_bytes()))
                .collect(),
            Self::Numbered(stem) => numbered(stem, request),
            Self::Json(path) => {
                match inspected(request, |inspection| inspection.texts(path, request.body)) {
                    Ok(texts) => texts
                        .into_iter()
                        .map(|text| Cow::Owned(text.into_bytes()))
                        .collect(),
                    Err(BodyReadError::Json(JsonError::Absent(_))) => Vec::new(),
                    Err(fault) => return Err(self.read_error(fault)),
                }
            }
            _ => self
                .read(request, &SignatureParams::default())?
                .into_iter()
                .collect(),
        };

        if values.is_empty() {
            Err(SignatureError::Missing(self.to_string()))
        } else {
            Ok(values)
        }
    }

    /// Adds the body field that it reads.
    pub(crate) fn add_to(&self, places: &mut BodyFieldsBuilder) {
        match self {
            Self::Json(path) => places.json(path),
            Self::FormJson(field, path) => places.form_json(field, path),
            _ => {}
        }
    }

    /// Returns a text; an absent one is not an error.
    fn unless_absent<'r>(
        &self,
        text: Result<Option<String>, BodyReadError>,
    ) -> Result<Option<Cow<'r, [u8]>>, SignatureError> {
        match text {
            Ok(text) => Ok(text.map(|text| Cow::Owned(text.into_bytes()))),
            Err(BodyReadError::Json(JsonError::Absent(_))) => Ok(None),
            Err(fault) => Err(self.read_error(fault)),
        }
    }

    fn read_error(&self, fault: BodyReadError) -> SignatureError {
        match fault {
            BodyReadError::Json(fault) => SignatureError::Body(fault),
            BodyReadError::Form(fault) => self.form_error(fault),
            BodyReadError::WorkLimit(overworked) => overworked.into(),
        }
    }

    fn form_error(&self, fault: FormError) -> SignatureError {
        match fault {
            FormError::Broken => {
                SignatureError::Malformed(self.to_string(), "the form or query can't be read")
            }
            FormError::Repeated => SignatureError::Repeated(self.to_string()),
            FormError::Name => SignatureError::Malformed(
                self.to_string(),
                "another name of the form begins with a space, or holds a control character, [ or .",
            ),
        }
    }
}

/// Reads from the request's inspection, or from a new one.
pub(crate) fn inspected<T>(
    request: &Request<'_>,
    read: impl FnOnce(&Inspection) -> Result<T, BodyReadError>,
) -> Result<T, BodyReadError> {
    match request.inspection {
        Some(inspection) => read(inspection),
        None => read(&Inspection::default()),
    }
}

/// Returns the values of numbered headers.
fn numbered<'r>(stem: &HeaderField, request: &Request<'r>) -> Vec<Cow<'r, [u8]>> {
    let is_number = |name: &HeaderName| {
        let rest = name
            .as_str()
            .strip_prefix(stem.name.as_str())
            .and_then(|rest| rest.strip_prefix('-'));
        rest.is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        })
    };

    let fields = request
        .head
        .headers
        .iter()
        .filter(|(name, _)| is_number(name));

    fields
        .map(|(_, value)| Cow::Borrowed(value.as_bytes()))
        .collect()
}

impl fmt::Display for ValueLocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(field) => write!(f, "header:{}", field.written),
            Self::Numbered(field) => write!(f, "header:{}-*", field.written),
            Self::Query(name) => write!(f, "query:{name}"),
            Self::Form(name) => write!(f, "form:{name}"),
            Self::Json(path) => write!(f, "json:{path}"),
            Self::FormJson(field, path) => write!(f, "formjson:{field}:{path}"),
            Self::Body => f.write_str("body"),
            Self::Member(key) => write!(f, "sig:{key}"),
            Self::Position(index) => write!(f, "sig:#{index}"),
        }
    }
}

impl TryFrom<String> for ValueLocator {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

impl From<ValueLocator> for String {
    fn from(place: ValueLocator) -> Self {
        place.to_string()
    }
}
