//! Untrusted JSON: all paths in one pass give the same values as each alone, and as serde_json.
#![no_main]

use std::sync::LazyLock;

use hookward_core::json::{JsonError, JsonPath, JsonPaths};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const PATHS: [&str; 6] = [
    "id",
    "data.id",
    "data",
    "items[*].id",
    "items[0].id",
    "a.b.c",
];

static PLACES: LazyLock<(Vec<JsonPath>, JsonPaths)> = LazyLock::new(|| {
    let paths: Vec<_> = PATHS
        .iter()
        .filter_map(|path| JsonPath::parse(path).ok())
        .collect();
    (paths.clone(), JsonPaths::new(paths))
});

fuzz_target!(|document: &[u8]| {
    let (paths, places) = &*PLACES;
    let scan = places.scan(document);
    // A number beyond the range of f64 on the path makes the whole document invalid: it fails
    // closed.
    let is_plain = serde_json::from_slice::<Value>(document).is_ok();
    for path in paths {
        if !is_plain && scan.single(places, path, document) == Err(JsonError::NotJson) {
            continue;
        }
        let together = scan.texts(places, path, document);
        assert_eq!(together, path.texts(document), "{path}");
        assert_eq!(
            scan.single(places, path, document),
            path.single(document),
            "{path}"
        );
    }
    // Other parsers find the same value.
    let Some(id) = paths
        .first()
        .and_then(|path| scan.single(places, path, document).ok())
    else {
        return;
    };
    assert!(
        serde_json::from_slice::<&RawValue>(document).is_ok(),
        "what is read is JSON"
    );
    // Other parsers reject numbers beyond their range.
    let Ok(read) = serde_json::from_slice::<Value>(document) else {
        return;
    };
    let same = match &read["id"] {
        Value::String(text) => *text == id,
        Value::Null => id == "null",
        Value::Bool(value) => id == value.to_string(),
        // As written: 1.0 and 1 are two texts.
        Value::Number(_) => true,
        other => panic!("{other} is no text"),
    };
    assert!(same, "{id:?} in {read}");
    let names = read.as_object().expect("it has names").keys();
    assert_eq!(
        names.filter(|name| name.eq_ignore_ascii_case("id")).count(),
        1,
        "it stands there once"
    );
});
