//! The policy: what may pass, as plain data. It is written as flags or as a TOML file (with the
//! same meaning), travels from the agent to the relay, and is compiled into a [`crate::engine::Gate`]
//! on both sides. What is wrong with one is found in [`validate`].

pub mod file;
pub mod summary;
pub mod validate;

use http::{HeaderName, Method};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::providers::scheme::SchemeError;
use crate::providers::{self, Coverage, Provider, Scheme, SecretShape, SignatureVerifier};
use hookward_core::address::AddressSet;
use hookward_core::json::JsonPath;
use hookward_core::limits;
use hookward_core::rate::Rate;
use hookward_core::secret::{Secret, SecretDigest};

pub use validate::PolicyLimits;

/// Paths that are open by default: FlexDeploy's webhook resource, in both versions.
pub const PRESET_PATHS: [&str; 2] = ["/flexdeploy/webhooks/v1/**", "/flexdeploy/webhooks/v2/**"];
/// The query parameter that holds a token when no other is named.
pub const TOKEN_NAME: &str = "token";

/// Routes in order; the first whose path and method match decides.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Routes in order; the first whose path and method match decides.
    pub routes: Vec<Route>,
    /// Requests of one client address, before anything else is looked at. Only the relay counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_rate: Option<Rate>,
    /// Requests that pass everything else. Only the relay counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// When an address that keeps failing is locked out. Only the relay does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lockout: Option<Lockout>,
}

/// One route: which requests it is about, and who may send them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Display name.
    pub name: String,
    /// Path patterns; any of them.
    pub paths: Vec<String>,
    /// Methods; empty for all that may pass at all.
    pub methods: Vec<String>,
    /// Most bytes of a body that a check must read whole.
    pub max_body: u64,
    /// Wait for the head of the application's answer, in milliseconds.
    pub answer_timeout_ms: u64,
    /// `true` if WebSockets are allowed.
    pub websocket: bool,
    /// `true` if the token is forwarded to the application.
    pub keep_token: bool,
    /// `true` if escaped slashes (`%2F`) may stand below a path's final `/**`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encoded_slashes: bool,
    /// Client addresses that are refused whatever else passes.
    pub deny_ips: Addresses,
    /// Requests that pass everything else. Only the relay counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Replay protection, by the relay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayProtection>,
    /// Mode of failed checks.
    pub mode: Mode,
    /// Alternatives; one must accept.
    pub accept: Vec<Accept>,
}

/// Effect of failed checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Failed checks refuse the request.
    Enforce,
    /// Address, token, signature and replay are checked and shown, and the request passes all the
    /// same.
    Observe {
        /// From this moment on (seconds since 1970) the route enforces.
        until: u64,
    },
}

/// When an address that keeps failing is locked out. An address that a route allows never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockout {
    /// Failed tokens and signatures.
    pub failures: u32,
    /// Within so many milliseconds.
    pub within_ms: u64,
    /// For so many milliseconds.
    pub for_ms: u64,
}

/// Replay protection of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayProtection {
    /// Response to a duplicate.
    pub on_duplicate: OnDuplicate,
    /// For so many milliseconds a delivery is remembered.
    pub window_ms: u64,
}

/// Response to a duplicate of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// Refuse it with 403.
    Refuse,
    /// Answer 200 and do not forward it: the sender stops trying.
    Acknowledge,
    /// Forward it, and report it.
    Forward,
}

/// A set of checks that must all pass.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// Said in words: whoever knows the path may send.
    pub open: bool,
    /// Client addresses; `None` for no such check.
    pub allow_ips: Option<Addresses>,
    /// Token check.
    pub token: Option<TokenCheck>,
    /// User and password (RFC 7617).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<TokenCheck>,
    /// Media types that the body may have; empty for any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub content_types: Vec<String>,
    /// Header fields and the values that they may have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderRule>,
    /// Signatures; all must be right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verify: Vec<SignatureCheck>,
    /// Values of a JSON body and what they may be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub body: Vec<BodyRule>,
}

/// Client addresses: ranges, and named sets that the relay keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addresses {
    /// Address ranges.
    pub ranges: Vec<IpNet>,
    /// Names of address sets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub named: Vec<String>,
}

/// A token that the sender must know. Only its digest is kept and sent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCheck {
    /// Location of the token.
    pub location: TokenLocation,
    /// The tokens that are live; several during a change.
    pub active: Vec<ActiveToken>,
}

/// A token that is live.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveToken {
    /// Name of the token: `env:NAME` or `file:PATH`.
    pub name: String,
    /// SHA-256 of the token.
    #[serde(with = "digest")]
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
    #[serde(with = "header_name")]
    pub name: HeaderName,
    /// The values, compared exactly.
    pub allowed: Vec<String>,
}

/// A value of a JSON body that must be one of some.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BodyRule {
    /// Path of the value.
    pub path: JsonPath,
    /// The values, as text.
    pub allowed: Vec<String>,
}

/// A signature, by a provider's scheme or by one of the user's own.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureCheck {
    /// The provider's id or alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The provider's variant, where its settings choose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// A scheme of the user's own, instead of a provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Box<Scheme>>,
    /// Programs that may hold the secret.
    pub secret_at: SecretAt,
    /// The secrets that are live; empty on the relay's copy when they stay on the agent.
    pub secrets: Vec<ActiveSecret>,
    /// Scheme and authority of the URL as it is registered at the provider, where it is not the
    /// tunnel's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// `true` if the gate answers the provider's challenges.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub challenge: bool,
    /// `true` if the gate takes a secret from the provider's challenge. Only while pairing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pair: bool,
}

/// A secret that is live.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActiveSecret {
    /// Name of the secret: `env:NAME` or `file:PATH`.
    pub name: String,
    /// The secret itself.
    pub secret: Secret,
}

/// Programs that may hold a signing secret.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretAt {
    /// On both sides: forged webhooks end at the edge. Who takes over the relay can sign.
    #[default]
    Relay,
    /// On the agent only: the relay can't check it, and can't forge it either.
    Agent,
}

impl Addresses {
    /// The ranges as a set. The named sets are not in it.
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
    /// A check of tokens with their names.
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
    /// Reads `NAME` (a query parameter) or `header:NAME`.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("header:") {
            return HeaderName::from_bytes(name.as_bytes())
                .map(Self::Header)
                .map_err(|_| format!("{name:?} is not a header name"));
        }

        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() || !text.bytes().all(plain) {
            return Err(format!(
                "{text:?} is no name for a query parameter: use letters, digits, - _ ."
            ));
        }

        Ok(Self::Query(text.to_owned()))
    }
}

/// Form of [`TokenLocation::Basic`] on the wire. No query parameter can have this name.
const BASIC: &str = "basic:";

impl TryFrom<String> for TokenLocation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == BASIC {
            Ok(Self::Basic)
        } else {
            Self::parse(&text)
        }
    }
}

impl From<TokenLocation> for String {
    fn from(place: TokenLocation) -> Self {
        match place {
            TokenLocation::Query(name) => name,
            TokenLocation::Header(name) => format!("header:{name}"),
            TokenLocation::Basic => BASIC.to_owned(),
        }
    }
}

impl SignatureCheck {
    /// A check by a provider's row.
    #[must_use]
    pub fn by(provider: &str) -> Self {
        Self {
            provider: Some(provider.to_owned()),
            ..Self::default()
        }
    }

    /// The provider's row, if it names one.
    #[must_use]
    pub(crate) fn row(&self) -> Option<&'static Provider> {
        self.provider.as_deref().and_then(providers::find)
    }

    /// The ways of signing that it pins.
    ///
    /// # Errors
    /// What is wrong with the names.
    pub fn schemes(&self) -> Result<Vec<Scheme>, String> {
        match (&self.provider, &self.scheme) {
            (Some(name), None) => {
                let row = providers::find(name).ok_or_else(|| providers::unknown(name))?;
                row.pinned(self.variant.as_deref())
            }
            (None, Some(scheme)) if self.variant.is_none() => Ok(vec![scheme.as_ref().clone()]),
            (None, Some(_)) => Err(
                "variant is about a provider's row, and not about a scheme of your own".to_owned(),
            ),
            (Some(_), Some(_)) => {
                Err("it names a provider and holds a scheme; take one of them away".to_owned())
            }
            (None, None) => {
                Err("provider is missing; write for example provider = \"github\"".to_owned())
            }
        }
    }

    /// Compiles these schemes with these secrets.
    ///
    /// # Errors
    /// When a scheme contradicts itself or a secret has not the provider's form.
    pub(crate) fn verifier(
        &self,
        schemes: &[Scheme],
        secrets: &[Secret],
    ) -> Result<SignatureVerifier, SchemeError> {
        let keyed = SignatureVerifier::new(schemes, &self.shape(), secrets, self.origin.clone())?;
        Ok(match self.row() {
            Some(row) => keyed.of_provider(row),
            None => keyed,
        })
    }

    /// Returns the format of the provider's secret.
    #[must_use]
    pub(crate) fn shape(&self) -> SecretShape {
        self.row().map(Provider::shape).unwrap_or_default()
    }

    /// Returns the display name of the provider or scheme.
    #[must_use]
    pub(crate) fn title(&self) -> String {
        match (self.row(), &self.variant) {
            (Some(row), None) => row.name.clone(),
            (Some(row), Some(variant)) => format!("{} ({variant})", row.name),
            (None, _)
                if self
                    .scheme
                    .as_ref()
                    .is_some_and(|scheme| scheme.jwt.is_some()) =>
            {
                "JSON Web Token".to_owned()
            }
            (None, _) => "own scheme".to_owned(),
        }
    }

    /// Returns how much of the body a right signature covers: of several schemes, the least.
    #[must_use]
    pub(crate) fn coverage(&self) -> Coverage {
        let schemes = self.schemes().unwrap_or_default();
        schemes
            .iter()
            .map(Scheme::coverage)
            .min()
            .unwrap_or(Coverage::Nothing)
    }
}

impl Route {
    /// A route with the defaults, still without anybody to accept.
    #[must_use]
    pub fn new(name: impl Into<String>, paths: Vec<String>) -> Self {
        Self {
            name: name.into(),
            paths,
            methods: Vec::new(),
            max_body: 25 * limits::MIB,
            answer_timeout_ms: u64::try_from(limits::ANSWER_TIMEOUT.as_millis())
                .unwrap_or(u64::MAX),
            websocket: false,
            keep_token: false,
            encoded_slashes: false,
            deny_ips: Addresses::default(),
            rate: None,
            replay: None,
            mode: Mode::Enforce,
            accept: Vec::new(),
        }
    }

    /// The methods it admits.
    #[must_use]
    pub(crate) fn admitted_methods(&self) -> Vec<Method> {
        if self.methods.is_empty() {
            let all = [
                Method::GET,
                Method::HEAD,
                Method::POST,
                Method::PUT,
                Method::PATCH,
                Method::DELETE,
                Method::OPTIONS,
            ];
            return all.to_vec();
        }

        self.methods
            .iter()
            .filter_map(|name| Method::from_bytes(name.as_bytes()).ok())
            .collect()
    }
}

impl Accept {
    /// Returns `true` if a check keeps strangers out. A range that covers a whole address family
    /// does not.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let address = self
            .allow_ips
            .as_ref()
            .is_some_and(|ips| !ips.set().has_whole_family());
        address || self.token.is_some() || self.basic.is_some() || !self.verify.is_empty()
    }
}

impl Policy {
    /// A policy of these routes.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self {
            routes,
            ..Self::default()
        }
    }

    /// The copy for the relay: without the secrets that stay on the agent.
    #[must_use]
    pub fn for_relay(&self) -> Self {
        let mut copy = self.clone();
        for accept in copy.routes.iter_mut().flat_map(|route| &mut route.accept) {
            for check in accept
                .verify
                .iter_mut()
                .filter(|check| check.secret_at == SecretAt::Agent)
            {
                check.secrets.clear();
            }
        }

        copy
    }
}

/// Digests travel as hex.
mod digest {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer};

    use hookward_core::secret::SecretDigest;

    pub(crate) fn serialize<S: Serializer>(
        digest: &SecretDigest,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(digest.as_bytes()))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SecretDigest, D::Error> {
        HEXLOWER
            .decode(String::deserialize(deserializer)?.as_bytes())
            .ok()
            .and_then(|bytes| SecretDigest::from_stored(&bytes))
            .ok_or_else(|| serde::de::Error::custom("not the hex of a SHA-256 digest"))
    }
}

/// Header names travel as text.
mod header_name {
    use http::HeaderName;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        name: &HeaderName,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(name.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<HeaderName, D::Error> {
        let text = String::deserialize(deserializer)?;
        HeaderName::from_bytes(text.as_bytes())
            .map_err(|_| serde::de::Error::custom("not a header name"))
    }
}
