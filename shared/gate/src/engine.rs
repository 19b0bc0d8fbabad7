//! The gate: a policy compiled, and the functions that decide.
//!
//! [`Gate::check_head`] runs what needs no body, [`PendingBody::check_body`] the rest. Both are
//! pure: the request, the client address, `now` and the memory go in, a verdict comes out. Only
//! they make a [`Permit`], and nothing is forwarded without one. Relay and agent run the same code
//! on the same policy.
//!
//! Order: shape → lockout and the client address's own rate → route (the first whose path and
//! method both match) → address → token → content type and headers → body → signature → body rules
//! → replay → the route's and the tunnel's rates. Checks combine with AND inside an `accept`
//! alternative, alternatives with OR.
//!
//! Anybody can send from a provider's addresses, by a webhook of his own: a right signature passes
//! lockout and client rate, and counts by itself.

mod accept;
mod body_rule;
pub mod dedup;
pub mod explain;
mod header;
mod signature;
pub mod state;
pub mod syntax;
pub mod token;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use self::accept::{AcceptRule, AddressRule, Evidence};
pub use self::dedup::{Claimed, DeliveryClaim};
pub use self::signature::WantedKey;
pub use self::state::{Counted, GateState};
pub use self::token::TokenSpan;
use crate::inspection::{BodyFields, BodyFieldsBuilder, Inspection, Work};
use crate::policy::{Lockout, Mode, OnDuplicate, Policy, ReplayProtection, Route};
use crate::providers::challenge::{ChallengeAction, ChallengeResponse};
pub use crate::request::{Request, RequestHead};
use hookward_core::address::source;
use hookward_core::clock::{Moment, UnixMillis};
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::path::PathPattern;
use hookward_core::rate::Rate;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::secret::Secret;
use hookward_core::syntax::{EscapedSlashes, has_escaped_slash, with_plain_slashes};

/// Unsigned challenges that one client address may send in a second: providers send one when a
/// webhook is registered, and some again every hour.
const CHALLENGES_PER_SECOND: u32 = 5;
/// Signed requests a second of a client that is locked out or beyond its rate: a provider sends
/// less in a retry, and each costs a body of at most `max_body`.
const BARRED_ATTEMPTS_PER_SECOND: u32 = 20;

/// Which of the two gates this is. The relay alone counts, remembers and knows the named sets; a
/// signing secret that never leaves the agent can only be used there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Gate of the relay.
    Relay,
    /// Gate of the agent.
    Agent,
}

/// A policy made ready to decide.
pub struct Gate {
    side: Side,
    client_rate: Option<Rate>,
    rate: Option<Rate>,
    /// Maximum rate of every tunnel, by the operator.
    operators_rate: Option<Rate>,
    lockout: Option<Lockout>,
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
    deny: AddressRule,
    rate: Option<Rate>,
    replay: Option<ReplayProtection>,
    mode: Mode,
    accept: Vec<AcceptRule>,
    /// Fields of bodies that its checks read.
    body_fields: Arc<BodyFields>,
}

/// Settings of a route that concern forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSettings {
    /// Display name of the route.
    pub name: String,
    /// Most bytes of a body that a check must read whole.
    pub max_body: u64,
    /// Wait for the head of the application's answer.
    pub answer_timeout: Duration,
    /// `true` if WebSockets are allowed.
    pub websocket: bool,
    /// `true` if the token is forwarded to the application.
    pub keep_token: bool,
    /// `true` if escaped slashes may stand below the path's final `/**`.
    pub encoded_slashes: bool,
    /// Path patterns, as written.
    pub paths: Vec<String>,
}

/// The outcome of the checks that need no body.
pub enum HeadVerdict {
    /// Everything passed; no check needs the body.
    Decided(Decision),
    /// A check needs the whole body first.
    ReadBody(PendingBody),
}

/// The outcome of all checks, when none refused.
pub enum Decision {
    /// The request may be forwarded.
    Forward(Permit),
    /// The delivery must be claimed first.
    Claim(PendingClaim),
    /// The request is a provider's challenge, and this is the response.
    Answer(Box<ChallengeResponse>),
    /// The request is a challenge with the provider's secret, and pairing is in progress.
    Pair(Secret, Box<ChallengeResponse>),
}

/// The proof that the gate let a request pass. Only the gate makes one; forwarding takes it.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    route: usize,
    tokens: Vec<TokenSpan>,
    secrets: Vec<String>,
    observed: Option<Refusal>,
}

/// A request whose head has passed, and whose body must be seen.
#[derive(Debug)]
pub struct PendingBody {
    gate: Arc<Gate>,
    route: usize,
    client: IpAddr,
    /// Reason why this client may only send with a right signature.
    barred: Option<Refusal>,
    /// Alternatives whose head checks passed, in order, with what they found.
    candidates: Vec<(usize, Evidence)>,
    inspection: Inspection,
}

/// A request that passed every check, and whose delivery must be claimed before it is forwarded.
#[derive(Debug)]
pub struct PendingClaim {
    /// The delivery to claim.
    pub claim: DeliveryClaim,
    permit: Permit,
    observing: bool,
}

/// Decision about a request after its claim.
#[derive(Debug)]
pub enum AfterClaim {
    /// The request may be forwarded. The claim is kept only if the response is 2xx.
    Forward(Permit),
    /// The delivery is a duplicate, and is acknowledged without being forwarded.
    Acknowledge,
}

impl Gate {
    /// Compiles a policy for one side.
    ///
    /// # Errors
    /// Every reason for which the policy can't be used (see [`Policy::errors`]).
    pub fn compile(policy: &Policy, side: Side, now: UnixMillis) -> Result<Self, Vec<String>> {
        let mistakes = policy.errors(now);
        if !mistakes.is_empty() {
            return Err(mistakes);
        }

        let routes = policy
            .routes
            .iter()
            .map(|route| CompiledRoute::new(route, side))
            .collect::<Result<_, _>>();
        let routes = routes.map_err(|mistake| vec![mistake])?;
        let counts = side == Side::Relay;

        Ok(Self {
            side,
            client_rate: policy.client_rate.filter(|_| counts),
            rate: policy.rate.filter(|_| counts),
            operators_rate: None,
            lockout: policy.lockout.filter(|_| counts),
            routes,
        })
    }

    /// Returns the gate with this maximum rate for its tunnel, beside the policy's own.
    #[must_use]
    pub fn at_most(self, rate: Rate) -> Self {
        Self {
            operators_rate: Some(rate),
            ..self
        }
    }

    /// Runs every check that needs no body.
    ///
    /// # Errors
    /// The first check that refused.
    pub fn check_head(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        client: IpAddr,
        now: impl Into<Moment>,
        state: &GateState,
    ) -> Result<HeadVerdict, Refusal> {
        let now: Moment = now.into();
        self.check_shape(head)?;
        let barred = self.admit_client(client, now, state).err();
        let index = self.find_route(head)?;
        let Some(route) = self.routes.get(index) else {
            return Err(no_route());
        };
        let observing = route.observes(now.wall);
        let mut candidates = Vec::new();

        let mut furthest: Option<Refusal> = None;
        if let Some(refusal) = &barred
            && route
                .accept
                .iter()
                .any(|alternative| alternative.may_be_signed(head))
        {
            // A right signature lifts the bar, and to find it costs a body: so often may a barred
            // client try.
            let tries = Rate::per_second(BARRED_ATTEMPTS_PER_SECOND);
            state
                .admit(Counted::Barred(source(client)), tries, now.steady)
                .map_err(|_| refusal.clone())?;
        }

        let mut tries = false;
        for (number, alternative) in route.accept.iter().enumerate() {
            if let Some(refusal) = &barred
                && !alternative.may_be_signed(head)
            {
                furthest.get_or_insert_with(|| refusal.clone());
                continue;
            }

            tries |= barred.is_some() && alternative.needs_body();
            match alternative.check_head(&route.deny, head, client, now.wall, state, observing) {
                Ok(evidence) => candidates.push((number, evidence)),
                // The alternative that came furthest says the most about what is missing.
                Err(refusal) => furthest = Some(further(furthest, refusal)),
            }
        }

        // A barred client learns nothing of its token: right or wrong, its body is read before it
        // is refused.
        if candidates.is_empty() && !tries {
            return Err(barred.or(furthest).unwrap_or_else(no_route));
        }

        let inspection = Inspection::new(Arc::clone(&route.body_fields), Work::of_a_request());
        let pending = PendingBody {
            gate: Arc::clone(self),
            route: index,
            client,
            barred,
            candidates,
            inspection,
        };
        let request = Request::new(head, b"").inspected(&pending.inspection);
        if let Some(decision) = pending.answer_unsigned(&request, false, now, state)? {
            return Ok(HeadVerdict::Decided(decision));
        }

        // Without a failure first: an observed one is only taken when nothing better is there.
        let ready = |wanted: bool| {
            pending.candidates.iter().find(|(number, evidence)| {
                let needs = route
                    .accept
                    .get(*number)
                    .is_some_and(AcceptRule::needs_body);
                !needs && evidence.failed.is_none() == wanted
            })
        };

        let waits = pending.candidates.iter().any(|(number, evidence)| {
            evidence.failed.is_none()
                && route
                    .accept
                    .get(*number)
                    .is_some_and(AcceptRule::needs_body)
        });
        let found = ready(true).or_else(|| if waits { None } else { ready(false) });
        let Some((number, evidence)) = found.cloned() else {
            return Ok(HeadVerdict::ReadBody(pending));
        };
        if let Some(alternative) = route
            .accept
            .get(number)
            .filter(|_| evidence.failed.is_none())
            && let Some(decision) = pending.answer_of(alternative, &request, false, true)?
        {
            pending.admit_signed(&evidence, now, state)?;
            pending.gate.count(index, now, state)?;
            return Ok(HeadVerdict::Decided(decision));
        }

        pending
            .pass(evidence, &request, now, state)
            .map(HeadVerdict::Decided)
    }

    /// Escaped slashes are for the route that allows them; everything else is refused for all.
    fn check_shape(&self, head: RequestHead<'_>) -> Result<(), Refusal> {
        let slashes = self
            .routes
            .iter()
            .any(|route| route.settings.encoded_slashes && route.has_path(head.path()));

        syntax::check(
            head.target,
            head.headers,
            if slashes {
                EscapedSlashes::Allowed
            } else {
                EscapedSlashes::Refused
            },
        )
    }

    /// The named sets of addresses that it asks for.
    #[must_use]
    pub fn named_sets(&self) -> Vec<String> {
        let rules = |route: &CompiledRoute| {
            let allowed = route.accept.iter().filter_map(AcceptRule::allowed);
            allowed
                .chain([&route.deny])
                .flat_map(AddressRule::named)
                .cloned()
                .collect::<Vec<_>>()
        };
        self.routes.iter().flat_map(rules).collect()
    }

    /// Notes a refusal by a check that only strangers fail: who keeps failing is locked out.
    pub fn note_refusal(
        &self,
        refusal: &Refusal,
        client: IpAddr,
        now: impl Into<Moment>,
        state: &GateState,
    ) {
        let Some(lockout) = self.lockout else { return };
        let by_stranger = refusal.check == Check::Token || refusal.is_unverified;
        if by_stranger && !self.allows(client, state) {
            state.note_failure(client, lockout, now.into().steady);
        }
    }

    /// Finds causes of a wrong signature, for the tunnel's owner. Begins with the accept rules
    /// whose signature the request carries. `work` bounds the cost.
    #[must_use]
    pub fn diagnose(
        &self,
        request: &Request<'_>,
        keys: &FetchedKeys,
        now: UnixMillis,
        work: &Arc<Work>,
    ) -> Vec<String> {
        let Ok(index) = self.find_route(request.head) else {
            return Vec::new();
        };
        let Some(route) = self.routes.get(index) else {
            return Vec::new();
        };
        let accepts = self.routes.iter().flat_map(|route| &route.accept);
        let others: Vec<_> = accepts.flat_map(AcceptRule::secrets).cloned().collect();
        let mut alternatives: Vec<_> = route.accept.iter().collect();
        alternatives.sort_by_key(|alternative| !alternative.may_be_signed(request.head));

        let inspection = Inspection::new(Arc::clone(&route.body_fields), Arc::clone(work));
        let request = request.inspected(&inspection);
        alternatives
            .iter()
            .flat_map(|alternative| alternative.diagnose(&request, keys, &others, now))
            .collect()
    }

    fn admit_client(&self, client: IpAddr, now: Moment, state: &GateState) -> Result<(), Refusal> {
        if self.lockout.is_some()
            && let Some(wait) = state.locked_out(client, now.steady)
        {
            let reason = format!(
                "{client} failed too often, and is locked out for {} s more",
                wait.div_ceil(1000)
            );
            return Err(Refusal::new(Check::Lockout, Code::RateLimited, reason).after(wait));
        }

        let Some(rate) = self.client_rate else {
            return Ok(());
        };

        self.admit_at(Counted::Client(source(client)), client, rate, now, state)
    }

    fn admit_at(
        &self,
        what: Counted,
        client: IpAddr,
        rate: Rate,
        now: Moment,
        state: &GateState,
    ) -> Result<(), Refusal> {
        state.admit(what, rate, now.steady).map_err(|wait| {
            let reason = format!("{client} sends more than {rate}");
            Refusal::new(Check::ClientRate, Code::RateLimited, reason).after(wait)
        })
    }

    /// Counts against the rates of the route and of the tunnel, which strangers can't use up.
    fn count(&self, route: usize, now: Moment, state: &GateState) -> Result<(), Refusal> {
        let route_rate = self.routes.get(route).and_then(|route| route.rate);
        let rates = [
            (Counted::Route(route), route_rate, "this route"),
            (Counted::Tunnel, self.rate, "this tunnel"),
            (
                Counted::Operator,
                self.operators_rate,
                "every tunnel of this relay",
            ),
        ];
        for (what, rate, whose) in rates {
            let Some(rate) = rate else { continue };
            state.admit(what, rate, now.steady).map_err(|wait| {
                Refusal::new(
                    Check::Rate,
                    Code::RateLimited,
                    format!("{whose} gets more than {rate}"),
                )
                .after(wait)
            })?;
        }

        Ok(())
    }

    /// Returns `true` if an accept rule allows this address by name or range. Such an address is
    /// never locked out.
    fn allows(&self, client: IpAddr, state: &GateState) -> bool {
        let alternatives = self.routes.iter().flat_map(|route| &route.accept);
        alternatives
            .filter_map(AcceptRule::allowed)
            .any(|rule| rule.contains(client, state))
    }

    /// The first route whose path and method both match.
    fn find_route(&self, head: RequestHead<'_>) -> Result<usize, Refusal> {
        let path = head.path();
        let found = self.route_of(path, head.method);
        // An application that decodes an escaped slash first would see the path of another route.
        let escaped = found
            .and_then(|index| self.routes.get(index))
            .is_some_and(|route| route.settings.encoded_slashes)
            && has_escaped_slash(path);
        if escaped && self.route_of(&with_plain_slashes(path), head.method) != found {
            return Err(Refusal::malformed(
                "with its escaped slashes decoded, the path is another route's",
            ));
        }

        if let Some(index) = found {
            return Ok(index);
        }

        if self.routes.iter().any(|route| route.has_path(path)) {
            let reason = "a route has this path, but not this method";
            return Err(Refusal::new(Check::Method, Code::MethodNotAllowed, reason));
        }

        Err(Refusal {
            reason: self.no_path(),
            ..no_route()
        })
    }
}

impl Gate {
    /// The first route with this path and method.
    fn route_of(&self, path: &[u8], method: &Method) -> Option<usize> {
        self.routes
            .iter()
            .position(|route| route.has_path(path) && route.methods.contains(method))
    }

    /// The paths that are open, for an owner whose sender uses another one.
    fn no_path(&self) -> String {
        /// Paths that are named.
        const NAMED_PATHS: usize = 4;

        let all = || self.routes.iter().flat_map(|route| &route.settings.paths);
        let named = all()
            .take(NAMED_PATHS)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        let more = if all().count() > NAMED_PATHS {
            ", …"
        } else {
            ""
        };
        format!(
            "no route has this path; open are {named}{more} (--path, or path in the policy, opens another one)"
        )
    }
}

impl PendingBody {
    /// Most bytes that the body may have.
    #[must_use]
    pub fn max_body(&self) -> u64 {
        self.route().map_or(0, |route| route.settings.max_body)
    }

    /// Returns `true` if a check could need a public key that has to be fetched.
    #[must_use]
    pub fn may_want_keys(&self) -> bool {
        self.alternatives()
            .any(|(_, alternative)| alternative.may_want_keys())
    }

    /// The public keys that have to be fetched before the body is judged.
    #[must_use]
    pub fn wanted_keys(&self, head: RequestHead<'_>, body: &[u8]) -> Vec<WantedKey> {
        let request = Request::new(head, body).inspected(&self.inspection);
        let mut wanted: Vec<_> = self
            .alternatives()
            .flat_map(|(_, alternative)| alternative.wanted_keys(&request))
            .collect();
        wanted.sort();
        wanted.dedup();

        wanted
    }

    /// Bytes that the checks of this request have worked on so far.
    #[must_use]
    pub fn work(&self) -> Arc<Work> {
        Arc::clone(self.inspection.work())
    }

    /// Runs the checks of the body.
    ///
    /// # Errors
    /// Why no alternative accepts the request.
    pub fn check_body(
        self,
        head: RequestHead<'_>,
        body: &[u8],
        now: impl Into<Moment>,
        state: &GateState,
        keys: &FetchedKeys,
    ) -> Result<Decision, Refusal> {
        let now: Moment = now.into();
        let request = Request::new(head, body).inspected(&self.inspection);
        if let Some(decision) = self.answer_unsigned(&request, true, now, state)? {
            return Ok(decision);
        }

        let observing = self.route().is_some_and(|route| route.observes(now.wall));
        let mut furthest: Option<Refusal> = None;
        let mut observed = None;

        for (number, evidence) in &self.candidates {
            let Some(alternative) = self.route().and_then(|route| route.accept.get(*number)) else {
                continue;
            };
            match alternative.check_body(&request, evidence.clone(), keys, now.wall, observing) {
                Ok(evidence) if evidence.failed.is_none() => {
                    if let Some(decision) = self.answer_of(alternative, &request, true, true)? {
                        self.admit_signed(&evidence, now, state)?;
                        self.gate.count(self.route, now, state)?;
                        return Ok(decision);
                    }
                    return self.pass(evidence, &request, now, state);
                }
                Ok(evidence) => {
                    observed.get_or_insert(evidence);
                }
                Err(refusal) => furthest = Some(further(furthest, refusal)),
            }
        }

        match observed {
            Some(evidence) => self.pass(evidence, &request, now, state),
            None => Err(self.barred.or(furthest).unwrap_or_else(no_route)),
        }
    }

    /// A right signature passes a lockout, and counts apart from what strangers send from the same
    /// address. Whatever else passed does not lift a bar.
    fn admit_signed(
        &self,
        evidence: &Evidence,
        now: Moment,
        state: &GateState,
    ) -> Result<(), Refusal> {
        if !evidence.signed {
            return self.barred.clone().map_or(Ok(()), Err);
        }

        let Some(rate) = self.gate.client_rate else {
            return Ok(());
        };
        let source = source(self.client);
        let over_rate = self
            .barred
            .as_ref()
            .is_some_and(|refusal| refusal.check == Check::ClientRate);
        let locked_out = self
            .barred
            .as_ref()
            .is_some_and(|refusal| refusal.check == Check::Lockout);
        if !over_rate && !locked_out {
            state.give_back(Counted::Client(source), rate);
        }

        self.gate
            .admit_at(Counted::Signed(source), self.client, rate, now, state)
    }

    /// The answer to a challenge that no signature protects. Anybody can send one: each client has
    /// a rate of its own for them, and they use up no other.
    fn answer_unsigned(
        &self,
        request: &Request<'_>,
        has_body: bool,
        now: Moment,
        state: &GateState,
    ) -> Result<Option<Decision>, Refusal> {
        if self.barred.is_some() {
            return Ok(None);
        }

        let Some(decision) = self.answer(request, has_body, false)? else {
            return Ok(None);
        };

        if self.gate.side == Side::Relay {
            let what = Counted::Challenge(source(self.client));
            self.gate.admit_at(
                what,
                self.client,
                Rate::per_second(CHALLENGES_PER_SECOND),
                now,
                state,
            )?;
        }

        Ok(Some(decision))
    }

    fn route(&self) -> Option<&CompiledRoute> {
        self.gate.routes.get(self.route)
    }

    fn alternatives(&self) -> impl Iterator<Item = (usize, &AcceptRule)> {
        let route = self.route();
        self.candidates
            .iter()
            .filter_map(move |(number, _)| Some((*number, route?.accept.get(*number)?)))
    }

    /// The answer to a handshake that no signature protects, after address and token of its
    /// alternative.
    fn answer(
        &self,
        request: &Request<'_>,
        has_body: bool,
        signed: bool,
    ) -> Result<Option<Decision>, Refusal> {
        for (number, alternative) in self.alternatives() {
            let passed = self
                .candidates
                .iter()
                .any(|(other, evidence)| *other == number && evidence.failed.is_none());
            if passed
                && let Some(decision) = self.answer_of(alternative, request, has_body, signed)?
            {
                return Ok(Some(decision));
            }
        }

        Ok(None)
    }

    fn answer_of(
        &self,
        alternative: &AcceptRule,
        request: &Request<'_>,
        has_body: bool,
        signed: bool,
    ) -> Result<Option<Decision>, Refusal> {
        Ok(alternative
            .react(request, has_body, signed)?
            .map(|reaction| match reaction {
                ChallengeAction::Respond(answer) => Decision::Answer(answer),
                ChallengeAction::Pair(secret, answer) => Decision::Pair(secret, answer),
            }))
    }

    /// Every check of an alternative has passed: replay, and the rates at the end.
    fn pass(
        &self,
        evidence: Evidence,
        request: &Request<'_>,
        now: Moment,
        state: &GateState,
    ) -> Result<Decision, Refusal> {
        let Some(route) = self.route() else {
            return Err(no_route());
        };
        self.admit_signed(&evidence, now, state)?;

        let Evidence {
            mut tokens,
            secrets,
            mut identity,
            failed,
            ..
        } = evidence;

        // An id that nothing vouches for makes no other delivery of a signed one.
        if identity.iter().any(|part| part.signed) {
            identity.retain(|part| part.signed);
        }

        let identity: Vec<Vec<u8>> = identity.into_iter().map(|part| part.value).collect();
        // A right token goes, also when another alternative asked for it.
        for alternative in &route.accept {
            for spot in alternative.find_tokens(request.head) {
                if !tokens.contains(&spot) {
                    tokens.push(spot);
                }
            }
        }

        let permit = Permit {
            gate: Arc::clone(&self.gate),
            route: self.route,
            tokens,
            secrets,
            observed: failed,
        };

        match route.replay {
            Some(replay)
                if self.gate.side == Side::Relay
                    && permit.observed.is_none()
                    && !identity.is_empty() =>
            {
                let claim = DeliveryClaim::new(&route.settings.name, &identity, replay);
                Ok(Decision::Claim(PendingClaim {
                    claim,
                    permit,
                    observing: route.observes(now.wall),
                }))
            }
            _ => permit.counted(now, state).map(Decision::Forward),
        }
    }

    /// The gate whose verdict it is.
    #[must_use]
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }
}

impl PendingClaim {
    /// Judges the request by how its claim went.
    ///
    /// # Errors
    /// When it is refused as a duplicate, when nobody can tell, or when a rate is used up. A claim
    /// that was new is then to be given back.
    pub fn judged(
        self,
        claimed: Claimed,
        now: impl Into<Moment>,
        state: &GateState,
    ) -> Result<AfterClaim, Refusal> {
        let now: Moment = now.into();
        let mut permit = self.permit;
        let refusal = match (claimed, self.claim.on_duplicate) {
            (Claimed::New, _) => return permit.counted(now, state).map(AfterClaim::Forward),
            (Claimed::Pending, _) => {
                let reason = "whether this delivery came before can't be told now";
                Refusal::new(Check::Replay, Code::Overloaded, reason)
            }
            (Claimed::Duplicate, OnDuplicate::Acknowledge) if !self.observing => {
                return Ok(AfterClaim::Acknowledge);
            }
            (Claimed::Duplicate, _) => Refusal::failed(Check::Replay, "this delivery came before"),
        };

        if self.observing || self.claim.on_duplicate == OnDuplicate::Forward {
            permit.observed = Some(refusal);
            return permit.counted(now, state).map(AfterClaim::Forward);
        }

        Err(refusal)
    }
}

impl Permit {
    /// Returns the route's settings for forwarding.
    #[must_use]
    pub fn settings(&self) -> &RouteSettings {
        // A permit is made with the index of a route of its own gate, which never changes.
        static NONE: RouteSettings = RouteSettings {
            name: String::new(),
            max_body: 0,
            answer_timeout: Duration::ZERO,
            websocket: false,
            keep_token: false,
            encoded_slashes: false,
            paths: Vec::new(),
        };

        self.gate
            .routes
            .get(self.route)
            .map_or(&NONE, |route| &route.settings)
    }

    /// Returns the spans of the tokens that the agent must remove; none if the route keeps them.
    #[must_use]
    pub fn tokens_to_remove(&self) -> &[TokenSpan] {
        if self.settings().keep_token {
            &[]
        } else {
            &self.tokens
        }
    }

    /// The names of the secrets and tokens that were right: `env:NAME` or `file:PATH`.
    #[must_use]
    pub fn secrets(&self) -> &[String] {
        &self.secrets
    }

    /// The check that failed on a route that only observes.
    #[must_use]
    pub const fn observed(&self) -> Option<&Refusal> {
        self.observed.as_ref()
    }

    fn counted(self, now: Moment, state: &GateState) -> Result<Self, Refusal> {
        self.gate.count(self.route, now, state)?;
        Ok(self)
    }
}

/// Of two alternatives' refusals the one that came further; the other's reason stands behind it
/// where the check is the same.
fn further(before: Option<Refusal>, refusal: Refusal) -> Refusal {
    /// Bytes of a reason: what stands behind may be left out.
    const REASON: usize = 400;

    let Some(before) = before else { return refusal };
    let (near, far) = if before.progress() < refusal.progress() {
        (refusal, before)
    } else {
        (before, refusal)
    };
    if near.check != far.check
        || near.reason == far.reason
        || near.reason.len() + far.reason.len() > REASON
    {
        return near;
    }

    Refusal {
        reason: format!("{}; nor another alternative: {}", near.reason, far.reason),
        ..near
    }
}

fn no_route() -> Refusal {
    Refusal::new(Check::Path, Code::NotFound, "no route has this path")
}

impl CompiledRoute {
    /// Returns `true` if failed checks are only shown at this time.
    const fn observes(&self, now: UnixMillis) -> bool {
        matches!(self.mode, Mode::Observe { until } if now.seconds() < until)
    }

    fn new(route: &Route, side: Side) -> Result<Self, String> {
        let paths = route
            .paths
            .iter()
            .map(|path| PathPattern::parse(path))
            .collect::<Result<_, _>>()?;
        let remembers = side == Side::Relay && route.replay.is_some();
        let accept = route
            .accept
            .iter()
            .map(|accept| AcceptRule::new(accept, side, remembers));
        let accept = accept.collect::<Result<Vec<_>, _>>()?;

        let mut places = BodyFieldsBuilder::default();
        accept
            .iter()
            .for_each(|alternative| alternative.add_body_fields(&mut places));

        Ok(Self {
            settings: RouteSettings {
                name: route.name.clone(),
                max_body: route.max_body,
                answer_timeout: Duration::from_millis(route.answer_timeout_ms),
                websocket: route.websocket,
                keep_token: route.keep_token,
                encoded_slashes: route.encoded_slashes,
                paths: route.paths.clone(),
            },
            paths,
            methods: route.admitted_methods(),
            deny: AddressRule::new(&route.deny_ips),
            rate: route.rate.filter(|_| side == Side::Relay),
            replay: route.replay.filter(|_| side == Side::Relay),
            mode: route.mode,
            accept,
            body_fields: Arc::new(places.finish()),
        })
    }

    /// Returns `true` if one of its patterns matches this path.
    fn has_path(&self, path: &[u8]) -> bool {
        self.paths
            .iter()
            .any(|pattern| pattern.matches(path, self.settings.encoded_slashes))
    }
}
