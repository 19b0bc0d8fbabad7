//! Redaction: it ends, fits its input, and leaves no secret of a policy.
#![no_main]

use std::sync::LazyLock;

use hookward_core::secret::Secret;
use hookward_gate::policy::{Accept, ActiveSecret, Policy, Route, SignatureCheck};
use hookward_gate::redaction::Redaction;
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "a-secret-of-some-length";

static RULES: LazyLock<Redaction> = LazyLock::new(|| {
    let mut check = SignatureCheck::by("gitlab");
    check.secrets.push(ActiveSecret {
        name: "env:SECRET".to_owned(),
        secret: Secret::new(SECRET.as_bytes().to_vec()).expect("a secret"),
    });
    let mut route = Route::new("fuzz", vec!["/**".to_owned()]);
    route.accept.push(Accept {
        verify: vec![check],
        ..Accept::default()
    });
    Redaction::of(&Policy::new(vec![route]), &[])
});

const KINDS: [&str; 5] = [
    "",
    "application/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "multipart/form-data; boundary=x",
];

fuzz_target!(|data: &[u8]| {
    let is_there = |shown: &[u8]| {
        let mut windows = shown.windows(SECRET.len());
        windows.any(|window| window == SECRET.as_bytes())
    };
    for kind in KINDS {
        let shown = RULES.redacted().body(kind, data, false).into_owned();
        assert!(!is_there(&shown), "{kind}");
    }
    let shown = RULES.redacted().target(data).into_owned();
    assert!(!is_there(&shown));
});
