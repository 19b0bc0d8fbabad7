//! The policy: what may pass, as plain data. It is written as flags or as a TOML file (with the same
//! meaning), travels from the agent to the relay, and is compiled into a [`crate::gate::Gate`] on
//! both sides.

pub mod file;

use http::{HeaderName, Method};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::budget::SHARES;
use crate::clock::UnixMillis;
use crate::gate::address::AddressSet;
use crate::gate::path::PathPattern;
use crate::gate::shape;
use crate::limits;
use crate::providers;
use crate::secret::{Secret, SecretDigest};

/// What is open when nobody says otherwise: FlexDeploy's webhook resource, in both versions.
pub const PRESET_PATHS: [&str; 2] = ["/flexdeploy/webhooks/v1/**", "/flexdeploy/webhooks/v2/**"];
/// The query parameter that holds a token when no other is named.
pub const TOKEN_NAME: &str = "token";

/// Routes in order; the first whose path and method match decides.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The routes.
    pub routes: Vec<Route>,
}

/// One route: which requests it is about, and who may send them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// How it is called on screens.
    pub name: String,
    /// Path patterns; any of them.
    pub paths: Vec<String>,
    /// Methods; empty for all that may pass at all.
    pub methods: Vec<String>,
    /// Most bytes of a body that a check must read whole.
    pub max_body: u64,
    /// Wait for the head of the application's answer, in milliseconds.
    pub answer_timeout_ms: u64,
    /// Whether a WebSocket may be opened.
    pub websocket: bool,
    /// Whether the token stays in what the application sees.
    pub keep_token: bool,
    /// Client addresses that are refused whatever else passes.
    pub deny_ips: Vec<IpNet>,
    /// Whether failed checks refuse.
    pub mode: Mode,
    /// Alternatives; one must accept.
    pub accept: Vec<Accept>,
}

/// Whether failed checks refuse, or are only shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They refuse.
    Enforce,
    /// Address, token and signature are checked and shown, and the request passes all the same.
    Observe {
        /// From this moment on (seconds since 1970) the route enforces.
        until: u64,
    },
}

/// A set of checks that must all pass.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accept {
    /// Said in words: whoever knows the path may send.
    pub open: bool,
    /// Client addresses; `None` for no such check.
    pub allow_ips: Option<Vec<IpNet>>,
    /// The token.
    pub token: Option<TokenCheck>,
    /// The signature.
    pub verify: Option<SignatureCheck>,
}

/// A token that the sender must know. Only its digest is kept and sent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenCheck {
    /// Where it stands.
    pub place: TokenPlace,
    /// The digests of the tokens that are live; several during a change.
    #[serde(with = "digests")]
    pub digests: Vec<SecretDigest>,
}

/// Where a token stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TokenPlace {
    /// A query parameter of this name.
    Query(String),
    /// A header of this name.
    Header(HeaderName),
}

/// A signature by a provider's scheme.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureCheck {
    /// The provider's id or alias.
    pub provider: String,
    /// Where the secret may be.
    pub secret_at: SecretAt,
    /// The secrets that are live; empty on the relay's copy when they stay on the agent.
    pub secrets: Vec<Secret>,
}

/// Where a signing secret may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretAt {
    /// On both sides: forged webhooks end at the edge. Who takes over the relay can sign.
    #[default]
    Relay,
    /// On the agent only: the relay can't check it, and can't forge it either.
    Agent,
}

impl TokenPlace {
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
            return Err(format!("{text:?} is no name for a query parameter: use letters, digits, - _ ."));
        }
        Ok(Self::Query(text.to_owned()))
    }
}

impl TryFrom<String> for TokenPlace {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<TokenPlace> for String {
    fn from(place: TokenPlace) -> Self {
        match place {
            TokenPlace::Query(name) => name,
            TokenPlace::Header(name) => format!("header:{name}"),
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
            answer_timeout_ms: u64::try_from(limits::ANSWER_TIMEOUT.as_millis()).unwrap_or(u64::MAX),
            websocket: false,
            keep_token: false,
            deny_ips: Vec::new(),
            mode: Mode::Enforce,
            accept: Vec::new(),
        }
    }

    /// The methods it admits.
    #[must_use]
    pub fn admitted_methods(&self) -> Vec<Method> {
        if self.methods.is_empty() {
            let all =
                [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
            return all.to_vec();
        }
        self.methods.iter().filter_map(|name| Method::from_bytes(name.as_bytes()).ok()).collect()
    }
}

impl Accept {
    /// Whether it holds a check that keeps strangers out. A range that covers a whole address
    /// family is not one.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        let address = self.allow_ips.as_ref().is_some_and(|ips| !AddressSet::new(ips).has_whole_family());
        address || self.token.is_some() || self.verify.is_some()
    }
}

impl Policy {
    /// The copy for the relay: without the secrets that stay on the agent.
    #[must_use]
    pub fn for_relay(&self) -> Self {
        let mut copy = self.clone();
        for accept in copy.routes.iter_mut().flat_map(|route| &mut route.accept) {
            if let Some(check) = &mut accept.verify
                && check.secret_at == SecretAt::Agent
            {
                check.secrets.clear();
            }
        }
        copy
    }

    /// Every reason for which this policy can't be used. Both sides ask, each for itself.
    #[must_use]
    pub fn mistakes(&self, now: UnixMillis) -> Vec<String> {
        let mut mistakes = Vec::new();
        if self.routes.is_empty() {
            mistakes.push("the policy has no route, so nothing could pass".to_owned());
        }
        if self.routes.len() > limits::ROUTES {
            return vec![format!("the policy has {} routes, more than {}", self.routes.len(), limits::ROUTES)];
        }
        let mut earlier: Vec<(&str, Reach)> = Vec::new();
        for route in &self.routes {
            let mut found = route.mistakes(now);
            let reach = Reach::of(route);
            if let Some((name, _)) = earlier.iter().find(|(_, other)| other.covers(&reach)) {
                found.push(format!("can't be reached: the route {name:?} before it takes all its requests"));
            }
            earlier.push((&route.name, reach));
            mistakes.extend(found.into_iter().map(|what| format!("route {:?}: {what}", route.name)));
        }
        mistakes
    }

    /// What the user should know about this policy: legal, and opener than the default.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for route in &self.routes {
            let everything = |path: &String| PathPattern::parse(path).is_ok_and(|path| path.is_everything());
            if route.paths.iter().any(everything) {
                warnings.push(format!("route {:?} opens the whole application, not only its webhooks", route.name));
            }
            if route.accept.iter().any(|accept| !accept.is_protected()) {
                warnings.push(format!(
                    "route {:?} is open: whoever finds the URL can send to it; \
                     add an address range, a token or a signature",
                    route.name
                ));
            }
            if let Mode::Observe { .. } = route.mode {
                warnings.push(format!(
                    "route {:?} only observes: its failed checks are shown and do not refuse",
                    route.name
                ));
            }
        }
        warnings
    }
}

impl Route {
    fn mistakes(&self, now: UnixMillis) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut mistake = |what: String| mistakes.push(what);
        if self.paths.is_empty() {
            mistake("it has no path".to_owned());
        }
        for path in &self.paths {
            if path.len() > limits::PATTERN_BYTES {
                mistake(format!("a path has more than {} bytes", limits::PATTERN_BYTES));
            } else if let Err(what) = PathPattern::parse(path) {
                mistake(what);
            }
        }
        for name in &self.methods {
            if !Method::from_bytes(name.as_bytes()).is_ok_and(|method| shape::is_known_method(&method)) {
                mistake(format!(
                    "the method {name:?} can't pass; choose from GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
                ));
            }
        }
        if self.max_body == 0 || self.max_body > limits::AGENT_BODY_BUDGET / SHARES {
            mistake(format!("max_body lies outside 1B to {} MiB", limits::AGENT_BODY_BUDGET / SHARES / limits::MIB));
        }
        if self.keep_token && self.accept.iter().all(|accept| accept.token.is_none()) {
            mistake("keep_token has no effect: there is no token".to_owned());
        }
        let opens = |accept: &Accept| accept.verify.is_none();
        if self.websocket && (!self.accept.iter().any(opens) || !self.admitted_methods().contains(&Method::GET)) {
            mistake("websocket has no effect: a WebSocket is a GET without a body, which no provider signs".to_owned());
        }
        if matches!(self.mode, Mode::Observe { .. }) && self.accept.iter().any(|accept| accept.open) {
            mistake("observe_until has no effect: an alternative is open, so nothing is refused".to_owned());
        }
        let longest = limits::ANSWER_TIMEOUT_MAX;
        if self.answer_timeout_ms == 0 || u128::from(self.answer_timeout_ms) > longest.as_millis() {
            mistake(format!("answer_timeout lies outside 1ms to {} s", longest.as_secs()));
        }
        if let Mode::Observe { until } = self.mode {
            let latest = now.seconds() + u64::try_from(limits::OBSERVE_DAYS).unwrap_or_default() * 86_400;
            if until <= now.seconds() {
                mistake("observe_until is over; take the line away to enforce, or name a later day".to_owned());
            } else if until > latest {
                mistake(format!("observe_until is more than {} days ahead", limits::OBSERVE_DAYS));
            }
        }
        if self.accept.is_empty() {
            mistake("it has no accept, so nothing could pass".to_owned());
        }
        for (what, count) in
            [("paths", self.paths.len()), ("methods", self.methods.len()), ("alternatives", self.accept.len())]
        {
            if count > limits::OF_A_ROUTE {
                mistake(format!("it has {count} {what}, more than {}", limits::OF_A_ROUTE));
            }
        }
        let deny = AddressSet::new(&self.deny_ips);
        for (index, accept) in self.accept.iter().enumerate() {
            for what in accept.mistakes(&deny) {
                mistake(format!("accept {}: {what}", index + 1));
            }
        }
        mistakes
    }
}

/// Which requests a route is about.
struct Reach {
    paths: Vec<PathPattern>,
    methods: Vec<Method>,
}

impl Reach {
    fn of(route: &Route) -> Self {
        let paths = route.paths.iter().take(limits::OF_A_ROUTE).filter_map(|path| PathPattern::parse(path).ok());
        Self { paths: paths.collect(), methods: route.admitted_methods() }
    }

    /// Whether this one takes all requests of the other.
    fn covers(&self, other: &Self) -> bool {
        !other.paths.is_empty()
            && other.paths.iter().all(|path| self.paths.iter().any(|wide| wide.covers(path)))
            && other.methods.iter().all(|method| self.methods.contains(method))
    }
}

impl Accept {
    fn mistakes(&self, deny: &AddressSet) -> Vec<String> {
        let mut mistakes = Vec::new();
        if !self.open && !self.is_protected() {
            mistakes.push(
                "it has no address range (0.0.0.0/0 and ::/0 are none), no token and no signature; \
                 add one, or say open = true if everybody may send"
                    .to_owned(),
            );
        }
        if self.open && self.is_protected() {
            mistakes.push("it says open = true beside a check; take one of them away".to_owned());
        }
        if let Some(ips) = &self.allow_ips {
            if ips.is_empty() {
                mistakes.push("allow_ips is an empty list, so nobody could pass".to_owned());
            } else if AddressSet::new(ips).is_within(deny) {
                mistakes.push("every address of allow_ips is denied by deny_ips".to_owned());
            }
        }
        let tokens = self.token.as_ref().map(|token| token.digests.len());
        if tokens == Some(0) {
            mistakes.push("the token has no secret".to_owned());
        }
        let secrets = self.verify.as_ref().map_or(0, |check| check.secrets.len());
        if tokens.unwrap_or(0).max(secrets) > limits::LIVE_SECRETS {
            mistakes.push(format!("more than {} secrets are live at one time", limits::LIVE_SECRETS));
            return mistakes;
        }
        if let Some(check) = &self.verify {
            mistakes.extend(check.mistakes());
        }
        mistakes
    }
}

impl SignatureCheck {
    fn mistakes(&self) -> Vec<String> {
        let Some(provider) = providers::find(&self.provider) else {
            return vec![providers::unknown(&self.provider)];
        };
        if self.secrets.is_empty() && self.secret_at == SecretAt::Relay {
            return vec![format!("{}: no secret is given", provider.name)];
        }
        self.secrets
            .iter()
            .filter_map(|secret| provider.scheme.check_secret(secret).err())
            .map(|error| format!("{}: {error}", provider.name))
            .collect()
    }
}

/// Digests travel as hex.
mod digests {
    use data_encoding::HEXLOWER;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::secret::SecretDigest;

    pub(super) fn serialize<S: Serializer>(digests: &[SecretDigest], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(digests.iter().map(|digest| HEXLOWER.encode(digest.as_bytes())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretDigest>, D::Error> {
        Vec::<String>::deserialize(deserializer)?
            .iter()
            .map(|text| {
                HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| SecretDigest::from_stored(&bytes))
                    .ok_or_else(|| serde::de::Error::custom("not the hex of a SHA-256 digest"))
            })
            .collect()
    }
}
