//! Signatures of every provider: a row, then the value of each field that it reads, then the body,
//! of batches, too. Nothing passes without the secret.
#![no_main]

use std::sync::{Arc, LazyLock};

use hookward_core::clock::UnixMillis;
use hookward_core::limits::DOCTOR_BYTES;
use hookward_core::secret::Secret;
use hookward_gate::engine::{Decision, Evaluation, Gate, GateState, HeadVerdict, Side};
use hookward_gate::inspection::Work;
use hookward_gate::policy::{Accept, ActiveSecret, Policy, Route, SignatureCheck};
use hookward_gate::providers;
use hookward_gate::request::{Request, RequestHead};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// The gate of each row whose secret is a text, and the headers that it reads.
static GATES: LazyLock<Vec<(Arc<Gate>, Vec<HeaderName>)>> = LazyLock::new(|| {
    let gates = providers::all().iter().filter_map(|row| {
        let secret =
            Secret::new(b"whsec_NzQ3MTQ3MTQ3MTQ3MTQ3MTQ3MTQ3MTQ3MTQ3MTQ3MTQ3MTQ3MTQ3".to_vec())?;
        let live = ActiveSecret {
            name: "env:SECRET".to_owned(),
            secret,
        };

        let check = SignatureCheck {
            secrets: vec![live],
            challenge: false,
            ..SignatureCheck::by(&row.id)
        };
        let text = serde_json::to_string(&check.schemes().ok()?).ok()?;
        let headers = text.split("header:").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')?;
            rest.get(..end)?.parse().ok()
        });
        let headers = headers.collect();

        let mut route = Route::new("fuzz", vec!["/**".to_owned()]);
        route.accept.push(Accept {
            verify: vec![check],
            ..Accept::default()
        });

        Some((
            Arc::new(Gate::compile(&Policy::new(vec![route]), Side::Relay, NOW).ok()?),
            headers,
        ))
    });
    gates.collect()
});

fuzz_target!(|data: &[u8]| {
    let Some(([row, ..], data)) = data.split_at_checked(1) else {
        return;
    };
    let gates = &*GATES;
    assert!(gates.len() > 150, "{} rows", gates.len());
    // Two rows for each byte: the parity of the data chooses.
    let index = usize::from(*row) + if data.len() % 2 == 1 { 256 } else { 0 };
    let (gate, names) = &gates[index % gates.len()];
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in names {
        let Some(value) = lines.next() else { break };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(name, value);
        }
    }
    let body = lines.collect::<Vec<_>>().join(&b'\n');
    let head = RequestHead {
        method: &Method::POST,
        target: b"/in?id=1",
        headers: &headers,
        origin: "https://h.test",
    };
    let (state, client) = (GateState::default(), [192, 0, 2, 1].into());
    let verdict = match gate.check_head(head, Evaluation::new(client, NOW, &state)) {
        Ok(HeadVerdict::Decided(decision)) => Ok(decision),
        Ok(HeadVerdict::ReadBody(pending)) => {
            let _ = pending.wanted_keys(head, &body);
            pending.check_body(head, &body, Evaluation::new(client, NOW, &state))
        }
        Err(refusal) => Err(refusal),
    };
    match verdict {
        Ok(Decision::Forward(_) | Decision::Claim(_)) => panic!("row {index} lets a stranger in"),
        // Some providers test their connection by a request with a fixed response.
        Ok(Decision::Answer(answer)) => assert!(
            answer.body.is_empty(),
            "row {index} answers, and was not asked to"
        ),
        Ok(Decision::Pair(..)) => panic!("row {index} takes a secret of a stranger's"),
        Err(_) => drop(gate.diagnose(
            &Request::new(head, &body),
            Evaluation::new(client, NOW, &state),
            &Work::up_to(DOCTOR_BYTES),
        )),
    }
});
