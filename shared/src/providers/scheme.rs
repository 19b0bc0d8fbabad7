//! A signing scheme, declared as data. What verifies by it is in [`super::keyed`].
//!
//! The same fields serve the catalogue's rows and the schemes that users write in their policy:
//!
//! ```toml
//! alg = "hmac-sha256"
//! key = "utf8"                                      # what the secret's text means
//! sig = { at = "header:X-Signature", enc = "hex", prefix = "sha256=" }
//! msg = "{ts}.{body}"                               # see `template.rs`; default: {body}
//! ts = { at = "header:X-Time", unit = "s", tolerance = 300 }
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

use super::place::Place;
use super::template::{Filter, Part, Source, Template};
use crate::json::JsonPath;
use crate::url::HostPattern;

/// How a provider signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// The algorithm.
    pub alg: Algorithm,
    /// What the secret's text means.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: KeyForm,
    /// The part of a secret of several parts that is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Where the signature stands.
    pub sig: SignatureField,
    /// What is signed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub msg: Template,
    /// Where the time of signing stands, if it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<Timestamp>,
    /// What else must hold for this scheme to be the one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Required>,
    /// A batch whose items are signed one by one: where the items stand. All must be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<JsonPath>,
    /// What a JSON Web Token must say (with `alg = "jwt"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtRules>,
    /// The provider may sign the URL with its port or without, whichever was sent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub url_ports: bool,
    /// Where the relay gets the key when the policy gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<KeySource>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A message authentication code (RFC 2104), a digest with the secret inside, a signature that a public key
/// verifies, a JSON Web Token (RFC 7519), or a shared token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// No signature: the field is the secret itself.
    #[serde(rename = "equals")]
    Equals,
    /// HMAC with MD5: weak as a hash, and a provider has nothing else.
    #[serde(rename = "hmac-md5")]
    HmacMd5,
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
    /// SHA-1 of a text that holds the secret.
    #[serde(rename = "sha1")]
    Sha1,
    /// SHA-256 of a text that holds the secret.
    #[serde(rename = "sha256")]
    Sha256,
    /// Ed25519 (RFC 8032): the provider signs, the public key verifies.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA over P-256 with SHA-256, the signature in DER (RFC 3279 §2.2.3).
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
    /// RSA with SHA-1 (PKCS #1 v1.5, RFC 8017 §8.2): providers that have nothing else.
    #[serde(rename = "rsa-sha1")]
    RsaSha1,
    /// RSA with SHA-256 (PKCS #1 v1.5).
    #[serde(rename = "rsa-sha256")]
    RsaSha256,
    /// RSA with SHA-512 (PKCS #1 v1.5).
    #[serde(rename = "rsa-sha512")]
    RsaSha512,
    /// A JSON Web Token, signed by one of the algorithms that [`JwtRules`] names.
    #[serde(rename = "jwt")]
    Jwt,
}

impl Algorithm {
    /// Whether the key is a public one: it verifies and can't sign.
    #[must_use]
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Ed25519 | Self::EcdsaP256Sha256 | Self::RsaSha1 | Self::RsaSha256 | Self::RsaSha512)
    }

    /// Whether it is a plain digest: the secret must stand in the text.
    #[must_use]
    pub const fn is_digest(self) -> bool {
        matches!(self, Self::Sha1 | Self::Sha256)
    }
}

/// What the secret's text means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyForm {
    /// Its bytes are the key.
    #[default]
    Utf8,
    /// Its bytes and an `&` behind them are the key (OAuth 1.0).
    Utf8Amp,
    /// The text of the timestamp and its bytes behind it are the key, made anew for each request.
    TsUtf8,
    /// Its bytes in Unicode's form NFKD are the key.
    Utf8Nfkd,
    /// It is the base64 of the key.
    Base64,
    /// It is the hex of the key.
    Hex,
    /// Its SHA-1 is the key.
    Sha1,
    /// Its SHA-256 is the key.
    Sha256,
    /// A public key, or a certificate with it, in PEM (RFC 7468).
    Pem,
    /// The base64 of a public key (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7).
    SpkiBase64,
    /// Standard Webhooks: an optional `v1,`, an optional `whsec_`, then base64.
    Whsec,
    /// Standard Webhooks: `whpk_` and the base64 of a public key.
    Whpk,
    /// A set of public keys (RFC 7517 §5), chosen by the token's `kid`.
    Jwks,
}

/// Where the signature stands, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureField {
    /// The place.
    pub at: Place,
    /// The encoding of the signature's bytes.
    pub enc: Encoding,
    /// Text before the signature: required, compared exactly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What separates the members of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// What separates a member's key from its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<String>,
    /// The members that are signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
    /// The header may stand several times: each is a signature.
    #[serde(default, skip_serializing_if = "is_default")]
    pub repeats: bool,
}

/// Which members of a list are signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pick {
    /// Those with this key.
    Key(String),
    /// Those whose key is this part of the secret: `{secret:PART}`.
    Part(String),
    /// Those from this position on: `1+`.
    From(usize),
}

impl TryFrom<String> for Pick {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(part) = text.strip_prefix("{secret:").and_then(|rest| rest.strip_suffix('}')) {
            return Ok(Self::Part(part.to_owned()));
        }
        match text.strip_suffix('+').map(str::parse) {
            Some(Ok(first)) => Ok(Self::From(first)),
            _ if text.is_empty() => Err("pick names nothing".to_owned()),
            _ => Ok(Self::Key(text)),
        }
    }
}

impl From<Pick> for String {
    fn from(pick: Pick) -> Self {
        match pick {
            Pick::Key(key) => key,
            Pick::Part(part) => format!("{{secret:{part}}}"),
            Pick::From(first) => format!("{first}+"),
        }
    }
}

/// How a signature's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// Where it stands.
    pub at: Place,
    /// Its unit.
    pub unit: TimeUnit,
    /// Seconds that it may lie before or after the time of the check; absent where the provider
    /// names no bound (it may send a delivery again, days later, with its first timestamp).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<u64>,
}

/// How a time is written: a number of these units since 1970, or a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Not a number but a date and time with its offset (RFC 3339).
    #[serde(rename = "iso8601")]
    Iso8601,
    /// The same without an offset: it is UTC. Where nothing separates such a time from what follows, bytes
    /// could move between the two.
    #[serde(rename = "iso8601-utc")]
    Iso8601Utc,
    /// A date as HTTP writes it (RFC 9110 §5.6.7).
    #[serde(rename = "http-date")]
    HttpDate,
}

impl TimeUnit {
    /// Seconds since 1970; `None` for a text that is no time of this kind.
    #[must_use]
    pub fn seconds(self, text: &str) -> Option<u64> {
        let number = || text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        let unix = |date: OffsetDateTime| u64::try_from(date.unix_timestamp()).ok();
        match self {
            Self::Seconds => number(),
            Self::Milliseconds => number().map(|number| number / 1000),
            Self::Iso8601 => OffsetDateTime::parse(text, &Rfc3339).ok().and_then(unix),
            Self::Iso8601Utc => {
                let date = OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339);
                date.or_else(|_| OffsetDateTime::parse(text, &Rfc3339)).ok().and_then(unix)
            }
            Self::HttpDate => OffsetDateTime::parse(text, &Rfc2822).ok().and_then(unix),
        }
    }

    /// This moment, as it is written.
    #[must_use]
    pub fn write(self, seconds: u64) -> String {
        let date = || {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        match self {
            Self::Seconds => seconds.to_string(),
            Self::Milliseconds => format!("{seconds}000"),
            Self::Iso8601 => date().format(&Rfc3339).unwrap_or_default(),
            Self::Iso8601Utc => date().format(&Rfc3339).unwrap_or_default().trim_end_matches('Z').to_owned(),
            Self::HttpDate => date().format(&Rfc2822).unwrap_or_default().replace("+0000", "GMT"),
        }
    }
}

/// A condition on a request: exactly one of the fields beside `at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Required {
    /// Where.
    pub at: Place,
    /// The value begins with this, in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<String>,
    /// The value holds this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// The value is what this template makes: a text, or a digest such as `{body|sha256}`. A part of the
    /// secret that was not given asks for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Template>,
    /// Nothing stands there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub absent: bool,
}

/// What a JSON Web Token must say, beside being signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRules {
    /// Algorithms that the token's header may name; all of one kind of key.
    pub algs: Vec<JwtAlgorithm>,
    /// The issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// The audience.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Seconds by which the provider's clock may differ.
    #[serde(default = "leeway")]
    pub leeway: u64,
    /// Whether the token must say when it expires.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds since its time of issue (`iat`, then required) after which it is too old.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// Claims, and what they must be: a text, or what a template makes of the request, such as
    /// `{body|sha256}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Template>,
    /// The token has no payload of its own: the body is it (RFC 7515, appendix F).
    #[serde(default, skip_serializing_if = "is_default")]
    pub detached: bool,
    /// A claim that may be absent when the body is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_empty: Option<String>,
}

const fn leeway() -> u64 {
    5
}

/// A signature algorithm of JSON Web Tokens (RFC 7518 §3.1, RFC 8037). `none` is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are those of the RFCs")]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    EdDSA,
}

impl JwtAlgorithm {
    /// Whether its key is a shared secret.
    #[must_use]
    pub const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// Where the relay gets a public key that the policy does not hold: a fixed URL, or one that the
/// request names, within what is said here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySource {
    /// The URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where the request names the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Place>,
    /// Hosts that the URL may have; `*` is one label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// The URL's path; `*` stands for letters, digits, `-`, `_` and `.`, and there is no query.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Where in the JSON that is fetched the key stands; absent: the whole of it is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<JsonPath>,
}

/// Why a scheme or a secret can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// The fields of the scheme contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// The secret has not the form that this provider gives its secrets.
    #[error("the secret is not {0}, as this provider's secrets are")]
    Key(&'static str),
    /// The secret has several parts, and is not written as they are.
    #[error("the secret is a JSON object with the keys {0}")]
    Parts(String),
    /// A part of the secret is missing.
    #[error("the secret has no part {0:?}")]
    MissingPart(String),
    /// The key is none of the algorithm's.
    #[error("the key is no public key of this provider's algorithm")]
    PublicKey,
    /// The decoded key is empty.
    #[error("the secret holds an empty key")]
    EmptyKey,
}

/// How much of the body a right signature vouches for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coverage {
    /// Nothing: it says who sends, and any body may come with it.
    Nothing,
    /// Some of it, or something that many bodies share: other fields may be anything.
    Part,
    /// All of it.
    Body,
}

impl Scheme {
    /// Whether the fields make sense together.
    ///
    /// # Errors
    /// [`SchemeError`] for the first contradiction.
    pub fn check(&self) -> Result<(), SchemeError> {
        let contradiction = |what| Err(SchemeError::Contradiction(what));
        let picks_keys = matches!(self.sig.pick, Some(Pick::Key(_) | Pick::Part(_)));
        if self.sig.kv.is_some() != picks_keys {
            return contradiction("kv and a pick by key go together");
        }
        if matches!(self.sig.pick, Some(Pick::From(_))) && self.sig.split.is_none() {
            return contradiction("a pick by position needs split");
        }
        if [&self.sig.split, &self.sig.kv].into_iter().any(|text| text.as_deref() == Some("")) {
            return contradiction("split and kv are not empty");
        }
        if matches!(self.sig.at, Place::Member(_) | Place::Position(_)) {
            return contradiction("sig stands somewhere in the request, not in itself");
        }
        let token = self.alg == Algorithm::Equals;
        let jwt = self.alg == Algorithm::Jwt;
        if (token || jwt) && (self.ts.is_some() || self.msg != Template::default()) {
            return contradiction("a token signs nothing: neither msg nor ts");
        }
        if jwt != self.jwt.is_some() {
            return contradiction("alg = \"jwt\" and jwt go together");
        }
        if !token && !jwt && self.sig.enc == Encoding::Text {
            return contradiction("a signature is written in hex or base64");
        }
        let fits = match self.key {
            KeyForm::Pem | KeyForm::Jwks if jwt => self.jwt.as_ref().is_some_and(|rules| !rules.is_symmetric()),
            KeyForm::Jwks => false,
            KeyForm::Pem | KeyForm::SpkiBase64 | KeyForm::Whpk => self.alg.is_public(),
            KeyForm::Base64 | KeyForm::Hex if jwt => self.jwt.as_ref().is_some_and(JwtRules::is_symmetric),
            KeyForm::Base64 | KeyForm::Hex => !token,
            KeyForm::Utf8 if jwt => self.jwt.as_ref().is_some_and(JwtRules::is_symmetric),
            _ => !self.alg.is_public() && (!token || self.key == KeyForm::Utf8),
        };
        if !fits {
            return contradiction("the form of the key is none of the algorithm's");
        }
        let has_secret = self.msg.sources().any(|source| matches!(source, Source::Secret(_)));
        if self.alg.is_digest() && !has_secret {
            return contradiction("a plain digest is a signature only with {secret} in msg");
        }
        if self.msg.parts().is_empty() {
            return contradiction("msg is empty: nothing is signed");
        }
        let constant = |source: &Source| matches!(source, Source::Secret(_));
        if !token && !jwt && self.msg.sources().all(constant) {
            return contradiction("msg holds nothing of the request, so one signature fits every request");
        }
        if self.each.is_none() && self.msg.sources().any(|source| matches!(source, Source::Item(_))) {
            return contradiction("{item:…} needs each");
        }
        if let Some(rules) = &self.jwt {
            rules.check()?;
        }
        if let Some(fetch) = &self.fetch {
            fetch.check()?;
            if !self.alg.is_public() && !jwt {
                return contradiction("only a public key can be fetched");
            }
        }
        for required in &self.require {
            required.check()?;
        }
        self.check_time()
    }

    fn check_time(&self) -> Result<(), SchemeError> {
        let signs_time = self.msg.sources().any(|source| *source == Source::Timestamp) || self.key == KeyForm::TsUtf8;
        let Some(ts) = &self.ts else {
            return if signs_time { Err(SchemeError::Contradiction("{ts} needs ts")) } else { Ok(()) };
        };
        // A time that stands in a body that is signed whole is signed, too.
        let in_body = ts.at.is_in_body() && self.msg.sources().any(|source| *source == Source::Body);
        // Or in a header of the list of those that are signed, which `require` asks for.
        let listed = self.msg.sources().any(|source| matches!(source, Source::SignedHeaders(_)));
        if !signs_time && !in_body && !listed {
            return Err(SchemeError::Contradiction("a timestamp that is not signed proves nothing"));
        }
        match ts.at {
            Place::Member(_) if self.sig.kv.is_none() => Err(SchemeError::Contradiction("ts at sig:KEY needs kv")),
            Place::Position(_) if self.sig.split.is_none() => {
                Err(SchemeError::Contradiction("ts at sig:#N needs split"))
            }
            Place::Numbered(_) => Err(SchemeError::Contradiction("ts stands in one place")),
            _ => Ok(()),
        }
    }

    /// How much of the body a right signature vouches for.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        let digests_body = |template: &Template| {
            template.parts().iter().any(|part| {
                matches!(
                    part,
                    Part::Value(
                        Source::Body,
                        Filter::None
                            | Filter::JsonString
                            | Filter::Sha256
                            | Filter::Sha256Base64
                            | Filter::Sha256Base64url
                    )
                )
            })
        };
        if let Some(rules) = &self.jwt {
            let bound = rules.detached || self.sig.at == Place::Body || rules.claims.values().any(digests_body);
            return if bound { Coverage::Body } else { Coverage::Nothing };
        }
        if self.alg == Algorithm::Equals {
            return Coverage::Nothing;
        }
        // The digest of the body stands in the URL, and the URL is signed.
        let bound = || {
            self.msg.sources().any(|source| *source == Source::Url)
                && self.require.iter().any(|required| {
                    matches!(required.at, Place::Query(_)) && required.is.as_ref().is_some_and(digests_body)
                })
        };
        // A digest of a text that begins with the secret can be carried on by whoever has seen one.
        let ends_open =
            self.alg.is_digest() && !matches!(self.msg.parts().last(), Some(Part::Value(Source::Secret(_), _)));
        if (digests_body(&self.msg) || bound()) && !ends_open {
            return Coverage::Body;
        }
        let some = |source: &Source| match source {
            // Names and values stand in one line there, without what separates them.
            Source::FormSorted | Source::Plivo => true,
            Source::Body | Source::BodyCrc32 | Source::Sns | Source::Item(_) => true,
            Source::At(place) => place.is_in_body(),
            _ => false,
        };
        let time_in_body = self.ts.as_ref().is_some_and(|ts| ts.at.is_in_body());
        if self.msg.sources().any(some) || time_in_body { Coverage::Part } else { Coverage::Nothing }
    }

    /// Whether it can only be judged with the body at hand.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        let reads = |source: &Source| match source {
            Source::Body | Source::BodyCrc32 | Source::FormSorted | Source::Plivo | Source::Sns | Source::Item(_) => {
                true
            }
            Source::At(place) => place.is_in_body(),
            _ => false,
        };
        let template_reads = |template: &Template| template.sources().any(reads);
        let signs = !matches!(self.alg, Algorithm::Equals | Algorithm::Jwt);
        self.sig.at.is_in_body()
            || signs && template_reads(&self.msg)
            || self.each.is_some()
            || self.fetch.is_some()
            || self.ts.as_ref().is_some_and(|ts| ts.at.is_in_body())
            || self.require.iter().any(|rule| rule.at.is_in_body() || rule.is.as_ref().is_some_and(template_reads))
            || self.jwt.as_ref().is_some_and(|rules| rules.detached || rules.claims.values().any(template_reads))
    }

    /// Whether its key can't sign.
    #[must_use]
    pub fn only_verifies(&self) -> bool {
        self.alg.is_public() || self.jwt.as_ref().is_some_and(|rules| !rules.is_symmetric())
    }

    /// Whether the public URL is part of what is signed.
    #[must_use]
    pub fn signs_url(&self) -> bool {
        let claims = self.jwt.iter().flat_map(|rules| rules.claims.values());
        let mut sources = self.msg.sources().chain(claims.flat_map(Template::sources));
        sources.any(|source| matches!(source, Source::Url | Source::Plivo))
    }
}

impl KeySource {
    /// Whether the path of a URL that a request names is one of the provider's. A stranger could otherwise
    /// have the relay fetch one key under many names.
    pub(super) fn admits(&self, target: &str) -> bool {
        let Some((start, end)) = self.path.split_once('*') else { return target == self.path };
        let name = target.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        name.is_some_and(|name| !name.is_empty() && name.bytes().all(plain))
    }
}

impl JwtRules {
    fn is_symmetric(&self) -> bool {
        self.algs.iter().all(|alg| alg.is_symmetric())
    }

    fn check(&self) -> Result<(), SchemeError> {
        if self.algs.is_empty() {
            return Err(SchemeError::Contradiction("jwt.algs is empty: no token could pass"));
        }
        // A token that could choose would present the public key as a shared secret (RFC 8725 §2.1).
        if self.algs.iter().any(|alg| alg.is_symmetric()) && !self.is_symmetric() {
            return Err(SchemeError::Contradiction("jwt.algs mixes shared secrets (HS…) and public keys"));
        }
        if self.unless_empty.as_ref().is_some_and(|claim| !self.claims.contains_key(claim)) {
            return Err(SchemeError::Contradiction("jwt.unless_empty names no claim of jwt.claims"));
        }
        Ok(())
    }
}

impl Required {
    fn check(&self) -> Result<(), SchemeError> {
        let conditions = [self.begins.is_some(), self.contains.is_some(), self.is.is_some(), self.absent];
        match conditions.into_iter().filter(|given| *given).count() {
            1 => Ok(()),
            _ => Err(SchemeError::Contradiction("require has exactly one of begins, contains, is, absent")),
        }
    }
}

impl KeySource {
    fn check(&self) -> Result<(), SchemeError> {
        if self.url.is_some() == self.from.is_some() {
            return Err(SchemeError::Contradiction("fetch has either url or from"));
        }
        if self.from.is_some() && self.hosts.is_empty() {
            return Err(SchemeError::Contradiction(
                "fetch.from needs hosts: the sender does not choose where keys come from",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(text: &str) -> Scheme {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn contradictions_are_refused() {
        for bad in [
            "alg='hmac-sha256'\nmsg='{ts}{body}'\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nts={at='header:t', unit='s', tolerance=1}\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nsig={at='header:x', enc='hex', kv='='}",
            "alg='hmac-sha256'\nsig={at='header:x', enc='hex', pick='1+'}",
            "alg='hmac-sha256'\nsig={at='header:x', enc='text'}",
            "alg='hmac-sha256'\nsig={at='sig:x', enc='hex'}",
            "alg='hmac-sha256'\nmsg='{secret}'\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nmsg='{item:a}'\nsig={at='header:x', enc='hex'}",
            "alg='sha256'\nsig={at='header:x', enc='hex'}",
            "alg='equals'\nmsg='{header:y}{body}'\nsig={at='header:x', enc='text'}",
            "alg='equals'\nkey='hex'\nsig={at='header:x', enc='text'}",
            "alg='hmac-sha256'\nkey='pem'\nsig={at='header:x', enc='hex'}",
            "alg='ed25519'\nsig={at='header:x', enc='hex'}",
            "alg='jwt'\nsig={at='header:x', enc='text'}",
            "alg='jwt'\njwt={algs=[]}\nsig={at='header:x', enc='text'}",
            "alg='jwt'\njwt={algs=['HS256','RS256']}\nsig={at='header:x', enc='text'}",
            "alg='jwt'\nkey='pem'\njwt={algs=['HS256']}\nsig={at='header:x', enc='text'}",
            "alg='rsa-sha256'\nkey='pem'\nfetch={from='json:u'}\nsig={at='header:x', enc='hex'}",
            "alg='hmac-sha256'\nrequire=[{at='header:y'}]\nsig={at='header:x', enc='hex'}",
        ] {
            assert!(scheme(bad).check().is_err(), "{bad}");
        }
        for bad in ["msg='{header:x'", "msg='{nobody}'", "sig={at='x', enc='hex'}", "unknown=1"] {
            let text = format!("alg='hmac-sha256'\n{bad}\nsig={{at='header:x', enc='hex'}}");
            assert!(toml::from_str::<Scheme>(&text).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_signature_vouches_for() {
        for (text, coverage, needs_body) in [
            ("alg='hmac-sha256'\nsig={at='header:x', enc='hex'}", Coverage::Body, true),
            ("alg='equals'\nsig={at='header:x', enc='text'}", Coverage::Nothing, false),
            ("alg='equals'\nsig={at='json:x', enc='text'}", Coverage::Nothing, true),
            ("alg='hmac-sha1'\nmsg='{url}'\nsig={at='header:x', enc='hex'}", Coverage::Nothing, false),
            ("alg='hmac-sha1'\nmsg='{json:a}'\nsig={at='header:x', enc='hex'}", Coverage::Part, true),
            ("alg='sha256'\nmsg='{body}{secret}'\nsig={at='header:x', enc='hex'}", Coverage::Body, true),
            // Whoever has seen such a digest can carry it on.
            ("alg='sha256'\nmsg='{secret}{body}'\nsig={at='header:x', enc='hex'}", Coverage::Part, true),
            ("alg='hmac-sha1'\nmsg='{url}{form-sorted}'\nsig={at='header:x', enc='hex'}", Coverage::Part, true),
            ("alg='hmac-sha1'\nmsg='{crc32:body}'\nsig={at='header:x', enc='hex'}", Coverage::Part, true),
            (
                "alg='jwt'\njwt={algs=['HS256'], claims={h='{body|sha256}'}}\nsig={at='header:x', enc='text'}",
                Coverage::Body,
                true,
            ),
            ("alg='jwt'\njwt={algs=['HS256']}\nsig={at='header:x', enc='text'}", Coverage::Nothing, false),
        ] {
            let scheme = scheme(text);
            assert_eq!(scheme.check(), Ok(()), "{text}");
            assert_eq!((scheme.coverage(), scheme.needs_body()), (coverage, needs_body), "{text}");
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
            (TimeUnit::Iso8601, "2023-11-14T22:13:20.5", None),
            (TimeUnit::Iso8601Utc, "2023-11-14T22:13:20.5", Some(at)),
            (TimeUnit::Iso8601Utc, "2023-11-14T22:13:20Z", Some(at)),
            (TimeUnit::Iso8601, "1700000000", None),
            (TimeUnit::Iso8601, "1969-12-31T23:59:59Z", None),
            (TimeUnit::Iso8601, "", None),
            (TimeUnit::HttpDate, "Tue, 14 Nov 2023 22:13:20 GMT", Some(at)),
            (TimeUnit::HttpDate, "1700000000", None),
        ] {
            assert_eq!(unit.seconds(text), expected, "{text}");
        }
        for unit in
            [TimeUnit::Seconds, TimeUnit::Milliseconds, TimeUnit::Iso8601, TimeUnit::Iso8601Utc, TimeUnit::HttpDate]
        {
            assert_eq!(unit.seconds(&unit.write(at)), Some(at));
        }
    }
}
