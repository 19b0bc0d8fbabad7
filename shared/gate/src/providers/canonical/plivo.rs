//! Signed text of Plivo.

use super::forms::form_pairs;
use crate::providers::error::SignatureError;
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::request::Request;
use hookward_core::form;

/// Location of Plivo's nonce.
pub(crate) const PLIVO_NONCE: &str = "header:X-Plivo-Signature-V3-Nonce";

/// Returns Plivo's signed text, version 3: the URL with its query sorted, then the sorted form with
/// all values, then the nonce (PyPI plivo 4.63.0, `utils/signature_v3.py`).
pub(in crate::providers) fn plivo(
    request: &Request<'_>,
    origin: &str,
) -> Result<Vec<u8>, SignatureError> {
    let broken = || SignatureError::Malformed("the query".to_owned(), "it can't be read");
    let nonce = ValueLocator::parse(PLIVO_NONCE).map_err(|_| broken())?;
    let nonce = nonce
        .read(request, &SignatureParams::default())?
        .ok_or_else(|| SignatureError::Missing(PLIVO_NONCE.to_owned()))?;
    let mut query: Vec<_> =
        form::pairs(request.head.query().unwrap_or_default()).ok_or_else(broken)?;
    query.sort();

    let query = query
        .iter()
        .map(|(name, value)| [name.as_ref(), b"=", value.as_ref()].concat())
        .collect::<Vec<_>>();
    let form = form_pairs(request)?;
    let mut text = [origin.as_bytes(), request.head.path()].concat();

    if !query.is_empty() || !form.is_empty() {
        text.push(b'?');
        text.extend(query.join(&b'&'));
        if !query.is_empty() && !form.is_empty() {
            text.push(b'.');
        }
    }

    for (name, value) in form {
        text.extend([name, value].concat());
    }

    text.push(b'.');
    text.extend_from_slice(&nonce);
    Ok(text)
}
