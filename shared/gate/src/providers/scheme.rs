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
