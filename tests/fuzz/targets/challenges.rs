//! Challenges that are answered with the key of events: what is signed for anyone is no event.
#![no_main]

use std::sync::{Arc, LazyLock};

use hookward_core::clock::UnixMillis;
use hookward_core::secret::Secret;
use hookward_gate::engine::{Decision, Evaluation, Gate, GateState, HeadVerdict, Side};
use hookward_gate::policy::{Accept, ActiveSecret, Policy, Route, SignatureCheck};
use hookward_gate::request::RequestHead;
use http::{HeaderMap, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn gate(provider: &str, secret: &str) -> Arc<Gate> {
    let secret = Secret::new(secret.as_bytes().to_vec()).expect("a secret");
    let live = ActiveSecret {
        name: "env:SECRET".to_owned(),
        secret,
    };

    let check = SignatureCheck {
        secrets: vec![live],
        challenge: true,
        ..SignatureCheck::by(provider)
    };

    let mut route = Route::new("fuzz", vec!["/**".to_owned()]);
    route.accept.push(Accept {
        verify: vec![check],
        ..Accept::default()
    });

    Arc::new(Gate::compile(&Policy::new(vec![route]), Side::Relay, NOW).expect("a policy"))
}

static X: LazyLock<Arc<Gate>> = LazyLock::new(|| gate("x_twitter", "a secret of some length"));
static BRAINTREE: LazyLock<Arc<Gate>> = LazyLock::new(|| {
    gate(
        "braintree",
        r#"{"public_key":"public","private_key":"a secret of some length"}"#,
    )
});

fn judge(
    gate: &Arc<Gate>,
    method: &Method,
    target: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<Decision> {
    let head = RequestHead {
        method,
        target: target.as_bytes(),
        headers,
        origin: "https://h.test",
    };

    let (state, client) = (GateState::default(), [192, 0, 2, 1].into());
    match gate
        .check_head(head, Evaluation::new(client, NOW, &state))
        .ok()?
    {
        HeadVerdict::Decided(decision) => Some(decision),
        HeadVerdict::ReadBody(pending) => pending
            .check_body(head, body, Evaluation::new(client, NOW, &state))
            .ok(),
    }
}

/// Escapes a text for a query or a form.
fn escaped(text: &[u8]) -> String {
    text.iter().map(|byte| format!("%{byte:02X}")).collect()
}

fn asked(gate: &Arc<Gate>, name: &str, text: &[u8]) -> Option<Vec<u8>> {
    let target = format!("/in?{name}={}", escaped(text));
    match judge(gate, &Method::GET, &target, &HeaderMap::new(), b"")? {
        Decision::Answer(answer) => Some(answer.body.to_vec()),
        _ => None,
    }
}

fuzz_target!(|text: &[u8]| {
    if let Some(answer) = asked(&X, "crc_token", text) {
        let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
        let signature = answer["response_token"].as_str().expect("a signature");
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-twitter-webhooks-signature",
            HeaderValue::from_str(signature).expect("a field"),
        );
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let event = judge(&X, &Method::POST, "/in", &headers, text);
        assert!(event.is_none(), "a challenge of X is an event");
    }
    if let Some(answer) = asked(&BRAINTREE, "bt_challenge", text) {
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let form = format!(
            "bt_signature={}&bt_payload={}",
            escaped(&answer),
            escaped(text)
        );
        let event = judge(&BRAINTREE, &Method::POST, "/in", &headers, form.as_bytes());
        assert!(event.is_none(), "a challenge of Braintree's is an event");
    }
});
