//! The PROXY protocol's header, versions 1 and 2: no byte after it is consumed, and the address is
//! its own.
#![no_main]

use hookward_relay::proxy_protocol;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(address)) = proxy_protocol::source(bytes) else {
        return;
    };
    if let Some(text) = bytes.strip_prefix(b"PROXY ") {
        let text = String::from_utf8_lossy(text);
        let named = text.split(' ').nth(1).expect("an address");
        assert_eq!(named.parse(), Ok(address), "{text:?}");
    }
});
