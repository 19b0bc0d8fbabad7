//! The policy as plain data. It is written as flags or as a TOML file (with the same meaning), sent
//! from the agent to the relay, and compiled into a [`crate::engine::Gate`] on both sides.
//! [`validate`] finds its errors.

mod accept;
pub mod delivery;
pub mod file;
pub mod raw;
mod resolve;
mod sender;
mod signature;
pub mod summary;
pub mod validate;

use std::time::Duration;

use http::Method;
use serde::{Deserialize, Serialize};

use hookward_core::limits;
use hookward_core::rate::Rate;

use self::accept::BASIC;
pub use self::accept::{
    Accept, ActiveToken, Addresses, BodyRule, HeaderRule, TokenCheck, TokenLocation,
};
pub use self::delivery::{Delivery, DeliveryMode, DeliveryOrder};
pub use self::resolve::{LoadedPolicy, LocatedMistake, resolve};
pub use self::sender::RequestSender;
pub use self::signature::{ActiveSecret, SecretAt, SignatureCheck};
pub use validate::PolicyLimits;

/// Default paths: FlexDeploy's webhook resource, in both versions.
pub const PRESET_PATHS: [&str; 2] = ["/flexdeploy/webhooks/v1/**", "/flexdeploy/webhooks/v2/**"];
/// Default query parameter of a token.
pub const TOKEN_NAME: &str = "token";

/// A policy.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Routes in order; the first whose path and method match decides.
    pub routes: Vec<Route>,
    /// Rate of one client address, checked first. Only the relay counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_rate: Option<Rate>,
    /// Rate of permitted requests. Only the relay counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Lockout of addresses that keep failing, by the relay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lockout: Option<Lockout>,
}

/// A route: the requests that it covers, and who may send them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Display name.
    pub name: String,
    /// Path patterns; any of them.
    pub paths: Vec<String>,
    /// Methods; empty for all allowed methods.
    pub methods: Vec<String>,
    /// Maximum size of a body that a check reads, in bytes.
    pub max_body: u64,
    /// Timeout for the head of the application's response, in milliseconds.
    pub answer_timeout_ms: u64,
    /// `true` if WebSockets are allowed.
    pub websocket: bool,
    /// `true` if the token is forwarded to the application.
    pub keep_token: bool,
    /// `true` if escaped slashes (`%2F`) may occur below a path's final `/**`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub encoded_slashes: bool,
    /// Client addresses that are always refused.
    pub deny_ips: Addresses,
    /// Rate of permitted requests. Only the relay counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Replay protection, by the relay only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayProtection>,
    /// Delivery; `None` for direct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Mode of failed checks.
    pub mode: Mode,
    /// Accept rules; one must accept.
    pub accept: Vec<Accept>,
}

/// Effect of failed checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Failed checks refuse the request.
    Enforce,
    /// Failed checks of address, token, signature and replay are reported, and the request passes.
    Observe {
        /// Time from which the route enforces, in seconds since 1970.
        until: u64,
    },
}

/// Lockout of an address that keeps failing. An address that a route allows is never locked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lockout {
    /// Number of failed tokens and signatures.
    pub failures: u32,
    /// Window of the failures, in milliseconds.
    pub within_ms: u64,
    /// Duration of the lockout, in milliseconds.
    pub for_ms: u64,
}

/// Replay protection of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayProtection {
    /// Response to a duplicate.
    pub on_duplicate: OnDuplicate,
    /// Time for which a delivery is remembered, in milliseconds.
    pub window_ms: u64,
}

/// Response to a duplicate of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDuplicate {
    /// Refuse it with 403.
    Refuse,
    /// Answer 200 and do not forward it, so that the sender stops retrying.
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
    /// Creates a route with the defaults, without accept rules.
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
            delivery: None,
            mode: Mode::Enforce,
            accept: Vec::new(),
        }
    }

    /// Returns `true` if its webhooks may be stored.
    #[must_use]
    pub fn stores(&self) -> bool {
        self.delivery.as_ref().is_some_and(Delivery::stores)
    }

    /// Returns the allowed methods.
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
    /// Returns the path of the webhook URL: that of the first route, up to its first wildcard.
    #[must_use]
    pub fn webhook_path(&self) -> &str {
        let route = self.routes.first();
        let path = route.and_then(|route| route.paths.first());
        let base = path.and_then(|path| path.split("/*").next());
        match base.map(|base| base.trim_end_matches('/')) {
            None | Some("") => "/",
            Some(base) => base,
        }
    }

    /// Creates a policy with these routes.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        Self {
            routes,
            ..Self::default()
        }
    }

    /// Returns the longest time for which a route wants its webhooks stored; `None` if none does.
    #[must_use]
    pub fn stored_for(&self) -> Option<Duration> {
        let stored = self.routes.iter().filter(|route| route.stores());
        let ages = stored
            .filter_map(|route| route.delivery.as_ref())
            .map(|delivery| delivery.max_age_ms);
        ages.max().map(Duration::from_millis)
    }

    /// Returns the copy for the relay, without the secrets that stay on the agent.
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

    /// Returns the policy with this token in every accept rule.
    #[must_use]
    pub fn with_token(&self, token: &TokenCheck) -> Self {
        let mut copy = self.clone();
        for accept in copy.routes.iter_mut().flat_map(|route| &mut route.accept) {
            accept.token = Some(token.clone());
        }
        copy
    }
}

/// Serializes digests as hex.
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

/// Serializes header names as text.
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
