//! Properties of the gate over generated policies and requests: it decides like a slow and obvious
//! reference, and no input makes it panic.

use std::net::IpAddr;
use std::sync::Arc;

use hookward_core::clock::UnixMillis;
use hookward_core::json::JsonPath;
use hookward_core::reason::Refusal;
use hookward_core::secret::{Secret, SecretDigest};
use hookward_gate::engine::{
    Decision, Evaluation, Gate, GateState, HeadVerdict, RequestHead, Side,
};
use hookward_gate::policy::{
    Accept, ActiveSecret, BodyRule, HeaderRule, Policy, Route, SignatureCheck, TokenCheck,
    TokenLocation,
};
use hookward_gate::providers;
use hookward_tests::sender::github_signature;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use proptest::sample::select;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const KEY: &str = "the key";

/// Checks of an accept rule, each present or not.
#[derive(Debug, Clone)]
struct Checks {
    allow: Option<&'static str>,
    token: bool,
    signature: bool,
    json: bool,
    event: bool,
    rule: bool,
}

#[derive(Debug, Clone)]
struct Way {
    path: &'static str,
    method: Option<&'static str>,
    deny: Option<&'static str>,
    alternatives: Vec<Checks>,
}

#[derive(Debug, Clone)]
struct Sent {
    path: &'static str,
    method: &'static str,
    client: &'static str,
    /// Tokens in the query.
    tokens: Vec<&'static str>,
    /// Key and body that were signed.
    signed: Option<(&'static str, &'static str)>,
    kind: Option<&'static str>,
    event: Option<&'static str>,
    body: &'static str,
}

fn checks() -> impl Strategy<Value = Checks> {
    let allow = proptest::option::of(select(vec!["192.0.2.0/24", "10.0.0.0/8"]));
    (allow, any::<[bool; 5]>()).prop_map(|(allow, [token, signature, json, event, rule])| Checks {
        allow,
        token,
        signature,
        json,
        event,
        rule,
    })
}

fn ways() -> impl Strategy<Value = Vec<Way>> {
    let path = select(vec!["/a", "/a/*", "/a/**", "/b/x", "/**"]);
    let method = proptest::option::of(select(vec!["POST", "PUT"]));
    let deny = proptest::option::of(select(vec!["10.0.0.0/8", "192.0.2.7/32"]));
    let way = (
        path,
        method,
        deny,
        proptest::collection::vec(checks(), 1..3),
    );
    let way = way.prop_map(|(path, method, deny, alternatives)| Way {
        path,
        method,
        deny,
        alternatives,
    });
    proptest::collection::vec(way, 1..4)
}

fn sent() -> impl Strategy<Value = Sent> {
    let bodies = || {
        select(vec![
            r#"{"ref":"main"}"#,
            r#"{"ref":"dev"}"#,
            r#"{"ref":"main","Ref":"dev"}"#,
            "",
            "no JSON",
        ])
    };

    (
        select(vec!["/a", "/a/x", "/a/x/y", "/b/x", "/b", "/c"]),
        select(vec!["POST", "PUT", "GET"]),
        select(vec![
            "192.0.2.7",
            "192.0.2.8",
            "10.1.2.3",
            "198.51.100.1",
            "::ffff:10.1.2.3",
        ]),
        proptest::collection::vec(select(vec!["right", "wrong", ""]), 0..3),
        proptest::option::of((select(vec![KEY, "another"]), bodies())),
        proptest::option::of(select(vec![
            "application/json",
            "Application/JSON; charset=utf-8",
            "text/plain",
        ])),
        proptest::option::of(select(vec!["push", "Push", "ping"])),
        bodies(),
    )
        .prop_map(
            |(path, method, client, tokens, signed, kind, event, body)| Sent {
                path,
                method,
                client,
                tokens,
                signed,
                kind,
                event,
                body,
            },
        )
}

fn live(name: &str, secret: &str) -> ActiveSecret {
    ActiveSecret {
        name: name.to_owned(),
        secret: Secret::new(secret.as_bytes().to_vec()).unwrap(),
    }
}

fn policy_of(ways: &[Way]) -> Policy {
    let accept = |checks: &Checks| {
        let mut accept = Accept {
            allow_ips: checks
                .allow
                .map(|range| vec![range.parse().unwrap()].into()),
            ..Accept::default()
        };

        accept.token = checks.token.then(|| {
            TokenCheck::new(
                TokenLocation::parse("token").unwrap(),
                &[("env:TOKEN", SecretDigest::of(b"right"))],
            )
        });

        if checks.signature {
            accept.verify = vec![SignatureCheck {
                secrets: vec![live("env:KEY", KEY)],
                ..SignatureCheck::by("github")
            }];
        }

        if checks.json {
            accept.content_types = vec!["application/json".to_owned()];
        }

        if checks.event {
            let name = HeaderName::from_static("x-event");
            accept.headers = vec![HeaderRule {
                name,
                allowed: vec!["push".to_owned()],
            }];
        }

        if checks.rule {
            accept.body = vec![BodyRule {
                path: JsonPath::parse("ref").unwrap(),
                allowed: vec!["main".to_owned()],
            }];
        }

        accept.open = !accept.is_protected();
        accept
    };

    let route = |(number, way): (usize, &Way)| {
        let mut route = Route::new(number.to_string(), vec![way.path.to_owned()]);
        route.methods = way
            .method
            .iter()
            .map(|method| (*method).to_owned())
            .collect();

        route.deny_ips = way
            .deny
            .iter()
            .map(|range| range.parse().unwrap())
            .collect::<Vec<_>>()
            .into();
        route.accept = way.alternatives.iter().map(accept).collect();

        route
    };
    Policy::new(ways.iter().enumerate().map(route).collect())
}

/// The design, written out literally.
fn reference(ways: &[Way], sent: &Sent) -> bool {
    let client = match sent.client {
        "::ffff:10.1.2.3" => "10.1.2.3",
        client => client,
    };
    let within = |range: &str| match range {
        "192.0.2.0/24" => client.starts_with("192.0.2."),
        "10.0.0.0/8" => client.starts_with("10."),
        "192.0.2.7/32" => client == "192.0.2.7",
        _ => unreachable!(),
    };

    let matches = |way: &&Way| {
        let path = match way.path {
            "/a/*" => sent.path == "/a/x",
            "/a/**" => sent.path == "/a" || sent.path.starts_with("/a/"),
            "/**" => true,
            exact => exact == sent.path,
        };
        path && way.method.is_none_or(|method| method == sent.method)
    };
    let Some(way) = ways.iter().find(matches) else {
        return false;
    };
    if way.deny.is_some_and(within) {
        return false;
    }

    way.alternatives.iter().any(|checks| {
        let address = checks.allow.is_none_or(within);
        let token = !checks.token || sent.tokens == ["right"];
        let signature = !checks.signature || sent.signed == Some((KEY, sent.body));
        let kind = sent
            .kind
            .is_some_and(|kind| kind.to_lowercase().starts_with("application/json"));
        let event = !checks.event || sent.event == Some("push");
        let rule = !checks.rule || sent.body == r#"{"ref":"main"}"#;
        address && token && signature && (!checks.json || kind) && event && rule
    })
}

fn judge(
    gate: &Arc<Gate>,
    head: RequestHead<'_>,
    client: IpAddr,
    body: &[u8],
) -> Result<Decision, Refusal> {
    let state = GateState::default();
    match gate.check_head(head, Evaluation::new(client, NOW, &state))? {
        HeadVerdict::Decided(decision) => Ok(decision),
        HeadVerdict::ReadBody(pending) => {
            let _ = pending.wanted_keys(head, body);
            pending.check_body(head, body, Evaluation::new(client, NOW, &state))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_gate_decides_as_the_reference_does(ways in ways(), sent in sent()) {
        // An invalid policy is refused before any request.
        let Ok(gate) = Gate::compile(&policy_of(&ways), Side::Relay, NOW) else { return Ok(()) };
        let gate = Arc::new(gate);
        let mut headers = HeaderMap::new();
        if let Some((key, body)) = sent.signed {
            headers.insert("x-hub-signature-256", github_signature(key, body.as_bytes()).parse().unwrap());
        }
        for (name, value) in [("content-type", sent.kind), ("x-event", sent.event)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        let query: Vec<_> = sent.tokens.iter().map(|token| format!("token={token}")).collect();
        let target = if query.is_empty() { sent.path.to_owned() } else { format!("{}?{}", sent.path, query.join("&")) };
        let method = Method::from_bytes(sent.method.as_bytes()).unwrap();
        let head = RequestHead { method: &method, target: target.as_bytes(), headers: &headers, origin: "https://h.test" };
        let allowed = judge(&gate, head, sent.client.parse().unwrap(), sent.body.as_bytes());
        prop_assert_eq!(allowed.is_ok(), reference(&ways, &sent), "{:?}", allowed.err());
    }

    #[test]
    fn no_input_makes_the_gate_panic(
        row in 0..providers::all().len(),
        target in proptest::collection::vec(any::<u8>(), 0..64),
        fields in proptest::collection::vec(("[a-z-]{1,24}", proptest::collection::vec(any::<u8>(), 0..64)), 0..6),
        body in proptest::collection::vec(any::<u8>(), 0..256),
    ) {
        let row = &providers::all()[row];
        let secret = r#"{"secret":"s","token":"t","username":"u","password":"p"}"#;
        let check = SignatureCheck { secrets: vec![live("env:S", secret)], ..SignatureCheck::by(&row.id) };
        let challenge = !row.challenges.is_empty();
        let mut route = Route::new("all", vec!["/**".to_owned()]);
        route.accept = vec![Accept { verify: vec![SignatureCheck { challenge, ..check }], ..Accept::default() }];
        let Ok(gate) = Gate::compile(&Policy::new(vec![route]), Side::Relay, NOW) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        for (name, value) in &fields {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_bytes(value)) {
                headers.append(name, value);
            }
        }
        let target = [b"/", target.as_slice()].concat();
        let head = RequestHead { method: &Method::POST, target: &target, headers: &headers, origin: "https://h.test" };
        let verdict = judge(&Arc::new(gate), head, [192, 0, 2, 1].into(), &body);
        prop_assert!(!matches!(verdict, Ok(Decision::Forward(_))), "{} lets a stranger in", row.id);
    }
}
