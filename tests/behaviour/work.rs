//! Cost of unverified requests, counted in bytes by the gate itself, without a clock.

use hookward_core::clock::UnixMillis;
use hookward_core::limits::{DOCTOR_BYTES, MIB};
use hookward_gate::engine::{Evaluation, Gate, GateState, HeadVerdict, Request, RequestHead, Side};
use hookward_gate::inspection::{Kind, Work};
use hookward_gate::policy::{Policy, file};
use hookward_runtime::secrets::ProcessSecrets;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::sync::Arc;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const TARGET: &[u8] = b"/flexdeploy/webhooks/v1";

/// Reads a policy whose secrets are `secret` and a number.
fn read(text: &str, secrets: usize) -> Result<Policy, String> {
    let dir = tempfile::TempDir::new().unwrap();
    for number in 0..secrets {
        std::fs::write(
            dir.path().join(format!("secret{number}")),
            format!("secret {number}"),
        )
        .unwrap();
    }

    let text = text.replace("DIR", &dir.path().display().to_string());
    file::read("p.toml", &text, &ProcessSecrets, NOW)
        .map(|read| read.policy)
        .map_err(|problems| problems.to_string())
}

fn gate(text: &str) -> Arc<Gate> {
    Arc::new(Gate::compile(&read(text, 1).unwrap(), Side::Relay, NOW).unwrap())
}

fn verifying(provider: &str) -> String {
    format!(
        "[[route]]\npath = '/**'\naccept.verify = {{ provider = '{provider}', secret = 'file:DIR/secret0' }}"
    )
}

/// Returns a list of signed fields that names two of them repeatedly, beside a large one.
fn bomb() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let names = format!("x-contentful-timestamp{}", ",a".repeat(7900));

    for (name, value) in [
        ("x-contentful-signature", "00".to_owned()),
        ("x-contentful-timestamp", NOW.0.to_string()),
        ("x-contentful-signed-headers", names),
        ("a", "x".repeat(15_600)),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(&value).unwrap(),
        );
    }

    headers
}

#[test]
fn a_list_of_signed_fields_is_no_bomb() {
    let headers = bomb();
    let head = RequestHead {
        method: &Method::POST,
        target: TARGET,
        headers: &headers,
        origin: "https://h.example",
    };

    let (state, client) = (GateState::default(), "192.0.2.1".parse().unwrap());
    let gate = gate(&verifying("contentful"));
    let Ok(HeadVerdict::ReadBody(pending)) =
        gate.check_head(head, Evaluation::new(client, NOW, &state))
    else {
        panic!("no body")
    };
    let work = pending.work();
    let refusal = pending
        .check_body(head, b"{}", Evaluation::new(client, NOW, &state))
        .err()
        .unwrap();
    assert!(refusal.reason.contains("signed"), "{}", refusal.reason);

    assert!(work.total() < MIB, "{} bytes", work.total());
    // The doctor tries other providers by the fields in the request, also for a route of GitHub's.
    for provider in ["github", "contentful"] {
        let work = Work::up_to(DOCTOR_BYTES);
        let gate = self::gate(&verifying(provider));
        let hints = gate.diagnose(
            &Request::new(head, b"{}"),
            Evaluation::new(client, NOW, &state),
            &work,
        );
        assert!(
            work.total() < MIB,
            "{provider}: {} bytes; {hints:?}",
            work.total()
        );
    }
}

/// The doctor's work is bounded for every input.
#[test]
fn the_cost_of_a_diagnosis_is_bounded() {
    const KINDS: u64 = 3;

    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20));
    for provider in ["github", "linear", "slack", "stripe", "twilio", "square"] {
        let mut headers = HeaderMap::new();
        for name in [
            "x-hub-signature-256",
            "linear-signature",
            "x-slack-signature",
            "stripe-signature",
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static("sha256=00"),
            );
        }

        let head = RequestHead {
            method: &Method::POST,
            target: TARGET,
            headers: &headers,
            origin: "https://h.example",
        };

        let (state, client) = (GateState::default(), "192.0.2.1".parse().unwrap());
        let work = Work::up_to(DOCTOR_BYTES);
        let gate = gate(&verifying(provider));
        let _ = gate.diagnose(
            &Request::new(head, body.as_bytes()),
            Evaluation::new(client, NOW, &state),
            &work,
        );

        assert!(
            work.total() <= KINDS * DOCTOR_BYTES,
            "{provider}: {}",
            work.total()
        );
    }
}

#[test]
fn equal_checks_are_made_once() {
    // The same secret in several accept rules is one key.
    let accept =
        "[[route.accept]]\nverify = { provider = 'websub', secret = 'file:DIR/secret0' }\n";
    let gate = gate(&format!("[[route]]\npath = '/**'\n{}", accept.repeat(20)));
    let mut headers = HeaderMap::new();
    headers.insert("x-hub-signature", HeaderValue::from_static("sha512=00"));

    let head = RequestHead {
        method: &Method::POST,
        target: TARGET,
        headers: &headers,
        origin: "https://h.example",
    };

    let (state, client) = (GateState::default(), "192.0.2.1".parse().unwrap());
    let body = vec![b'x'; 1 << 20];
    let Ok(HeadVerdict::ReadBody(pending)) =
        gate.check_head(head, Evaluation::new(client, NOW, &state))
    else {
        panic!("no body")
    };
    let work = pending.work();

    assert!(
        pending
            .check_body(head, &body, Evaluation::new(client, NOW, &state))
            .is_err()
    );

    // One for each hash function that the provider may use.
    assert!(
        work.used(Kind::Hashed) <= 4 * body.len() as u64 + MIB,
        "{}",
        work.used(Kind::Hashed)
    );
}

#[test]
fn a_policy_that_could_cost_too_much_is_refused() {
    let accept = |number: usize, count: usize| {
        let secrets: Vec<_> = (0..count)
            .map(|n| format!("'file:DIR/secret{}'", number * count + n))
            .collect();
        format!(
            "[[route.accept]]\nverify = {{ provider = 'websub', secrets = [{}] }}\n",
            secrets.join(", ")
        )
    };

    let policy = |alternatives: usize, secrets: usize, more: &str| {
        let accepts: String = (0..alternatives)
            .map(|number| accept(number, secrets))
            .collect();
        read(
            &format!("[[route]]\npath = '/**'\n{more}{accepts}"),
            alternatives * secrets,
        )
    };
    let refused = policy(32, 8, "").err().unwrap();
    assert!(
        refused.contains("MiB of hashing") && refused.contains("smaller max_body"),
        "{refused}"
    );

    assert!(
        policy(32, 8, "max_body = '256KiB'\n").is_ok(),
        "the remedy works"
    );
    assert!(policy(2, 4, "").is_ok());
}
