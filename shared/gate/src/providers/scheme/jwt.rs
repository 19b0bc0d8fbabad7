//! Rules of JSON Web Tokens, and sources of keys.

use super::is_default;
use crate::providers::locator::ValueLocator;
use crate::providers::template::Template;
use hookward_core::json::JsonPath;
use hookward_core::url::HostPattern;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Rules of a JSON Web Token beside its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtRules {
    /// Algorithms that the token's header may name, all for one kind of key.
    pub algs: Vec<JwtAlgorithm>,
    /// Issuer (RFC 7519 §4.1.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Audience (RFC 7519 §4.1.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
    /// Allowed clock difference of the provider, in seconds.
    #[serde(default = "leeway")]
    pub leeway: u64,
    /// `true` if the token must have an expiry.
    #[serde(default, skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Maximum age since its time of issue (`iat`, then required), in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<u64>,
    /// Claims with their required values: a text, or the result of a template such as `{body|sha256}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, Template>,
    /// `true` if the token has no payload: the body is the payload (RFC 7515, appendix F).
    #[serde(default, skip_serializing_if = "is_default")]
    pub detached: bool,
    /// Claim that may be absent if the body is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless_empty: Option<String>,
}

pub(super) const fn leeway() -> u64 {
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

/// Source of a public key that is not in the policy: a fixed URL, or one in the request, within
/// these bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySource {
    /// Fixed URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Location of the URL in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<ValueLocator>,
    /// Allowed hosts of the URL; `*` matches one label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// Path of the URL; `*` matches letters, digits, `-`, `_` and `.`. A query is not allowed.
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
