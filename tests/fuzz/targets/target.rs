//! The request target: what passes the syntax checks has only one reading.
#![no_main]

use hookward_core::form;
use hookward_core::path::PathPattern;
use hookward_core::syntax::EscapedSlashes;
use hookward_gate::engine::syntax;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &[u8]| {
    if syntax::check(target, &HeaderMap::new(), EscapedSlashes::Refused).is_err() {
        return;
    }
    assert_eq!(target.first(), Some(&b'/'), "it is an absolute path");
    assert!(
        target.iter().all(|byte| (0x21..0x7f).contains(byte)),
        "it is printable"
    );
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    let decoded = form::decode(path, false).expect("its escapes are well formed");
    let text = std::str::from_utf8(&decoded).expect("they are text");
    assert!(
        !text
            .split(['/', '\\'])
            .any(|segment| segment == "." || segment == ".."),
        "{text:?} leaves its folder"
    );
    // Decoded again, as a careless server would, it still stays in its place.
    if let Some(again) = form::decode(&decoded, false) {
        assert!(
            !again
                .split(|byte| *byte == b'/')
                .any(|segment| segment == b".."),
            "{text:?} is escaped twice"
        );
    }
    let below = PathPattern::parse("/hooks/**").expect("a pattern");
    assert_eq!(
        below.matches(path, false),
        path == b"/hooks" || path.starts_with(b"/hooks/"),
        "{text:?}"
    );
});
