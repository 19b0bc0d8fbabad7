//! Forwarded and X-Forwarded-For: the field of an untrusted peer is never used, and a trusted
//! proxy's only if the last hop that is no proxy is an address.
#![no_main]

use std::net::IpAddr;

use hookward_core::address::{AddressSet, parse_network};
use hookward_relay::{ForwardedField, client_address};
use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let trusted = AddressSet::new(&[parse_network("10.0.0.0/8").expect("a range")]);
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').take(4) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::FORWARDED, value.clone());
            headers.append("x-forwarded-for", value);
        }
    }
    let (stranger, proxy) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([10, 0, 0, 1]));
    for field in [ForwardedField::XForwardedFor, ForwardedField::Forwarded] {
        assert_eq!(
            client_address(stranger, &headers, &trusted, field),
            Ok(stranger)
        );
        let Ok(client) = client_address(proxy, &headers, &trusted, field) else {
            continue;
        };
        // The result is in the field, or the field has only proxies.
        let text = String::from_utf8_lossy(text).to_lowercase();
        let stands = |separators: &[char]| {
            text.split(separators).any(|word| {
                let word = word.trim_matches(['[', ']', ' ', '\t', '\r', '"']);
                let bare = word
                    .rsplit_once(':')
                    .map_or(word, |(host, _)| host)
                    .trim_matches(['[', ']']);
                [word, bare].iter().any(|word| {
                    word.parse::<IpAddr>()
                        .is_ok_and(|ip| ip.to_canonical() == client)
                })
            })
        };
        assert!(
            trusted.contains(client) || stands(&[',', ';', '=', '\n', '"']),
            "{client} from {text:?}"
        );
    }
});
