//! The policy: what may pass, as plain data. It is written as flags or as a TOML file (with the
//! same meaning), travels from the agent to the relay, and is compiled into a [`crate::engine::Gate`]
//! on both sides. What is wrong with one is found in [`validate`].

mod accept;
pub mod file;
mod signature;
pub mod summary;
pub mod validate;

use http::Method;
use serde::{Deserialize, Serialize};

use hookward_core::limits;
use hookward_core::rate::Rate;

use self::accept::BASIC;
pub use self::accept::{
    Accept, ActiveToken, Addresses, BodyRule, HeaderRule, TokenCheck, TokenLocation,
};
pub use self::signature::{ActiveSecret, SecretAt, SignatureCheck};
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

impl From<TokenLocation> for String {
    fn from(place: TokenLocation) -> Self {
        match place {
            TokenLocation::Query(name) => name,
            TokenLocation::Header(name) => format!("header:{name}"),
            TokenLocation::Basic => BASIC.to_owned(),
        }
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
