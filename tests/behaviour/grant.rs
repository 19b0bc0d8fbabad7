//! Grants: what lets a gate permit a stored request again, and what does not. Reachability and all
//! checks follow the policy in force; a signature outlives its secret. The agent does not trust the
//! relay's grant.

use std::sync::Arc;

use hookward_core::clock::UnixMillis;
use hookward_core::reason::{Check, Refusal};
use hookward_gate::engine::{
    Decision, Evaluation, Gate, GateState, Grant, HeadVerdict, POLICY_CHANGED, Permit, Request,
    RequestHead, RetiredGate, Side,
};
use hookward_gate::policy::{Delivery, DeliveryMode, OnDuplicate, Policy, ReplayProtection};
use hookward_tests::sender::github_signature;
use hookward_tests::stage::policy;
use http::{HeaderMap, HeaderValue, Method};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const RECEIVED: UnixMillis = UnixMillis(1_800_000_000_000);
const NEXT_MORNING: UnixMillis = UnixMillis(RECEIVED.0 + 12 * HOUR);

const TARGET: &[u8] = b"/hooks/push?token=a-token-of-the-url";
const BODY: &[u8] = b"{\"ref\":\"refs/heads/main\"}";
const OLD: &str = "the secret until tonight";
const NEW: &str = "the secret since tonight";

/// Parts of a policy that change over night.
#[derive(Clone, Copy)]
struct Night<'n> {
    path: &'n str,
    method: &'n str,
    token: &'n str,
    provider: &'n str,
    secret: &'n str,
    deny: &'n str,
    stored: bool,
}

const EVENING: Night<'static> = Night {
    path: "/hooks/**",
    method: "POST",
    token: "a-token-of-the-url",
    provider: "github",
    secret: OLD,
    deny: "198.51.100.0/24",
    stored: true,
};

impl Night<'_> {
    fn policy(&self) -> Policy {
        let dir = tempfile::TempDir::new().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let mut policy = policy(&format!(
            "[[route]]\npath = '{}'\nmethods = ['{}']\ndeny_ips = ['{}']\n[[route.accept]]\n\
             token = 'file:{}'\nverify = {{ provider = '{}', secret = 'file:{}' }}",
            self.path,
            self.method,
            self.deny,
            file("token", self.token),
            self.provider,
            file("secret", self.secret),
        ));
        policy.routes[0].delivery = self.stored.then(|| Delivery {
            max_age_ms: DAY,
            ..Delivery::new(DeliveryMode::Preset)
        });
        policy
    }

    fn gate(&self, side: Side) -> Arc<Gate> {
        Arc::new(Gate::compile(&self.policy(), side, RECEIVED).unwrap())
    }
}

/// A signed request that was received in the evening.
struct Stored {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Stored {
    fn new() -> Self {
        let mut headers = HeaderMap::new();
        let text = std::str::from_utf8(BODY).unwrap();
        let signature = github_signature(OLD, text.as_bytes());
        headers.insert(
            "x-hub-signature-256",
            HeaderValue::from_str(&signature).unwrap(),
        );
        Self {
            headers,
            body: BODY.to_vec(),
        }
    }

    fn request(&self) -> Request<'_> {
        let head = RequestHead {
            method: &Method::POST,
            target: TARGET,
            headers: &self.headers,
            origin: "https://hooks.example.test",
        };
        Request::new(head, &self.body)
    }

    /// Permits it for the first time.
    fn permit(&self, gate: &Arc<Gate>, now: UnixMillis, state: &GateState) -> Permit {
        let request = self.request();
        let evaluation = evaluation(now, state);
        let Ok(HeadVerdict::ReadBody(pending)) = gate.check_head(request.head, evaluation) else {
            panic!("no body is needed")
        };
        match pending.check_body(request.head, request.body, evaluation) {
            Ok(Decision::Forward(permit)) => permit,
            Ok(_) => panic!("another decision"),
            Err(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Returns the relay's grant, as it is stored.
    fn grant(&self) -> Grant {
        let permit = self.permit(&EVENING.gate(Side::Relay), RECEIVED, &GateState::default());
        let json =
            serde_json::to_string(&permit.record().grant(&self.request(), RECEIVED)).unwrap();
        serde_json::from_str(&json).unwrap()
    }

    fn again(&self, night: Night<'_>, side: Side, now: UnixMillis) -> Result<Permit, Refusal> {
        let state = GateState::default();
        let gate = night.gate(side);
        gate.permit_again(&self.request(), &self.grant(), evaluation(now, &state), &[])
    }
}

fn evaluation(now: UnixMillis, state: &GateState) -> Evaluation<'_> {
    Evaluation::new("192.0.2.1".parse().unwrap(), now, state)
}

#[test]
fn an_unchanged_policy_permits_again_on_both_sides() {
    let stored = Stored::new();
    for side in [Side::Relay, Side::Agent] {
        let permit = stored.again(EVENING, side, NEXT_MORNING).unwrap();
        assert_eq!(permit.tokens_to_remove().len(), 1, "{side:?}");
        assert_eq!(
            permit.settings().max_age().map(|age| age.as_millis()),
            Some(DAY.into())
        );
    }
}

/// Whatever the policy in force does not permit is refused, with the check that refuses.
#[test]
fn everything_but_a_signature_follows_the_policy_in_force() {
    let changes = [
        (
            Check::Path,
            Night {
                path: "/other/**",
                ..EVENING
            },
        ),
        (
            Check::Method,
            Night {
                method: "PUT",
                ..EVENING
            },
        ),
        (
            Check::Token,
            Night {
                token: "another-token-of-the-url",
                ..EVENING
            },
        ),
        (
            Check::Signature,
            Night {
                provider: "slack",
                ..EVENING
            },
        ),
        (
            Check::Address,
            Night {
                deny: "192.0.2.0/24",
                ..EVENING
            },
        ),
    ];
    let stored = Stored::new();
    for (check, changed) in changes {
        for side in [Side::Relay, Side::Agent] {
            let refusal = stored.again(changed, side, NEXT_MORNING).unwrap_err();
            assert_eq!(refusal.check, check, "{side:?}: {refusal:?}");
            assert!(refusal.reason.starts_with(POLICY_CHANGED), "{refusal:?}");
        }
    }
}

#[test]
fn a_signature_outlives_its_secret_at_the_relay() {
    let retired = Night {
        secret: NEW,
        ..EVENING
    };
    assert!(
        Stored::new()
            .again(retired, Side::Relay, NEXT_MORNING)
            .is_ok()
    );
}

/// The agent has no grant of its own. It needs the gate that had the secret at receipt.
#[test]
fn a_signature_outlives_its_secret_at_the_agent_if_the_secret_was_in_force_at_receipt() {
    let stored = Stored::new();
    let retired = Night {
        secret: NEW,
        ..EVENING
    };
    let gate = retired.gate(Side::Agent);
    let again = |until: Option<u64>| {
        let state = GateState::default();
        let past: Vec<_> = until
            .map(|until| RetiredGate {
                gate: EVENING.gate(Side::Agent),
                until: UnixMillis(until),
            })
            .into_iter()
            .collect();
        let evaluation = evaluation(NEXT_MORNING, &state);
        gate.permit_again(&stored.request(), &stored.grant(), evaluation, &past)
    };

    assert!(again(Some(RECEIVED.0 + HOUR)).is_ok());
    for refused in [None, Some(RECEIVED.0 - HOUR)] {
        let refusal = again(refused).unwrap_err();
        assert_eq!(refusal.check, Check::Signature);
        assert!(refusal.reason.starts_with(POLICY_CHANGED), "{refusal:?}");
    }
}

/// A captured relay may send any grant.
#[test]
fn a_forged_grant_opens_nothing_at_the_agent() {
    let mut forged = Stored::new();
    forged.headers.insert(
        "x-hub-signature-256",
        HeaderValue::from_str(&github_signature("a guess", BODY)).unwrap(),
    );
    let mut grant = Stored::new().grant();
    grant.request = hookward_gate::engine::RequestDigest::of(&forged.request());

    let state = GateState::default();
    let evaluation = evaluation(NEXT_MORNING, &state);
    let refusal = EVENING
        .gate(Side::Agent)
        .permit_again(&forged.request(), &grant, evaluation, &[])
        .unwrap_err();
    assert_eq!(refusal.check, Check::Signature);
}

#[test]
fn a_grant_is_valid_for_its_own_request_only() {
    let (stored, grant) = (Stored::new(), Stored::new().grant());
    let changed = Stored {
        body: b"{\"ref\":\"refs/heads/evil\"}".to_vec(),
        ..Stored::new()
    };
    for side in [Side::Relay, Side::Agent] {
        let state = GateState::default();
        let evaluation = evaluation(NEXT_MORNING, &state);
        let gate = EVENING.gate(side);
        assert!(
            gate.permit_again(&stored.request(), &grant, evaluation, &[])
                .is_ok()
        );
        assert!(
            gate.permit_again(&changed.request(), &grant, evaluation, &[])
                .is_err()
        );
    }
}

#[test]
fn the_agent_accepts_a_time_of_receipt_on_storing_routes_and_within_their_age() {
    let stored = Stored::new();
    let late = UnixMillis(RECEIVED.0 + DAY + 1);
    let early = UnixMillis(RECEIVED.0 - HOUR);
    let plain = Night {
        stored: false,
        ..EVENING
    };

    for (night, now) in [(EVENING, late), (EVENING, early), (plain, NEXT_MORNING)] {
        let refusal = stored.again(night, Side::Agent, now).unwrap_err();
        assert_eq!(refusal.check, Check::Replay, "{refusal:?}");
    }
    // The relay decides about its own deliveries by its own settings.
    assert!(stored.again(EVENING, Side::Relay, late).is_ok());
}

/// With replay protection, a captured relay must not replay a webhook that the application has got,
/// however it arrived. Without it, a provider may send the same content twice.
#[test]
fn the_agent_refuses_what_it_has_processed() {
    let stored = Stored::new();
    let mut policy = EVENING.policy();
    policy.routes[0].replay = Some(ReplayProtection {
        on_duplicate: OnDuplicate::Acknowledge,
        window_ms: DAY,
    });
    let gate = Arc::new(Gate::compile(&policy, Side::Agent, RECEIVED).unwrap());
    let plain = EVENING.gate(Side::Agent);
    let twice = GateState::default();
    let permit = stored.permit(&plain, RECEIVED, &twice);
    permit.note_processed(evaluation(RECEIVED, &twice));
    let (request, grant) = (stored.request(), stored.grant());
    let evaluation_again = evaluation(NEXT_MORNING, &twice);
    assert!(
        plain
            .permit_again(&request, &grant, evaluation_again, &[])
            .is_ok()
    );

    let again = |state: &GateState, now| {
        let evaluation = evaluation(now, state);
        gate.permit_again(&stored.request(), &stored.grant(), evaluation, &[])
    };

    // It arrived at once, over the tunnel.
    let state = GateState::default();
    let permit = stored.permit(&gate, RECEIVED, &state);
    assert!(
        again(&state, NEXT_MORNING).is_ok(),
        "not while it is unknown if it was accepted"
    );
    permit.note_processed(evaluation(RECEIVED, &state));
    assert_eq!(
        again(&state, NEXT_MORNING).unwrap_err().check,
        Check::Replay
    );

    // It was delivered later: an attempt that failed may be repeated, one that succeeded may not.
    let state = GateState::default();
    let first = again(&state, NEXT_MORNING).unwrap();
    assert!(again(&state, NEXT_MORNING).is_ok());
    first.note_processed(evaluation(NEXT_MORNING, &state));
    assert_eq!(
        again(&state, NEXT_MORNING).unwrap_err().check,
        Check::Replay
    );
}

/// Returns the policy of two accept rules of one provider, of which the second requires a branch.
fn two_rules(first: &str, second: &str) -> Policy {
    let mut both = Night {
        secret: first,
        ..EVENING
    }
    .policy();
    let mut other = Night {
        secret: second,
        ..EVENING
    }
    .policy();
    both.routes[0].accept.append(&mut other.routes[0].accept);
    both
}

/// A leaked secret of one rule must not open another rule, at neither side.
#[test]
fn a_retired_secret_vouches_for_its_own_rule_only() {
    const OTHER: &str = "the secret of the other rule";

    let stored = Stored::new();
    let compile = |policy: &Policy, side| Arc::new(Gate::compile(policy, side, RECEIVED).unwrap());
    let state = GateState::default();
    let evaluation = evaluation(NEXT_MORNING, &state);
    let before = two_rules(OLD, OTHER);
    let swapped = two_rules(OTHER, NEW);

    let retired = RetiredGate {
        gate: compile(&before, Side::Agent),
        until: UnixMillis(RECEIVED.0 + HOUR),
    };
    let gate = compile(&two_rules(NEW, OTHER), Side::Agent);
    let (request, grant) = (stored.request(), stored.grant());
    let past = [retired];
    assert!(
        gate.permit_again(&request, &grant, evaluation, &past)
            .is_ok()
    );

    // The retired secret was that of the first rule, which now has the other's checks.
    let mut only_second = swapped.clone();
    only_second.routes[0].accept[0].verify[0].provider = Some("gitea".to_owned());
    let gate = compile(&only_second, Side::Agent);
    let refusal = gate
        .permit_again(&request, &grant, evaluation, &past)
        .unwrap_err();
    assert_eq!(refusal.check, Check::Signature);

    // At the relay, the grant names the rule that verified the signature.
    let mut moved = grant.clone();
    moved
        .signatures
        .iter_mut()
        .for_each(|signature| signature.rule = 1);
    let gate = compile(&two_rules(NEW, OTHER), Side::Relay);
    assert!(gate.permit_again(&request, &grant, evaluation, &[]).is_ok());
    let mut first_only = two_rules(NEW, OTHER);
    first_only.routes[0].accept.truncate(1);
    let gate = compile(&first_only, Side::Relay);
    assert!(
        gate.permit_again(&request, &moved, evaluation, &[])
            .is_err()
    );
}

/// A captured relay may claim that a request arrived while the route only observed.
#[test]
fn a_trial_that_is_over_cannot_be_claimed() {
    let mut policy = EVENING.policy();
    policy.routes[0].mode = hookward_gate::policy::Mode::Observe {
        until: RECEIVED.seconds() + 1,
    };
    let gate = Arc::new(Gate::compile(&policy, Side::Agent, RECEIVED).unwrap());
    let mut forged = Stored::new();
    forged.headers.clear();

    let mut grant = Stored::new().grant();
    grant.request = hookward_gate::engine::RequestDigest::of(&forged.request());
    let state = GateState::default();
    let again = gate.permit_again(
        &forged.request(),
        &grant,
        evaluation(NEXT_MORNING, &state),
        &[],
    );
    assert_eq!(again.unwrap_err().check, Check::Signature);
}
