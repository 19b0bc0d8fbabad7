//! The gate: a compiled policy, and the functions that decide.
//!
//! [`Gate::check_head`] runs the checks that need no body, [`PendingBody::check_body`] the others.
//! Both are pure: request, client address, `now` and state go in, and a verdict comes out. Only
//! they create a [`Permit`], and nothing is forwarded without one. Relay and agent run the same
//! code on the same policy.
//!
//! Order: syntax → lockout and client rate → route (the first whose path and method both match) →
//! address → token → content type and headers → body → signature → body rules → replay → rates of
//! route and tunnel. All checks of an accept rule must pass, and one accept rule is enough.
//!
//! Anyone can send from a provider's addresses with a webhook of their own. So a valid signature
//! passes lockout and client rate, and has a bucket of its own.

mod accept;
mod admit;
mod body;
mod body_rule;
pub mod dedup;
mod delivery;
mod evaluation;
pub mod explain;
mod grant;
mod header;
mod owner;
mod permit;
mod route;
mod signature;
pub mod state;
pub mod syntax;
pub mod token;

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use self::accept::{AcceptRule, AddressRule};
use self::admit::BARRED_ATTEMPTS_PER_SECOND;
pub use self::body::PendingBody;
use self::body::further;
pub use self::dedup::{Claimed, DeliveryClaim};
pub use self::delivery::{DeliveryFacts, OrderingKey, PermitRecord};
pub use self::evaluation::Evaluation;
pub use self::grant::{CLOCK_TOLERANCE_MS, Grant, POLICY_CHANGED, RequestDigest, RetiredGate};
pub use self::permit::{AfterClaim, Decision, HeadVerdict, PendingClaim, Permit, RouteSettings};
use self::route::{CompiledRoute, no_route};
pub use self::signature::{VerifiedSignature, WantedKey};
pub use self::state::{Counted, GateState};
pub use self::token::TokenSpan;
use crate::inspection::{Inspection, Work};
use crate::policy::{Lockout, Policy};
pub use crate::request::{Request, RequestHead};
use hookward_core::address::source;
use hookward_core::clock::UnixMillis;
use hookward_core::rate::Rate;
use hookward_core::reason::{Check, Code, Refusal};
use hookward_core::syntax::{EscapedSlashes, has_escaped_slash, with_plain_slashes};

/// Side of a gate. Only the relay counts requests, remembers deliveries and has named sets. Only
/// the agent checks a signing secret that never leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Gate of the relay.
    Relay,
    /// Gate of the agent.
    Agent,
}

/// A compiled policy.
pub struct Gate {
    side: Side,
    client_rate: Option<Rate>,
    rate: Option<Rate>,
    /// Operator's maximum rate of every tunnel.
    operators_rate: Option<Rate>,
    /// Maximum rate that the operator gives the tunnels of this agent.
    agents_rate: Option<Rate>,
    lockout: Option<Lockout>,
    routes: Vec<CompiledRoute>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate({} routes)", self.routes.len())
    }
}

impl Gate {
    /// Compiles a policy for one side.
    ///
    /// # Errors
    /// All reasons why the policy is unusable (see [`Policy::errors`]).
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
        let routes = routes.map_err(|mistake| vec![mistake.into()])?;
        let counts = side == Side::Relay;

        Ok(Self {
            side,
            client_rate: policy.client_rate.filter(|_| counts),
            rate: policy.rate.filter(|_| counts),
            operators_rate: None,
            agents_rate: None,
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

    /// Returns the gate with this maximum rate for the tunnels of its agent, beside the others.
    #[must_use]
    pub fn at_most_for_agent(self, rate: Option<Rate>) -> Self {
        Self {
            agents_rate: rate,
            ..self
        }
    }

    /// Runs every check that needs no body.
    ///
    /// # Errors
    /// The first refusal.
    pub fn check_head(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        evaluation: Evaluation<'_>,
    ) -> Result<HeadVerdict, Refusal> {
        self.check_shape(head)?;
        let barred = self.admit_client(evaluation).err();
        let index = self.find_route(head)?;
        let Some(route) = self.routes.get(index) else {
            return Err(no_route());
        };
        let evaluation = route.evaluation(evaluation);
        let mut candidates = Vec::new();

        let mut furthest: Option<Refusal> = None;
        if let Some(refusal) = &barred
            && route.accept.iter().any(|rule| rule.may_be_signed(head))
        {
            // A valid signature passes the bar, but checking it costs a body, so the number of
            // attempts is bounded.
            let tries = Rate::per_second(BARRED_ATTEMPTS_PER_SECOND);
            let bucket = Counted::Barred(source(evaluation.client));
            evaluation
                .state
                .admit(bucket, tries, evaluation.now.steady)
                .map_err(|_| refusal.clone())?;
        }

        let mut tries = false;
        for (number, rule) in route.accept.iter().enumerate() {
            if let Some(refusal) = &barred
                && !rule.may_be_signed(head)
            {
                furthest.get_or_insert_with(|| refusal.clone());
                continue;
            }

            tries |= barred.is_some() && rule.needs_body();
            match rule.check_head(&route.deny, head, evaluation) {
                Ok(evidence) => candidates.push((number, evidence)),
                // The accept rule with the most progress gives the most useful reason.
                Err(refusal) => furthest = Some(further(furthest, refusal)),
            }
        }

        // A barred client learns nothing about its token: its body is read before the refusal,
        // whether the token matches or not.
        if candidates.is_empty() && !tries {
            return Err(barred.or(furthest).unwrap_or_else(no_route));
        }

        let inspection = Inspection::new(Arc::clone(&route.body_fields), Work::of_a_request());
        let pending = PendingBody {
            gate: Arc::clone(self),
            route: index,
            barred,
            candidates,
            inspection,
        };
        let request = Request::new(head, b"").inspected(&pending.inspection);
        if let Some(decision) = pending.answer_unsigned(&request, false, evaluation)? {
            return Ok(HeadVerdict::Decided(decision));
        }

        // Rules without failures first; an observed failure is used only without them.
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
        if let Some(rule) = route
            .accept
            .get(number)
            .filter(|_| evidence.failed.is_none())
            && let Some(decision) = pending.answer_of(rule, &request, false, true)?
        {
            pending.admit_signed(&evidence, evaluation)?;
            pending.gate.count(index, evaluation)?;
            return Ok(HeadVerdict::Decided(decision));
        }

        pending
            .pass(evidence, &request, evaluation)
            .map(HeadVerdict::Decided)
    }

    /// Runs the syntax checks. Only a route that allows escaped slashes accepts them.
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

    /// Returns the settings of the route that the request would take, if it has one.
    #[must_use]
    pub fn settings_for(&self, head: RequestHead<'_>) -> Option<&RouteSettings> {
        let route = self.find_route(head).ok()?;
        Some(self.settings_of(route))
    }

    /// Returns the settings of a route.
    fn settings_of(&self, route: usize) -> &RouteSettings {
        // A permit has the index of a route of its own gate, which never changes.
        static NONE: RouteSettings = RouteSettings {
            name: String::new(),
            max_body: 0,
            answer_timeout: Duration::ZERO,
            websocket: false,
            keep_token: false,
            encoded_slashes: false,
            paths: Vec::new(),
            delivery: None,
        };

        let route = self.routes.get(route);
        route.map_or(&NONE, |route| &route.settings)
    }

    /// Returns the named address sets of the policy.
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

    /// Finds causes of a wrong signature, for the tunnel's owner. Starts with the accept rules
    /// whose signature the request has. `work` bounds the cost.
    #[must_use]
    pub fn diagnose(
        &self,
        request: &Request<'_>,
        evaluation: Evaluation<'_>,
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
        let mut rules: Vec<_> = route.accept.iter().collect();
        rules.sort_by_key(|rule| !rule.may_be_signed(request.head));

        let inspection = Inspection::new(Arc::clone(&route.body_fields), Arc::clone(work));
        let request = request.inspected(&inspection);
        rules
            .iter()
            .flat_map(|rule| rule.diagnose(&request, &others, evaluation))
            .collect()
    }

    /// Returns the first route whose path and method both match.
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
    /// Returns the first route with this path and method.
    fn route_of(&self, path: &[u8], method: &Method) -> Option<usize> {
        self.routes
            .iter()
            .position(|route| route.has_path(path) && route.methods.contains(method))
    }

    /// Describes the allowed paths, for an owner whose sender uses another one.
    fn no_path(&self) -> String {
        /// Maximum number of paths in the description.
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
