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

mod algorithm;
pub mod consistency;
pub mod coverage;
pub mod joints;
mod jwt;
pub mod time;

use hookward_core::reason::Reason;
use serde::{Deserialize, Serialize};

use crate::providers::locator::ValueLocator;
use crate::providers::template::Template;
use hookward_core::json::JsonPath;

pub use self::algorithm::{Algorithm, KeyForm};
pub use self::jwt::{JwtAlgorithm, JwtRules, KeySource};
pub use consistency::SchemeError;
pub use coverage::Coverage;
pub use time::TimeUnit;

/// A signing scheme.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// Algorithm.
    pub alg: Algorithm,
    /// Encoding of the secret's text.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: KeyForm,
    /// Part of the secret that is the key, if it has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// Location and encoding of the signature.
    pub sig: SignatureField,
    /// Template of the signed text.
    #[serde(default, skip_serializing_if = "is_default")]
    pub msg: Template,
    /// Time of signing, if the scheme signs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ts: Option<Timestamp>,
    /// Conditions that select this scheme.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<Required>,
    /// Path of the items of a batch that are signed one by one. All must match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<JsonPath>,
    /// Rules of a JSON Web Token (with `alg = "jwt"`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt: Option<JwtRules>,
    /// `true` if the provider may sign the URL with or without its port, regardless of the one that
    /// it sent.
    #[serde(default, skip_serializing_if = "is_default")]
    pub url_ports: bool,
    /// `true` if the body must be a JSON object or list, or empty. Needed if the body is adjacent
    /// to another value in `msg`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub json_body: bool,
    /// Source of the key, if the policy has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<KeySource>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Location and encoding of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureField {
    /// Location.
    pub at: ValueLocator,
    /// Encoding of the signature's bytes.
    pub enc: Encoding,
    /// Prefix of the signature: required, compared exactly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// Separator of the members of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<String>,
    /// Separator of a member's key and value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<String>,
    /// Members that are signatures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pick: Option<Pick>,
    /// `true` if the header may occur several times, each with a signature.
    #[serde(default, skip_serializing_if = "is_default")]
    pub repeats: bool,
}

/// Selection of the list members that are signatures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pick {
    /// Members with this key.
    Key(String),
    /// Members whose key is this part of the secret: `{secret:PART}`.
    Part(String),
    /// Members from this position: `1+`.
    From(usize),
}

impl TryFrom<String> for Pick {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        if let Some(part) = text
            .strip_prefix("{secret:")
            .and_then(|rest| rest.strip_suffix('}'))
        {
            return Ok(Self::Part(part.to_owned()));
        }

        match text.strip_suffix('+').map(str::parse) {
            Some(Ok(first)) => Ok(Self::From(first)),
            _ if text.is_empty() => Err("pick names nothing".to_owned().into()),
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
    /// Unencoded; for tokens only.
    Text,
}

/// Timestamp of a signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// Location.
    pub at: ValueLocator,
    /// Unit.
    pub unit: TimeUnit,
    /// Maximum difference to the time of the check, in seconds, in either direction. `None` if the
    /// provider names none, because it may retry days later with the first timestamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<u64>,
}

/// Condition on a request: exactly one of the fields beside `at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Required {
    /// Location.
    pub at: ValueLocator,
    /// Prefix of the value, in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins: Option<String>,
    /// Substring of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contains: Option<String>,
    /// Member of the value, which is a comma-separated list, in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<String>,
    /// Template that the value must equal: a text, or a digest such as `{body|sha256}`. A missing
    /// part of the secret requires nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Template>,
    /// The location must have no value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub absent: bool,
}
