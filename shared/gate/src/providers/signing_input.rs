//! Rendering of the signed text: a template filled from a request.

use std::borrow::Cow;
use std::sync::Arc;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use memchr::memmem;
use sha2::{Digest as _, Sha256};

use crate::inspection::{Kind, Numbered, SignedMessage};
use crate::providers::canonical::atlassian::canonical;
use crate::providers::canonical::contentful::contentful;
use crate::providers::canonical::forms::{signed_headers, sorted_form};
use crate::providers::canonical::hubspot::hubspot;
use crate::providers::canonical::plivo::plivo;
use crate::providers::canonical::sns::sns;
use crate::providers::error::SignatureError;
use crate::providers::key::{SecretParts, VerifyingKey};
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::providers::template::{Filter, Template, TemplatePart, ValueSource};
use crate::request::Request;
use hookward_core::limits::{MESSAGE_BYTES, MESSAGE_FACTOR};
use hookward_core::secret::Secret;

/// Values that fill a template.
pub(crate) struct SigningContext<'s, 'r> {
    /// Request; for an item of a batch, its body is the item.
    pub(crate) request: Request<'r>,
    /// Members of the signature's list.
    pub(crate) members: &'s SignatureParams,
    /// Timestamp as received.
    pub(crate) ts: Option<&'s [u8]>,
    /// Origin of the public URL.
    pub(crate) origin: &'s str,
}

type Piece<'m> = Cow<'m, [u8]>;

impl<'s, 'r: 's> SigningContext<'s, 'r> {
    /// Returns the signed text, and its number among those of the request.
    ///
    /// A value before literal text must not contain that text, and a header's value must not be empty.
    /// Otherwise bytes could move across the separator under the same signature.
    pub(crate) fn message(
        &self,
        template: &Template,
        parts: &SecretParts,
    ) -> Result<Numbered, SignatureError> {
        let make = || self.render(template, parts);
        match self.request.inspection {
            Some(inspection) => inspection.message(self.key(template, parts), make),
            None => Ok((0, Arc::new(make()?))),
        }
    }

    /// Returns the key of a signed text among those of the same request: the template, and the
    /// values that vary within a request.
    fn key(&self, template: &Template, parts: &SecretParts) -> Vec<u8> {
        let mut key = Vec::with_capacity(128);
        let mut add = |part: &[u8]| {
            key.extend_from_slice(&part.len().to_le_bytes());
            key.extend_from_slice(part);
        };
        add(template.to_string().as_bytes());
        add(self.origin.as_bytes());
        add(self.ts.unwrap_or_default());

        for source in template.sources() {
            match source {
                ValueSource::Secret(name) => {
                    let digest = parts.get(name.as_deref()).map(Secret::digest);
                    add(digest
                        .as_ref()
                        .map(|digest| &digest.as_bytes()[..])
                        .unwrap_or_default());
                }
                ValueSource::At(ValueLocator::Member(_) | ValueLocator::Position(_)) => {
                    for (name, value) in &self.members.0 {
                        add(name.as_deref().unwrap_or_default());
                        add(value);
                    }
                }
                _ => {}
            }
        }

        key
    }

    /// Renders the signed text.
    pub(crate) fn render(
        &self,
        template: &Template,
        parts: &SecretParts,
    ) -> Result<SignedMessage, SignatureError> {
        let mut message = SignedMessage::default();
        self.render_parts(template.parts(), parts, &mut message)?;
        Ok(message)
    }

    /// Renders a response, in which the key may sign values.
    pub(crate) fn render_signed(
        &self,
        template: &Template,
        parts: &SecretParts,
        key: Option<&VerifyingKey>,
    ) -> Result<Vec<u8>, SignatureError> {
        let mut answer = SignedMessage::default();
        for part in template.parts() {
            match part {
                TemplatePart::Value(
                    source,
                    filter @ (Filter::SignedHex | Filter::SignedBase64),
                ) => {
                    let value = self.value(source, parts)?;
                    let signed = key.and_then(|key| key.sign(&[value]));
                    let signed = signed.ok_or_else(|| SignatureError::NoPart("key".to_owned()))?;
                    let encoding = if *filter == Filter::SignedHex {
                        HEXLOWER
                    } else {
                        BASE64
                    };
                    answer.push(Cow::Owned(encoding.encode(&signed).into_bytes()), b"");
                }
                TemplatePart::Value(source, filter) => {
                    answer.push(self.filtered(self.value(source, parts)?, *filter)?, b"");
                }
                other => self.render_parts(std::slice::from_ref(other), parts, &mut answer)?,
            }
        }

        Ok(answer.concat(self.request.body))
    }

    fn render_parts(
        &self,
        template: &[TemplatePart],
        parts: &SecretParts,
        message: &mut SignedMessage,
    ) -> Result<(), SignatureError> {
        let mut rest = template.iter().peekable();
        while let Some(part) = rest.next() {
            match part {
                TemplatePart::Literal(text) => self.add(message, Cow::Borrowed(text.as_bytes()))?,
                TemplatePart::Optional(inside) => {
                    let start = message.pieces();
                    match self.render_parts(inside, parts, message) {
                        Err(SignatureError::Missing(_)) => message.truncate(start),
                        rendered => rendered?,
                    }
                }
                TemplatePart::Value(source, filter) => {
                    let value = self.value(source, parts)?;
                    if let (ValueSource::At(place), true) = (source, value.is_empty()) {
                        return Err(SignatureError::Malformed(place.to_string(), "it is empty"));
                    }

                    if let (
                        ValueSource::At(_) | ValueSource::Item(_),
                        Some(TemplatePart::Literal(separator)),
                    ) = (source, rest.peek())
                        && *filter != Filter::Free
                        && memmem::find(&value, separator.as_bytes()).is_some()
                    {
                        return Err(SignatureError::Malformed(
                            named(source),
                            "it holds what separates it from the rest",
                        ));
                    }

                    let value = self.filtered(value, *filter)?;
                    self.add(message, value)?;
                }
            }
        }

        Ok(())
    }

    /// Adds bytes to a signed text, whose size beside the body is bounded.
    fn add(&self, message: &mut SignedMessage, bytes: Piece<'_>) -> Result<(), SignatureError> {
        let most = self
            .request
            .body
            .len()
            .saturating_mul(MESSAGE_FACTOR)
            .saturating_add(MESSAGE_BYTES);
        if message.len() + bytes.len() > most {
            return Err(SignatureError::WorkLimit("rendered"));
        }

        let copied = message.push(bytes, self.request.body);
        self.spend(Kind::Rendered, copied)
    }

    fn spend(&self, kind: Kind, bytes: usize) -> Result<(), SignatureError> {
        match self.request.inspection {
            Some(inspection) => Ok(inspection.work().spend(kind, bytes)?),
            None => Ok(()),
        }
    }

    fn filtered<'m>(&self, value: Piece<'m>, filter: Filter) -> Result<Piece<'m>, SignatureError> {
        match filter {
            Filter::Sha256 | Filter::Sha256Base64 | Filter::Sha256Base64url => {
                self.spend(Kind::Hashed, value.len())?
            }
            Filter::JsonString => self.spend(Kind::Parsed, value.len())?,
            _ => {}
        }

        filtered(value, filter)
    }

    fn value<'m>(
        &'m self,
        source: &'m ValueSource,
        parts: &'m SecretParts,
    ) -> Result<Piece<'m>, SignatureError> {
        let head = &self.request.head;
        Ok(match source {
            ValueSource::Body => Cow::Borrowed(self.request.body),
            ValueSource::BodyCrc32 => {
                self.spend(Kind::Hashed, self.request.body.len())?;
                Cow::Owned(crc32fast::hash(self.request.body).to_string().into_bytes())
            }
            ValueSource::Timestamp => Cow::Borrowed(self.ts.unwrap_or_default()),
            ValueSource::Secret(name) => match parts.get(name.as_deref()) {
                Some(secret) => Cow::Borrowed(secret.expose()),
                None => return Err(SignatureError::NoPart(name.clone().unwrap_or_default())),
            },
            ValueSource::Url => Cow::Owned([self.origin.as_bytes(), head.target].concat()),
            ValueSource::Method => Cow::Borrowed(head.method.as_str().as_bytes()),
            ValueSource::Target => Cow::Borrowed(head.target),
            ValueSource::Canonical => Cow::Owned(canonical(&self.request)?),
            ValueSource::At(place) => place
                .read(&self.request, self.members)?
                .ok_or_else(|| SignatureError::Missing(place.to_string()))?,
            ValueSource::Item(path) => {
                let place = ValueLocator::Json(path.clone());
                place
                    .read(&self.request, self.members)?
                    .unwrap_or(Cow::Borrowed(b""))
            }
            ValueSource::FormSorted => {
                self.spend(Kind::Parsed, self.request.body.len())?;
                Cow::Owned(sorted_form(&self.request)?)
            }
            ValueSource::SignedHeaders(list) => Cow::Owned(signed_headers(&self.request, list)?),
            ValueSource::Sns => Cow::Owned(sns(&self.request)?),
            ValueSource::Plivo => {
                self.spend(Kind::Parsed, self.request.body.len())?;
                Cow::Owned(plivo(&self.request, self.origin)?)
            }
        })
    }
}

fn named(source: &ValueSource) -> String {
    match source {
        ValueSource::At(place) => place.to_string(),
        ValueSource::Item(path) => format!("json:{path}"),
        _ => String::new(),
    }
}

fn filtered(value: Piece<'_>, filter: Filter) -> Result<Piece<'_>, SignatureError> {
    let text = |value: &[u8]| {
        let text = std::str::from_utf8(value).map(str::to_owned);
        text.map_err(|_| SignatureError::Malformed("the signed text".to_owned(), "it is not UTF-8"))
    };

    Ok(match filter {
        Filter::None | Filter::Free => value,
        Filter::Lower => Cow::Owned(value.to_ascii_lowercase()),
        Filter::JsonString => {
            let quoted = serde_json::to_vec(&text(&value)?);
            Cow::Owned(quoted.map_err(|_| {
                SignatureError::Malformed("the signed text".to_owned(), "it is not valid text")
            })?)
        }
        // Only a response signs; see `render_signed`.
        Filter::SignedHex | Filter::SignedBase64 => {
            return Err(SignatureError::NoPart("key".to_owned()));
        }
        Filter::Sha256 => Cow::Owned(HEXLOWER.encode(&Sha256::digest(&value)).into_bytes()),
        Filter::Sha256Base64 => Cow::Owned(BASE64.encode(&Sha256::digest(&value)).into_bytes()),
        Filter::Sha256Base64url => {
            Cow::Owned(BASE64URL_NOPAD.encode(&Sha256::digest(&value)).into_bytes())
        }
        Filter::Hubspot => Cow::Owned(hubspot(&text(&value)?).into_bytes()),
        Filter::Contentful => Cow::Owned(contentful(&text(&value)?).into_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    use crate::request::RequestHead;

    #[test]
    fn ways_with_escapes() {
        assert_eq!(hubspot("https://a/%3Fx%2fy%20%3A"), "https://a/?x%2fy%20:");
        assert_eq!(contentful("/a b?x=1&y"), "/a%20b?x%253D1%2526y");
        assert_eq!(contentful("/a"), "/a");
    }

    #[test]
    fn forms_are_sorted_and_each_value_counts_once() {
        let none = HeaderMap::new();
        let head = RequestHead {
            method: &Method::POST,
            target: b"/a?z=1&b=2",
            headers: &none,
            origin: "https://h",
        };
        assert!(sorted_form(&Request::new(head, b"a=1")).is_err(), "no form");

        let kind = "application/x-www-form-urlencoded; charset=utf-8"
            .parse()
            .unwrap();
        let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, kind)]);
        let head = RequestHead {
            headers: &headers,
            ..head
        };
        let form = |body: &'static [u8]| sorted_form(&Request::new(head, body));
        assert_eq!(form(b"b=2&a=1+1&b=1&b=2").unwrap(), b"a1 1b1b2");

        assert_eq!(form(b"").unwrap(), b"");
    }

    #[test]
    fn the_canonical_request_of_atlassian() {
        let headers = HeaderMap::new();
        let target = b"/rest/api/?z=1&jwt=x&a=2&a=1&b=c%20d";
        let head = RequestHead {
            method: &Method::GET,
            target,
            headers: &headers,
            origin: "",
        };
        assert_eq!(
            canonical(&Request::new(head, b"")).unwrap(),
            b"GET&/rest/api&a=1,2&b=c%20d&z=1"
        );
    }
}
