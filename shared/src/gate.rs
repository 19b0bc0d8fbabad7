//! The gate: a policy compiled, and the two functions that decide.
//!
//! [`Gate::check_head`] runs what needs no body, [`PendingBody::check_body`] the rest. Both are pure:
//! the request, the client address and `now` go in, a verdict comes out. Only they make a
//! [`Permit`], and nothing is forwarded without one. Relay and agent run the same code on the same
//! policy.
//!
//! Order: shape → route (the first whose path and method both match) → address → token → body →
//! signature. Checks combine with AND inside an `accept` alternative, alternatives with OR.

pub mod address;
pub mod path;
pub mod shape;
pub mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};

use self::address::AddressSet;
use self::path::PathPattern;
pub use self::token::TokenSpot;
use crate::clock::UnixMillis;
use crate::policy::{Accept, Mode, Policy, Route, SecretAt, TokenCheck};
use crate::providers::{self, Keyed};
use crate::refusal::{Check, Code, Refusal};

/// Which of the two gates this is. They differ in one thing: a signing secret that never leaves
/// the agent can only be used there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// At the edge.
    Relay,
    /// Beside the application.
    Agent,
}

/// What the gate reads of a request's head.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'r> {
    /// The method.
    pub method: &'r Method,
    /// Path and query, as sent.
    pub target: &'r [u8],
    /// The header fields.
    pub headers: &'r HeaderMap,
}

/// A policy made ready to decide.
pub struct Gate {
    routes: Vec<CompiledRoute>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({} routes)", self.routes.len())
    }
}

struct CompiledRoute {
    settings: RouteSettings,
    paths: Vec<PathPattern>,
    methods: Vec<Method>,
    deny: AddressSet,
    mode: Mode,
    accept: Vec<CompiledAccept>,
}

/// What a route says about forwarding, for those who forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSettings {
    /// How the route is called on screens.
    pub name: String,
    /// Most bytes of a body that a check must read whole.
    pub max_body: u64,
    /// Wait for the head of the application's answer.
    pub answer_timeout: Duration,
    /// Whether a WebSocket may be opened.
    pub websocket: bool,
    /// Whether the token stays in what the application sees.
    pub keep_token: bool,
}

struct CompiledAccept {
    allow: Option<AddressSet>,
    token: Option<TokenCheck>,
    signature: Option<CompiledSignature>,
}

struct CompiledSignature {
    provider: String,
    /// `None` on the relay when the secret stays on the agent.
    keyed: Option<Keyed>,
    /// The status of a refusal, where the provider wants another one than 403.
    refused_with: Option<StatusCode>,
}

/// The outcome of the checks that need no body.
#[derive(Debug)]
pub enum HeadVerdict {
    /// Everything passed; no check needs the body.
    Permit(Permit),
    /// A check needs the whole body first.
    ReadBody(PendingBody),
}

/// The proof that the gate let a request pass. Only the gate makes one; forwarding takes it.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    route: usize,
    token: Option<TokenSpot>,
    observed: Option<Refusal>,
}

/// A request whose head has passed, and whose body must be seen.
#[derive(Debug)]
pub struct PendingBody {
    gate: Arc<Gate>,
    route: usize,
    /// Alternatives whose head checks passed, in order, with the token they found.
    candidates: Vec<(usize, Option<TokenSpot>)>,
    /// What failed already, on a route that only observes.
    failed: Option<(Refusal, Option<TokenSpot>)>,
}

impl Gate {
    /// Compiles a policy for one side.
    ///
    /// # Errors
    /// Every reason for which the policy can't be used (see [`Policy::mistakes`]).
    pub fn compile(policy: &Policy, side: Side, now: UnixMillis) -> Result<Self, Vec<String>> {
        let mistakes = policy.mistakes(now);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let routes = policy.routes.iter().map(|route| CompiledRoute::new(route, side)).collect::<Result<_, _>>();
        routes.map(|routes| Self { routes }).map_err(|mistake| vec![mistake])
    }

    /// Runs every check that needs no body.
    ///
    /// # Errors
    /// The first check that refused.
    pub fn check_head(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        client: IpAddr,
        now: UnixMillis,
    ) -> Result<HeadVerdict, Refusal> {
        shape::check(head.target, head.headers)?;
        let index = self.find_route(head)?;
        let Some(route) = self.routes.get(index) else { return Err(no_route()) };
        let mut candidates = Vec::new();
        let mut furthest: Option<Refusal> = None;
        for (alternative, accept) in route.accept.iter().enumerate() {
            match accept.check_head(route, head, client) {
                Ok(token) => candidates.push((alternative, token)),
                // The alternative that came furthest says the most about what is missing.
                Err(refusal) if furthest.as_ref().is_none_or(|other| other.check < refusal.check) => {
                    furthest = Some(refusal);
                }
                Err(_) => {}
            }
        }
        if candidates.is_empty() {
            let refusal = furthest.unwrap_or_else(no_route);
            if !route.observes(now) {
                return Err(refusal);
            }
            // What only observes relaxes this, and nothing else: sizes hold, and the token is taken out.
            let token = route.accept.iter().find_map(|accept| accept.find_token(head));
            let gate = Arc::clone(self);
            return Ok(if route.accept.iter().any(|accept| accept.signature.is_some()) {
                HeadVerdict::ReadBody(PendingBody { gate, route: index, candidates, failed: Some((refusal, token)) })
            } else {
                HeadVerdict::Permit(Permit { gate, route: index, token, observed: Some(refusal) })
            });
        }
        let needs_no_body = |(alternative, _): &&(usize, Option<TokenSpot>)| {
            route.accept.get(*alternative).is_some_and(|accept| accept.signature.is_none())
        };
        if let Some((_, token)) = candidates.iter().find(needs_no_body) {
            // A right token goes, also when another alternative did not ask for it.
            let anywhere = || route.accept.iter().find_map(|accept| accept.find_token(head));
            let token = token.clone().or_else(anywhere);
            let permit = Permit { gate: Arc::clone(self), route: index, token, observed: None };
            return Ok(HeadVerdict::Permit(permit));
        }
        Ok(HeadVerdict::ReadBody(PendingBody { gate: Arc::clone(self), route: index, candidates, failed: None }))
    }

    /// The first route whose path and method both match.
    fn find_route(&self, head: RequestHead<'_>) -> Result<usize, Refusal> {
        let path = head.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let mut path_matched = false;
        for (index, route) in self.routes.iter().enumerate() {
            if route.paths.iter().any(|pattern| pattern.matches(path)) {
                if route.methods.contains(head.method) {
                    return Ok(index);
                }
                path_matched = true;
            }
        }
        if path_matched {
            let why = "a route has this path, but not this method";
            return Err(Refusal::new(Check::Method, Code::MethodNotAllowed, why));
        }
        Err(no_route())
    }
}

impl PendingBody {
    /// Most bytes that the body may have.
    #[must_use]
    pub fn max_body(&self) -> u64 {
        self.gate.routes.get(self.route).map_or(0, |route| route.settings.max_body)
    }

    /// Runs the checks of the body.
    ///
    /// # Errors
    /// Why no alternative accepts the request.
    pub fn check_body(self, head: RequestHead<'_>, body: &[u8], now: UnixMillis) -> Result<Permit, Refusal> {
        let Self { gate, route: index, candidates, mut failed } = self;
        let Some(route) = gate.routes.get(index) else { return Err(no_route()) };
        for (alternative, token) in candidates {
            let Some(accept) = route.accept.get(alternative) else { continue };
            match accept.check_body(head, body, now) {
                Ok(()) => return Ok(Permit { gate, route: index, token, observed: None }),
                Err(refusal) => {
                    failed.get_or_insert((refusal, token));
                }
            }
        }
        let (refusal, token) = failed.unwrap_or_else(|| (no_route(), None));
        if route.observes(now) {
            return Ok(Permit { gate, route: index, token, observed: Some(refusal) });
        }
        Err(refusal)
    }
}

impl Permit {
    /// What the route says about forwarding.
    #[must_use]
    pub fn settings(&self) -> &RouteSettings {
        // A permit is made with the index of a route of its own gate, which never changes.
        static NONE: RouteSettings = RouteSettings {
            name: String::new(),
            max_body: 0,
            answer_timeout: Duration::ZERO,
            websocket: false,
            keep_token: false,
        };
        self.gate.routes.get(self.route).map_or(&NONE, |route| &route.settings)
    }

    /// Where the token stands that the agent has to take out; `None` when there is none, or the
    /// route keeps it.
    #[must_use]
    pub fn token_to_remove(&self) -> Option<&TokenSpot> {
        self.token.as_ref().filter(|_| !self.settings().keep_token)
    }

    /// The check that failed on a route that only observes.
    #[must_use]
    pub const fn observed(&self) -> Option<&Refusal> {
        self.observed.as_ref()
    }
}

fn no_route() -> Refusal {
    Refusal::new(Check::Path, Code::NotFound, "no route has this path")
}

impl CompiledRoute {
    /// Whether failed checks are only shown now.
    const fn observes(&self, now: UnixMillis) -> bool {
        matches!(self.mode, Mode::Observe { until } if now.seconds() < until)
    }

    fn new(route: &Route, side: Side) -> Result<Self, String> {
        let paths = route.paths.iter().map(|path| PathPattern::parse(path)).collect::<Result<_, _>>()?;
        Ok(Self {
            settings: RouteSettings {
                name: route.name.clone(),
                max_body: route.max_body,
                answer_timeout: Duration::from_millis(route.answer_timeout_ms),
                websocket: route.websocket,
                keep_token: route.keep_token,
            },
            paths,
            methods: route.admitted_methods(),
            deny: AddressSet::new(&route.deny_ips),
            mode: route.mode,
            accept: route.accept.iter().map(|accept| CompiledAccept::new(accept, side)).collect::<Result<_, _>>()?,
        })
    }
}

impl CompiledAccept {
    fn new(accept: &Accept, side: Side) -> Result<Self, String> {
        let signature = match &accept.verify {
            None => None,
            Some(check) => {
                let provider = providers::find(&check.provider)
                    .ok_or_else(|| format!("no provider is called {:?}", check.provider))?;
                let keyed = match (side, check.secret_at) {
                    (Side::Relay, SecretAt::Agent) => None,
                    _ => Some(provider.scheme.keyed(&check.secrets).map_err(|error| error.to_string())?),
                };
                let refused_with = provider.refused_with.and_then(|status| StatusCode::from_u16(status).ok());
                Some(CompiledSignature { provider: provider.name.clone(), keyed, refused_with })
            }
        };
        Ok(Self { allow: accept.allow_ips.as_deref().map(AddressSet::new), token: accept.token.clone(), signature })
    }

    fn check_head(
        &self,
        route: &CompiledRoute,
        head: RequestHead<'_>,
        client: IpAddr,
    ) -> Result<Option<TokenSpot>, Refusal> {
        if route.deny.contains(client) {
            return Err(Refusal::failed(Check::Address, format!("{client} is denied")));
        }
        if self.allow.as_ref().is_some_and(|allow| !allow.contains(client)) {
            return Err(Refusal::failed(Check::Address, format!("{client} is not in an allowed range")));
        }
        match &self.token {
            None => Ok(None),
            Some(check) => token::check(check, head.target, head.headers)
                .map(Some)
                .map_err(|why| Refusal::failed(Check::Token, why)),
        }
    }

    /// Where a right token stands, whatever else failed.
    fn find_token(&self, head: RequestHead<'_>) -> Option<TokenSpot> {
        let check = self.token.as_ref()?;
        token::check(check, head.target, head.headers).ok()
    }

    fn check_body(&self, head: RequestHead<'_>, body: &[u8], now: UnixMillis) -> Result<(), Refusal> {
        let Some(signature) = &self.signature else { return Ok(()) };
        let Some(keyed) = &signature.keyed else { return Ok(()) };
        keyed.verify(head.headers, body, now).map_err(|fault| {
            let refusal = Refusal::failed(Check::Signature, format!("{}: {fault}", signature.provider));
            Refusal { status: signature.refused_with.unwrap_or(refusal.status), ..refusal }
        })
    }
}
