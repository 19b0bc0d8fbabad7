//! Corpora of hostile and legal requests, each with its expected verdict.

use std::path::PathBuf;

use data_encoding::BASE64;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Returns the path of a file in `tests/fixtures`.
pub fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(path)
}

/// Reads the cases of a corpus.
pub fn cases<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(fixture(&format!("corpora/{name}.json"))).unwrap();
    let corpus: Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<T> = serde_json::from_value(corpus["cases"].clone()).unwrap();
    assert!(!cases.is_empty());
    cases
}

/// Decodes the base64 of a corpus.
pub fn bytes(base64: &str) -> Vec<u8> {
    BASE64.decode(base64.as_bytes()).unwrap()
}

/// Record of misses. Those of level `must` fail the test; those of level `should` are printed.
#[derive(Default)]
pub struct Score {
    pub cases: usize,
    must: Vec<String>,
    should: Vec<String>,
}

impl Score {
    /// Records the outcome of a case.
    pub fn note(&mut self, id: &str, level: &str, outcome: Result<(), String>) {
        self.cases += 1;
        if let Err(miss) = outcome {
            let list = if level == "must" {
                &mut self.must
            } else {
                &mut self.should
            };
            list.push(format!("{id}: {miss}"));
        }
    }

    /// Prints the table, and fails if a `must` was missed.
    ///
    /// # Panics
    /// If a case of level `must` got another verdict.
    pub fn finish(self, what: &str) {
        println!(
            "{what}: {} cases, must missed {}, should missed {}",
            self.cases,
            self.must.len(),
            self.should.len()
        );

        for miss in &self.should {
            println!("  should: {miss}");
        }

        assert!(self.must.is_empty(), "{what}:\n{}", self.must.join("\n"));
    }
}
