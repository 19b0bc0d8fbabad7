//! A signing scheme, declared as data. What verifies by it is in [`crate::providers::verifier`].
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

pub mod consistency;
pub mod coverage;
pub mod joints;
pub mod time;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::providers::locator::ValueLocator;
use crate::providers::template::Template;
use hookward_core::json::JsonPath;
use hookward_core::url::HostPattern;

pub use consistency::SchemeError;
pub use coverage::Coverage;
pub use time::TimeUnit;

/// A provider's way of signing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// Algorithm.
    pub alg: Algorithm,
    /// Encoding of the secret's text.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: KeyForm,
    /// The part of a secret of several parts that is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Location and encoding of the signature.
    pub sig: SignatureField,
    /// Template of the signed text.
    #[serde(default, skip_serializing_if = "is_default")]
    pub msg: Template,
    /// Time of signing, if it is signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<Timestamp>,
    /// Conditions that select this scheme.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Required>,
    /// A batch whose items are signed one by one: where the items stand. All must be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<JsonPath>,
    /// Rules of a JSON Web Token (with `alg = "jwt"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtRules>,
    /// The provider may sign the URL with its port or without, whichever was sent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub url_ports: bool,
    /// The body is a JSON object or list, or empty; anything else is refused. Needed where the body
    /// stands beside another value in `msg` with nothing between the two.
    #[serde(default, skip_serializing_if = "is_default")]
    pub json_body: bool,
    /// Source of the key if the policy has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<KeySource>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A message authentication code (RFC 2104), a digest with the secret inside, a signature that a
/// public key verifies, a JSON Web Token (RFC 7519), or a shared token.
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
    /// HMAC with SHA-256 (RFC 2104).
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384 (RFC 2104).
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512 (RFC 2104).
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
    /// Returns `true` if the key is a public one, which verifies and can't sign.
    #[must_use]
    pub const fn is_public(self) -> bool {
        matches!(
            self,
            Self::Ed25519
                | Self::EcdsaP256Sha256
                | Self::RsaSha1
                | Self::RsaSha256
                | Self::RsaSha512
        )
    }

    /// Returns `true` for a plain digest, whose text must contain the secret.
    #[must_use]
    pub(crate) const fn is_digest(self) -> bool {
        matches!(self, Self::Sha1 | Self::Sha256)
    }
}

/// Encoding of the secret's text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyForm {
    /// The text's bytes are the key.
    #[default]
    Utf8,
    /// The text's bytes and an `&` are the key (OAuth 1.0).
    Utf8Amp,
    /// The text of the timestamp and its bytes behind it are the key, made anew for each request.
    TsUtf8,
    /// The text's bytes in Unicode's form NFKD are the key.
    Utf8Nfkd,
    /// The text is base64 of the key.
    Base64,
    /// The text is hex of the key.
    Hex,
    /// The SHA-1 of the text is the key.
    Sha1,
    /// The SHA-256 of the text is the key.
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

/// Location and encoding of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureField {
    /// Location.
    pub at: ValueLocator,
    /// The encoding of the signature's bytes.
    pub enc: Encoding,
    /// Text before the signature: required, compared exactly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Separator of the members of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Separator of a member's key and value.
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
    /// Members with this key.
    Key(String),
    /// Members whose key is this part of the secret: `{secret:PART}`.
    Part(String),
    /// Members from this position on: `1+`.
    From(usize),
}

impl TryFrom<String> for Pick {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(part) = text
            .strip_prefix("{secret:")
            .and_then(|rest| rest.strip_suffix('}'))
        {
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

/// Encoding of a signature's bytes.
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
    /// Location.
    pub at: ValueLocator,
    /// Unit.
    pub unit: TimeUnit,
    /// Seconds that it may lie before or after the time of the check; absent where the provider
    /// names no bound (it may send a delivery again, days later, with its first timestamp).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<u64>,
}

/// A condition on a request: exactly one of the fields beside `at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Required {
    /// Location.
    pub at: ValueLocator,
    /// The value begins with this, in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<String>,
    /// The value holds this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// The value is a list, separated by commas, that has this member, in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<String>,
    /// The value is what this template makes: a text, or a digest such as `{body|sha256}`. A part
    /// of the secret that was not given asks for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Template>,
    /// The location must have no value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub absent: bool,
}

/// Rules of a JSON Web Token beside its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRules {
    /// Algorithms that the token's header may name; all of one kind of key.
    pub algs: Vec<JwtAlgorithm>,
    /// Issuer (RFC 7519 §4.1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Audience (RFC 7519 §4.1.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Seconds by which the provider's clock may differ.
    #[serde(default = "leeway")]
    pub leeway: u64,
    /// `true` if the token must have an expiry.
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
    /// Returns `true` if the key is a shared secret.
    #[must_use]
    pub(crate) const fn is_symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// Source of a public key that is not in the policy: a fixed URL, or one that the request names,
/// within these bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySource {
    /// Fixed URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Location of the URL in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ValueLocator>,
    /// Hosts that the URL may have; `*` is one label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// The URL's path; `*` stands for letters, digits, `-`, `_` and `.`, and there is no query.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Path of the key in the fetched JSON; `None` if the whole content is the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<JsonPath>,
}

impl JwtRules {
    /// Returns `true` if the key is a shared secret.
    #[must_use]
    pub(crate) fn is_symmetric(&self) -> bool {
        self.algs.iter().all(|alg| alg.is_symmetric())
    }
}
