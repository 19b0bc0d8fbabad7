//! A signing scheme, declared as data. What verifies by it is in [`super::keyed`].

use http::HeaderName;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How a provider signs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// The algorithm.
    pub alg: Algorithm,
    /// What the secret's text means.
    #[serde(default)]
    pub key: KeyForm,
    /// Where the signature stands.
    pub sig: SignatureField,
    /// What is signed.
    #[serde(default)]
    pub msg: Template,
    /// Where the time of signing stands, if it is signed.
    #[serde(default)]
    pub ts: Option<Timestamp>,
}

/// A message authentication code (RFC 2104), a signature that a public key verifies, or a shared token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// No signature: the field is the secret itself.
    #[serde(rename = "equals")]
    Equals,
    /// HMAC with SHA-1: weak as a hash, sound in HMAC; some providers have nothing else.
    #[serde(rename = "hmac-sha1")]
    HmacSha1,
    /// HMAC with SHA-256.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
    /// Ed25519 (RFC 8032): the provider signs, the public key verifies.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA over P-256 with SHA-256, the signature in DER (RFC 3279 §2.2.3).
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
    /// RSA with SHA-256 (PKCS #1 v1.5, RFC 8017 §8.2).
    #[serde(rename = "rsa-sha256")]
    RsaSha256,
}

impl Algorithm {
    /// Whether the key is a public one: it verifies and can't sign.
    #[must_use]
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Ed25519 | Self::EcdsaP256Sha256 | Self::RsaSha256)
    }
}

/// What the secret's text means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyForm {
    /// Its bytes are the key.
    #[default]
    Utf8,
    /// It is the base64 of the key.
    Base64,
    /// It is the hex of the key.
    Hex,
    /// A public key in PEM (RFC 7468).
    Pem,
    /// The base64 of a public key (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7).
    SpkiBase64,
    /// Standard Webhooks: an optional `v1,`, an optional `whsec_`, then base64.
    Whsec,
}

/// Where the signature stands, and how it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureField {
    /// The header.
    pub header: String,
    /// The encoding of the signature's bytes.
    pub enc: Encoding,
    /// Text before the signature: required, compared exactly.
    #[serde(default)]
    pub prefix: String,
    /// What separates the members of a list.
    #[serde(default)]
    pub split: Option<char>,
    /// What separates a member's key from its value.
    #[serde(default)]
    pub kv: Option<char>,
    /// The key of the members that are signatures.
    #[serde(default)]
    pub pick: Option<String>,
}

/// How a signature's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Hexadecimal, in either case.
    Hex,
    /// Base64 (RFC 4648 §4), strict.
    Base64,
    /// Base64 with `-` and `_`, without padding (RFC 4648 §5), strict.
    Base64url,
    /// As it is: tokens only.
    Text,
}

/// The time of signing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// `header:NAME`, or `sig:KEY` for a member of the signature's list.
    pub at: TimestampPlace,
    /// Its unit.
    pub unit: TimeUnit,
    /// Seconds that it may lie before or after the time of the check; absent where the provider
    /// names no bound (it may send a delivery again, days later, with its first timestamp).
    #[serde(default)]
    pub tolerance: Option<u64>,
}

/// Where a timestamp stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum TimestampPlace {
    /// In a header of its own.
    Header(String),
    /// In the signature's list, under this key.
    Signature(String),
}

impl TryFrom<String> for TimestampPlace {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once(':') {
            Some(("header", name)) => Ok(Self::Header(name.to_owned())),
            Some(("sig", key)) => Ok(Self::Signature(key.to_owned())),
            _ => Err("a timestamp stands at header:NAME or sig:KEY"),
        }
    }
}

/// How a time is written: a number of these units since 1970, or a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TimeUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Not a number but a date and time (RFC 3339); without an offset it is UTC.
    #[serde(rename = "iso8601")]
    Iso8601,
}

impl TimeUnit {
    /// Seconds since 1970; `None` for a text that is no time of this kind.
    pub(super) fn seconds(self, text: &str) -> Option<u64> {
        let number = || text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        match self {
            Self::Seconds => number(),
            Self::Milliseconds => number().map(|number| number / 1000),
            Self::Iso8601 => {
                let date = OffsetDateTime::parse(text, &Rfc3339);
                let date = date.or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339)).ok()?;
                u64::try_from(date.unix_timestamp()).ok()
            }
        }
    }
}

/// What is signed: literal text and `{body}`, `{ts}`, `{header:NAME}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(pub(super) Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Body,
    Timestamp,
    Header(String),
}

impl Default for Template {
    fn default() -> Self {
        Self(vec![Part::Body])
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, tail) = after.split_once('}').ok_or("a `{` is not closed")?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match name.split_once(':') {
                None if name == "body" => Part::Body,
                None if name == "ts" => Part::Timestamp,
                Some(("header", name)) => Part::Header(name.to_owned()),
                _ => return Err(format!("unknown placeholder {{{name}}}")),
            });
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        if !parts.contains(&Part::Body) {
            return Err("the body is not signed".to_owned());
        }
        Ok(Self(parts))
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(text),
            Part::Body => f.write_str("{body}"),
            Part::Timestamp => f.write_str("{ts}"),
            Part::Header(name) => write!(f, "{{header:{name}}}"),
        })
    }
}

/// Why a scheme or a secret can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// A name in the scheme is not a header name.
    #[error("{0:?} is not a header name")]
    HeaderName(String),
    /// The fields of the scheme contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// The secret has not the form that this provider gives its secrets.
    #[error("the secret is not {0}, as this provider's secrets are")]
    Key(&'static str),
    /// The key is none of the algorithm's.
    #[error("the key is no public key of this provider's algorithm")]
    PublicKey,
    /// The decoded key is empty.
    #[error("the secret holds an empty key")]
    EmptyKey,
}

impl Scheme {
    /// Whether the fields make sense together.
    ///
    /// # Errors
    /// [`SchemeError`] for the first contradiction.
    pub fn check(&self) -> Result<(), SchemeError> {
        header_name(&self.sig.header)?;
        if self.sig.kv.is_some() != self.sig.pick.is_some() {
            return Err(SchemeError::Contradiction("kv and pick go together"));
        }
        let token = self.alg == Algorithm::Equals;
        if token && (self.ts.is_some() || self.msg != Template::default()) {
            return Err(SchemeError::Contradiction("a token signs nothing: neither msg nor ts"));
        }
        let fits = match self.key {
            KeyForm::Pem | KeyForm::SpkiBase64 => self.alg.is_public(),
            KeyForm::Base64 | KeyForm::Hex => !token,
            KeyForm::Utf8 | KeyForm::Whsec => !self.alg.is_public(),
        };
        if !fits {
            return Err(SchemeError::Contradiction("the form of the key is none of the algorithm's"));
        }
        if !token && self.sig.enc == Encoding::Text {
            return Err(SchemeError::Contradiction("a signature is written in hex or base64"));
        }
        let signs_time = self.msg.0.contains(&Part::Timestamp);
        match &self.ts {
            None if signs_time => return Err(SchemeError::Contradiction("{ts} needs ts")),
            Some(_) if !signs_time => {
                return Err(SchemeError::Contradiction("a timestamp that is not signed proves nothing"));
            }
            Some(Timestamp { at: TimestampPlace::Header(name), .. }) => {
                header_name(name)?;
            }
            Some(Timestamp { at: TimestampPlace::Signature(_), .. }) if self.sig.kv.is_none() => {
                return Err(SchemeError::Contradiction("ts at sig:KEY needs kv"));
            }
            _ => {}
        }
        for part in &self.msg.0 {
            if let Part::Header(name) = part {
                header_name(name)?;
            }
        }
        Ok(())
    }

    /// Whether a right signature says anything about the body.
    #[must_use]
    pub const fn covers_body(&self) -> bool {
        !matches!(self.alg, Algorithm::Equals)
    }
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, SchemeError> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| SchemeError::HeaderName(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            "alg='hmac-sha256'\nmsg='{ts}{body}'\nsig={header='x', enc='hex'}",
            "alg='hmac-sha256'\nts={at='header:t', unit='s', tolerance=1}\nsig={header='x', enc='hex'}",
            "alg='hmac-sha256'\nsig={header='x', enc='hex', kv='='}",
            "alg='hmac-sha256'\nsig={header='x y', enc='hex'}",
            "alg='hmac-sha256'\nsig={header='x', enc='text'}",
            "alg='equals'\nmsg='{header:y}{body}'\nsig={header='x', enc='text'}",
            "alg='equals'\nkey='hex'\nsig={header='x', enc='text'}",
            "alg='hmac-sha256'\nkey='pem'\nsig={header='x', enc='hex'}",
            "alg='ed25519'\nsig={header='x', enc='hex'}",
        ] {
            assert!(toml::from_str::<Scheme>(bad).unwrap().check().is_err(), "{bad}");
        }
        for bad in ["msg='{header:x}'", "msg='{body'", "msg='{nobody}'"] {
            let text = format!("alg='hmac-sha256'\n{bad}\nsig={{header='x', enc='hex'}}");
            assert!(toml::from_str::<Scheme>(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_read_as_their_unit_says() {
        let at = 1_700_000_000;
        for (unit, text, expected) in [
            (TimeUnit::Seconds, "1700000000", Some(at)),
            (TimeUnit::Seconds, "+1700000000", None),
            (TimeUnit::Seconds, "1700000000.5", None),
            (TimeUnit::Milliseconds, "1700000000999", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20Z", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20.123456789Z", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T15:13:20-07:00", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20.5", Some(at)),
            (TimeUnit::Iso8601, "1700000000", None),
            (TimeUnit::Iso8601, "1969-12-31T23:59:59Z", None),
            (TimeUnit::Iso8601, "", None),
        ] {
            assert_eq!(unit.seconds(text), expected, "{text}");
        }
    }
}
