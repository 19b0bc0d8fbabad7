//! Signed texts of forms and header lists.

use crate::providers::error::SignatureError;
use crate::providers::locator::{HeaderField, SignatureParams, ValueLocator};
use crate::request::Request;
use hookward_core::form;
use hookward_core::limits::SIGNED_FIELDS;
use http::header;
use std::collections::HashSet;

/// A decoded name with its decoded value.
pub(super) type OwnedPair = (Vec<u8>, Vec<u8>);

/// Returns the decoded pairs of a urlencoded body, sorted by name and value; none without a body.
/// Rejects other kinds of bodies, which would not be covered.
pub(in crate::providers) fn form_pairs(
    request: &Request<'_>,
) -> Result<Vec<OwnedPair>, SignatureError> {
    if request.body.is_empty() {
        return Ok(Vec::new());
    }

    let kind = request
        .head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let is_form = kind.split(';').next().is_some_and(|kind| {
        kind.trim()
            .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    });
    let pairs = form::pairs(request.body).filter(|_| is_form);
    let pairs = pairs
        .ok_or_else(|| SignatureError::Malformed("the body".to_owned(), "it is not a form"))?;

    let mut pairs: Vec<_> = pairs
        .into_iter()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    pairs.sort();

    Ok(pairs)
}

/// Returns Twilio's signed text: each value of a name counts once (npm twilio 6.2.0,
/// `webhooks.ts`).
pub(in crate::providers) fn sorted_form(request: &Request<'_>) -> Result<Vec<u8>, SignatureError> {
    let mut pairs = form_pairs(request)?;
    pairs.dedup();
    Ok(pairs
        .into_iter()
        .flat_map(|(name, value)| [name, value])
        .collect::<Vec<_>>()
        .concat())
}

/// Returns the headers that a header lists, in its order: `name:value`, joined by `;`. The list
/// must not be empty, and each must occur once, in the list and in the request.
pub(in crate::providers) fn signed_headers(
    request: &Request<'_>,
    list: &HeaderField,
) -> Result<Vec<u8>, SignatureError> {
    let place = ValueLocator::Header(list.clone());
    let no_members = SignatureParams::default();
    let value = place
        .read(request, &no_members)?
        .ok_or_else(|| SignatureError::Missing(place.to_string()))?;

    let malformed = || {
        SignatureError::Malformed(
            place.to_string(),
            "it is not a list of headers, each named once",
        )
    };
    let names = std::str::from_utf8(&value).map_err(|_| malformed())?;
    let mut known = HashSet::new();
    let mut signed: Vec<Vec<u8>> = Vec::new();

    for name in names.split(',') {
        let name = name.trim().to_ascii_lowercase();
        let field = HeaderField::parse(&name).map_err(|_| malformed())?;
        if signed.len() >= SIGNED_FIELDS || !known.insert(field.name().clone()) {
            return Err(malformed());
        }

        let field = ValueLocator::Header(field);
        let value = field
            .read(request, &no_members)?
            .ok_or_else(|| SignatureError::Missing(field.to_string()))?;
        signed.push([name.as_bytes(), b":", value.trim_ascii()].concat());
    }

    Ok(signed.join(&b';'))
}
