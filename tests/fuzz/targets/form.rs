//! Untrusted forms: a field that is read occurs once, and a plain parser finds the same.
#![no_main]

use hookward_core::form::{self, FormFields};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 3] = ["payload", "a", "token"];

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    if kind % 2 == 0 {
        let Ok(fields) = FormFields::urlencoded(body) else {
            return;
        };
        for name in NAMES {
            let Ok(found) = fields.single(body, name) else {
                continue;
            };
            // A value that is not read may have a broken escape.
            let Some(pairs) = form::pairs(body) else {
                continue;
            };
            let plain: Vec<_> = pairs
                .iter()
                .filter(|pair| *pair.0 == *name.as_bytes())
                .collect();
            assert_eq!(plain.len(), usize::from(found.is_some()), "{name}");
            if let (Some(found), [pair]) = (&found, plain.as_slice()) {
                assert_eq!(**found, *pair.1, "{name}");
            }
        }
        return;
    }
    let Ok(fields) = FormFields::multipart("multipart/form-data; boundary=b", body) else {
        return;
    };
    for name in NAMES {
        let Ok(Some(found)) = fields.single(body, name) else {
            continue;
        };
        // The value is in the body as it is.
        assert!(
            found.is_empty() || body.windows(found.len()).any(|window| window == &*found),
            "{name}"
        );
    }
});
