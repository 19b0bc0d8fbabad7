//! Accept rules of a policy, and their checks.

use super::{SignatureCheck, TOKEN_NAME};
use hookward_core::address::AddressSet;
use hookward_core::json::JsonPath;
use hookward_core::reason::Reason;
use hookward_core::secret::SecretDigest;
use http::HeaderName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A set of checks that must all pass.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// `true` if anyone who knows the path may send; must be explicit.
    pub open: bool,
    /// Allowed client addresses; `None` without this check.
    pub allow_ips: Option<Addresses>,
    /// Token check.
    pub token: Option<TokenCheck>,
    /// User and password (RFC 7617).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<TokenCheck>,
    /// Allowed media types of the body; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_types: Vec<String>,
    /// Header fields and their allowed values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderRule>,
    /// Signatures; all must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<SignatureCheck>,
    /// Values of a JSON body, and their allowed values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub body: Vec<BodyRule>,
}

/// Client addresses: ranges, and named sets of the relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// Address ranges.
    pub ranges: Vec<IpNet>,
    /// Names of address sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<String>,
}

/// Token that the sender must know. The policy has only its digest.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCheck {
    /// Location of the token.
    pub location: TokenLocation,
    /// Valid tokens; several during a rotation.
    pub active: Vec<ActiveToken>,
}

/// A valid token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveToken {
    /// Name of the token, such as `env:NAME`.
    pub name: String,
    /// SHA-256 of the token.
    #[serde(with = "super::digest")]
    pub digest: SecretDigest,
}

/// Location of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TokenLocation {
    /// A query parameter of this name.
    Query(String),
    /// A header of this name.
    Header(HeaderName),
    /// Basic authentication, as `user:password`.
    Basic,
}

/// A header field that must have one of some values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// Name of the field.
    #[serde(with = "super::header_name")]
    pub name: HeaderName,
    /// Allowed values, compared exactly.
    pub allowed: Vec<String>,
}

/// A value of a JSON body that must have one of some values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyRule {
    /// Path of the value.
    pub path: JsonPath,
    /// Allowed values, as text.
    pub allowed: Vec<String>,
}

impl Addresses {
    /// Returns the ranges as a set, without the named sets.
    #[must_use]
    pub(crate) fn set(&self) -> AddressSet {
        AddressSet::new(&self.ranges)
    }

    /// Returns `true` if no address is listed.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.named.is_empty()
    }
}

impl From<Vec<IpNet>> for Addresses {
    fn from(ranges: Vec<IpNet>) -> Self {
        Self {
            ranges,
            named: Vec::new(),
        }
    }
}

impl TokenCheck {
    /// Returns the check of a created token, in the default parameter.
    #[must_use]
    pub fn created(digest: &SecretDigest) -> Self {
        let location = TokenLocation::Query(TOKEN_NAME.to_owned());
        Self::new(location, &[("the created token", digest.clone())])
    }

    /// Creates a check of tokens with their names.
    #[must_use]
    pub fn new(place: TokenLocation, tokens: &[(&str, SecretDigest)]) -> Self {
        let live = tokens.iter().map(|(name, digest)| ActiveToken {
            name: (*name).to_owned(),
            digest: digest.clone(),
        });

        Self {
            location: place,
            active: live.collect(),
        }
    }
}

impl TokenLocation {
    /// Parses `NAME` (a query parameter) or `header:NAME`.
    ///
    /// # Errors
    /// The mistake in the name.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        if let Some(name) = text.strip_prefix("header:") {
            return HeaderName::from_bytes(name.as_bytes())
                .map(Self::Header)
                .map_err(|_| format!("{name:?} is not a header name"))
                .map_err(Reason::from);
        }

        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() || !text.bytes().all(plain) {
            return Err(format!(
                "{text:?} is not a name for a query parameter: use letters, digits, - _ ."
            )
            .into());
        }

        Ok(Self::Query(text.to_owned()))
    }
}

/// Serialized form of [`TokenLocation::Basic`]. No query parameter can have this name.
pub(super) const BASIC: &str = "basic:";

impl TryFrom<String> for TokenLocation {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        if text == BASIC {
            Ok(Self::Basic)
        } else {
            Self::parse(&text)
        }
    }
}

impl Accept {
    /// Returns `true` if a check refuses unknown senders. A range that covers a whole address
    /// family does not.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let address = self
            .allow_ips
            .as_ref()
            .is_some_and(|ips| !ips.set().has_whole_family());
        address || self.token.is_some() || self.basic.is_some() || !self.verify.is_empty()
    }
}
