//! Coverage of a scheme's signature: how much of the body, the URL, and who could have signed.

use crate::providers::canonical::plivo::PLIVO_NONCE;
use crate::providers::canonical::sns::SNS_FIELDS;
use crate::providers::locator::ValueLocator;
use crate::providers::scheme::{Algorithm, Scheme};
use crate::providers::template::{Filter, Template, TemplatePart, ValueSource};
use hookward_core::json::JsonPath;

/// Share of the body that a valid signature covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coverage {
    /// Nothing: it identifies the sender, and any body may follow.
    Nothing,
    /// A part, or a value that many bodies share: other fields may be anything.
    Part,
    /// The whole body.
    Body,
}

impl Scheme {
    /// Returns how much of the body a valid signature covers.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        if let Some(rules) = &self.jwt {
            let bound = rules.detached
                || self.sig.at == ValueLocator::Body
                || rules.claims.values().any(digests_body);
            return if bound {
                Coverage::Body
            } else {
                Coverage::Nothing
            };
        }

        if self.alg == Algorithm::Equals {
            return Coverage::Nothing;
        }

        // The signed URL contains the body's digest.
        let bound = || {
            self.msg.sources().any(|source| *source == ValueSource::Url)
                && self.require.iter().any(|required| {
                    matches!(required.at, ValueLocator::Query(_))
                        && required.is.as_ref().is_some_and(digests_body)
                })
        };

        // Anyone who has seen a digest of a text that begins with the secret can extend it.
        let ends_open = self.alg.is_digest()
            && !matches!(
                self.msg.parts().last(),
                Some(TemplatePart::Value(ValueSource::Secret(_), _))
            );
        if (digests_body(&self.msg) || bound()) && !ends_open && !self.has_open_joint() {
            return Coverage::Body;
        }

        let some = |source: &ValueSource| match source {
            // These join names and values without separators.
            ValueSource::FormSorted | ValueSource::Plivo => true,
            ValueSource::Body
            | ValueSource::BodyCrc32
            | ValueSource::Sns
            | ValueSource::Item(_) => true,
            ValueSource::At(place) => place.is_in_body(),
            _ => false,
        };

        let time_in_body = self.ts.as_ref().is_some_and(|ts| ts.at.is_in_body());
        if self.msg.sources().any(some) || time_in_body {
            Coverage::Part
        } else {
            Coverage::Nothing
        }
    }

    /// Returns `true` if the scheme needs the body.
    #[must_use]
    pub(crate) fn needs_body(&self) -> bool {
        let reads = |source: &ValueSource| match source {
            ValueSource::Body
            | ValueSource::BodyCrc32
            | ValueSource::FormSorted
            | ValueSource::Plivo
            | ValueSource::Sns
            | ValueSource::Item(_) => true,
            ValueSource::At(place) => place.is_in_body(),
            _ => false,
        };
        let template_reads = |template: &Template| template.sources().any(reads);

        let signs = !matches!(self.alg, Algorithm::Equals | Algorithm::Jwt);
        self.sig.at.is_in_body()
            || signs && template_reads(&self.msg)
            || self.each.is_some()
            || self.fetch.is_some()
            || self.ts.as_ref().is_some_and(|ts| ts.at.is_in_body())
            || self
                .require
                .iter()
                .any(|rule| rule.at.is_in_body() || rule.is.as_ref().is_some_and(template_reads))
            || self
                .jwt
                .as_ref()
                .is_some_and(|rules| rules.detached || rules.claims.values().any(template_reads))
    }

    /// Returns `true` for a signature, `false` for a token.
    #[must_use]
    pub(crate) fn signs(&self) -> bool {
        self.alg != Algorithm::Equals
    }

    /// Returns all locations that are read to verify it; for a batch, those of its items.
    pub(crate) fn places(&self) -> impl Iterator<Item = ValueLocator> {
        let at = |template: &Template| template.sources().flat_map(places_of).collect::<Vec<_>>();
        let claims = self.jwt.iter().flat_map(|rules| rules.claims.values());
        let required = self.require.iter().flat_map(move |rule| {
            let wanted = rule.is.as_ref().map(at).unwrap_or_default();
            std::iter::once(rule.at.clone()).chain(wanted)
        });
        let fixed = [Some(&self.sig.at), self.ts.as_ref().map(|ts| &ts.at)]
            .into_iter()
            .flatten();

        let fetched = self.fetch.as_ref().and_then(|fetch| fetch.from.as_ref());
        fixed
            .chain(fetched)
            .cloned()
            .chain(at(&self.msg))
            .chain(claims.flat_map(at))
            .chain(required)
    }

    /// Returns `true` if its key cannot sign.
    #[must_use]
    pub(crate) fn only_verifies(&self) -> bool {
        self.alg.is_public() || self.jwt.as_ref().is_some_and(|rules| !rules.is_symmetric())
    }

    /// Returns `true` if the signed text contains the public URL.
    #[must_use]
    pub fn signs_url(&self) -> bool {
        let claims = self.jwt.iter().flat_map(|rules| rules.claims.values());
        let mut sources = self.msg.sources().chain(claims.flat_map(Template::sources));
        sources.any(|source| matches!(source, ValueSource::Url | ValueSource::Plivo))
    }
}

/// Returns the locations that a placeholder reads.
fn places_of(source: &ValueSource) -> Vec<ValueLocator> {
    match source {
        ValueSource::At(place) => vec![place.clone()],
        ValueSource::Item(path) => vec![ValueLocator::Json(path.clone())],
        ValueSource::SignedHeaders(list) => vec![ValueLocator::Header(list.clone())],
        ValueSource::Sns => SNS_FIELDS
            .iter()
            .filter_map(|name| JsonPath::parse(name).ok())
            .map(ValueLocator::Json)
            .collect(),
        ValueSource::Plivo => ValueLocator::parse(PLIVO_NONCE).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// Returns `true` if the template contains the body, or a digest of it.
fn digests_body(template: &Template) -> bool {
    template.parts().iter().any(|part| {
        matches!(
            part,
            TemplatePart::Value(
                ValueSource::Body,
                Filter::None
                    | Filter::JsonString
                    | Filter::Sha256
                    | Filter::Sha256Base64
                    | Filter::Sha256Base64url
            )
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(text: &str) -> Scheme {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_a_signature_vouches_for() {
        for (text, coverage, needs_body) in [
            (
                "alg='hmac-sha256'\nsig={at='header:x', enc='hex'}",
                Coverage::Body,
                true,
            ),
            (
                "alg='equals'\nsig={at='header:x', enc='text'}",
                Coverage::Nothing,
                false,
            ),
            (
                "alg='equals'\nsig={at='json:x', enc='text'}",
                Coverage::Nothing,
                true,
            ),
            (
                "alg='hmac-sha1'\nmsg='{url}'\nsig={at='header:x', enc='hex'}",
                Coverage::Nothing,
                false,
            ),
            (
                "alg='hmac-sha1'\nmsg='{json:a}'\nsig={at='header:x', enc='hex'}",
                Coverage::Part,
                true,
            ),
            (
                "alg='sha256'\nmsg='{body}{secret}'\nsig={at='header:x', enc='hex'}",
                Coverage::Body,
                true,
            ),
            // Anyone who has seen such a digest can extend it.
            (
                "alg='sha256'\nmsg='{secret}{body}'\nsig={at='header:x', enc='hex'}",
                Coverage::Part,
                true,
            ),
            (
                "alg='hmac-sha1'\nmsg='{url}{form-sorted}'\nsig={at='header:x', enc='hex'}",
                Coverage::Part,
                true,
            ),
            (
                "alg='hmac-sha1'\nmsg='{crc32:body}'\nsig={at='header:x', enc='hex'}",
                Coverage::Part,
                true,
            ),
            (
                "alg='jwt'\njwt={algs=['HS256'], claims={h='{body|sha256}'}}\nsig={at='header:x', enc='text'}",
                Coverage::Body,
                true,
            ),
            (
                "alg='jwt'\njwt={algs=['HS256']}\nsig={at='header:x', enc='text'}",
                Coverage::Nothing,
                false,
            ),
        ] {
            let scheme = scheme(text);
            assert_eq!(scheme.check(), Ok(()), "{text}");
            assert_eq!(
                (scheme.coverage(), scheme.needs_body()),
                (coverage, needs_body),
                "{text}"
            );
        }
    }
}
