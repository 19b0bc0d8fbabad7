//! Published keys of a scheme: their allowed URLs, and parsing of the fetched content.

use crate::providers::error::SignatureError;
use crate::providers::key::VerifyingKey;
use crate::providers::locator::SignatureParams;
use crate::providers::scheme::{KeySource, Scheme};
use crate::request::Request;
use hookward_core::url::HttpsUrl;

impl KeySource {
    /// Returns the key's URL for this request.
    pub(crate) fn address(&self, request: &Request<'_>) -> Result<HttpsUrl, SignatureError> {
        let text = match (&self.url, &self.from) {
            (Some(url), _) => url.clone(),
            (None, Some(place)) => {
                let value = place.read(request, &SignatureParams::default())?;
                let value = value.ok_or_else(|| SignatureError::Missing(place.to_string()))?;
                String::from_utf8(value.into_owned())
                    .map_err(|_| SignatureError::KeyAddress("it is not valid text"))?
            }
            (None, None) => return Err(SignatureError::KeyAddress("the request has none")),
        };
        let url = HttpsUrl::parse(&text).map_err(SignatureError::KeyAddress)?;

        if self.from.is_some() {
            if url.port() != 443 || !self.hosts.iter().any(|pattern| pattern.matches(url.host())) {
                return Err(SignatureError::KeyAddress("another host"));
            }
            if !self.admits(url.target()) {
                return Err(SignatureError::KeyAddress("another path"));
            }
        }

        Ok(url)
    }

    /// Parses the key in the fetched content.
    pub(crate) fn key(
        &self,
        scheme: &Scheme,
        content: &[u8],
        url: &HttpsUrl,
    ) -> Result<VerifyingKey, SignatureError> {
        let no_key = |_| SignatureError::NoKey(url.to_string());
        let text = match &self.pick {
            Some(path) => path
                .single(content)
                .map_err(|_| SignatureError::NoKey(url.to_string()))?
                .into_bytes(),
            None => content.to_vec(),
        };
        VerifyingKey::new(scheme, &text).map_err(no_key)
    }

    /// Returns `true` if the path of a URL in a request is one of the provider's. Otherwise anyone
    /// could make the relay fetch one key by many names.
    fn admits(&self, target: &str) -> bool {
        let Some((start, end)) = self.path.split_once('*') else {
            return target == self.path;
        };
        let name = target
            .strip_prefix(start)
            .and_then(|rest| rest.strip_suffix(end));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(plain))
    }
}
