//! The token in the query: a valid one is found in one place, and removed without a trace.
#![no_main]

use hookward_core::secret::SecretDigest;
use hookward_gate::engine::token::{self, TokenSpan};
use hookward_gate::policy::{TokenCheck, TokenLocation};
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &[u8]| {
    let target = [b"/hooks?", query].concat();
    let place = TokenLocation::parse("token").expect("a name");
    let check = TokenCheck::new(place, &[("env:TOKEN", SecretDigest::of(b"secret"))]);
    let Ok((TokenSpan::Target(spot), name)) = token::check(&check, &target, &HeaderMap::new())
    else {
        return;
    };
    assert_eq!(name, "env:TOKEN");
    let mut left = target.clone();
    left.drain(spot);
    assert!(left.starts_with(b"/hooks"));
    assert!(
        token::check(&check, &left, &HeaderMap::new()).is_err(),
        "nothing of it is left"
    );
});
