//! Values of a JSON document by path, read so that no other parser can read different ones: a name
//! that occurs twice in an object on the path, or in another case, is an error.
//!
//! [`JsonPaths::scan`] finds the values of many paths in one pass, and allocates nothing for other
//! names and values.

mod edit;
mod scan;

use crate::reason::Reason;
use std::fmt;

use serde::{Deserialize, Serialize};

pub use edit::Change;
pub use scan::{JsonPaths, Scan};

/// A path such as `event.type`, `items[0].id` or `value[*].state`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JsonPath {
    steps: Vec<PathStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum PathStep {
    Key(String),
    Index(usize),
    Every,
}

/// Failure to find a value at a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The document is not JSON.
    #[error("the body is not JSON")]
    NotJson,
    /// A name occurs twice, or in another case.
    #[error("one object of the body has the key {0:?} twice, or in two cases")]
    Repeated(String),
    /// The path has no value.
    #[error("{0} is not in the body")]
    Absent(String),
    /// The value is an object or a list.
    #[error("{0} is not a single value")]
    NotScalar(String),
    /// The path has more values than the maximum.
    #[error("{0} has more than {1} values")]
    TooMany(String, usize),
}

impl JsonPath {
    /// Parses a path.
    ///
    /// # Errors
    /// The mistake.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        let mut steps = Vec::new();
        for part in text.split('.') {
            let (key, brackets) = part.split_at(part.find('[').unwrap_or(part.len()));
            if key.contains(']') || key.is_empty() && (brackets.is_empty() || !steps.is_empty()) {
                return Err(
                    format!("{text:?} is not a path such as event.type or items[0].id").into(),
                );
            }

            if !key.is_empty() {
                steps.push(
                    key.parse()
                        .map_or_else(|_| PathStep::Key(key.to_owned()), PathStep::Index),
                );
            }

            for bracket in brackets.split_inclusive(']') {
                let inside = bracket
                    .strip_prefix('[')
                    .and_then(|rest| rest.strip_suffix(']'));
                steps.push(match inside {
                    Some("*" | "") => PathStep::Every,
                    Some(digits) => PathStep::Index(
                        digits
                            .parse()
                            .map_err(|_| format!("{digits:?} is not an index"))?,
                    ),
                    None => return Err(format!("{text:?}: a bracket is not closed").into()),
                });
            }

            if steps.len() > MAX_STEPS {
                return Err(format!("a path has more than {MAX_STEPS} steps").into());
            }
        }

        Ok(Self { steps })
    }

    /// Returns the values as text: strings decoded, numbers and literals as written. At least one.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn texts(&self, document: &[u8]) -> Result<Vec<String>, JsonError> {
        self.raw(document)?
            .into_iter()
            .map(|raw| self.text(raw))
            .collect()
    }

    /// Returns the only value as text. `null` counts as absent.
    ///
    /// # Errors
    /// [`JsonError`], also if the path has several values.
    pub fn single(&self, document: &[u8]) -> Result<String, JsonError> {
        self.single_of(&self.raw(document)?)
    }

    /// Returns the values as written in the document. At least one.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn raw<'d>(&self, document: &'d [u8]) -> Result<Vec<&'d str>, JsonError> {
        self.raw_up_to(document, MAX_VALUES)
    }

    /// Like [`Self::raw`], with a maximum of `most` values: fetched lists are longer than senders'
    /// bodies may be.
    ///
    /// # Errors
    /// [`JsonError`].
    pub(crate) fn raw_up_to<'d>(
        &self,
        document: &'d [u8],
        most: usize,
    ) -> Result<Vec<&'d str>, JsonError> {
        let paths = JsonPaths::new([self.clone()]).at_most(most);
        paths.scan(document).raw(&paths, self, document)
    }

    /// Returns the text of the only value.
    fn single_of(&self, values: &[&str]) -> Result<String, JsonError> {
        match values {
            [only] => self.text(only),
            _ => Err(JsonError::NotScalar(self.to_string())),
        }
    }

    fn text(&self, raw: &str) -> Result<String, JsonError> {
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).map_err(|_| JsonError::NotJson),
            Some(b'{' | b'[') | None => Err(JsonError::NotScalar(self.to_string())),
            Some(b'n') => Err(JsonError::Absent(self.to_string())),
            Some(_) => Ok(raw.to_owned()),
        }
    }
}

/// Maximum number of values of one path; real batches have up to a hundred.
const MAX_VALUES: usize = 1024;

/// Maximum number of steps of a path, because traversal is recursive.
const MAX_STEPS: usize = 32;

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                PathStep::Key(key) if index == 0 => f.write_str(key)?,
                PathStep::Key(key) => write!(f, ".{key}")?,
                PathStep::Index(number) => write!(f, "[{number}]")?,
                PathStep::Every => f.write_str("[*]")?,
            }
        }

        Ok(())
    }
}

impl TryFrom<String> for JsonPath {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

impl From<JsonPath> for String {
    fn from(path: JsonPath) -> Self {
        path.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(path: &str, document: &str) -> Result<Vec<String>, JsonError> {
        JsonPath::parse(path).unwrap().texts(document.as_bytes())
    }

    #[test]
    fn a_path_has_so_many_steps() {
        let path = |steps: usize| vec!["a"; steps].join(".");
        assert!(JsonPath::parse(&path(MAX_STEPS)).is_ok());
        assert!(JsonPath::parse(&path(MAX_STEPS + 1)).is_err());
        assert!(JsonPath::parse(&format!("a{}", "[*]".repeat(100_000))).is_err());
        assert!(
            serde_json::from_str::<JsonPath>(&format!("\"{}\"", path(4000))).is_err(),
            "from an agent, too"
        );
    }

    #[test]
    fn values_by_their_path() {
        let document = r#"{"a":{"b":"x\u0041","n":1.50},"l":[{"c":1},{"c":true}],"z":null}"#;
        assert_eq!(texts("a.b", document).unwrap(), ["xA"]);
        assert_eq!(texts("a.n", document).unwrap(), ["1.50"]);
        assert_eq!(texts("l[*].c", document).unwrap(), ["1", "true"]);
        assert_eq!(texts("l[1].c", document).unwrap(), ["true"]);
        assert_eq!(texts("l.1.c", document).unwrap(), ["true"]);
        assert_eq!(texts("0.c", "[{\"c\":7}]").unwrap(), ["7"]);

        for absent in ["x", "a.x", "a.b.c", "l[2].c", "z", "l.c", "a[0]", "a[*]"] {
            assert!(
                matches!(texts(absent, document), Err(JsonError::Absent(_))),
                "{absent}"
            );
        }

        assert!(matches!(texts("a", document), Err(JsonError::NotScalar(_))));
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for document in [
            r#"{"ref":"good","ref":"evil"}"#,
            r#"{"ref":"good","Ref":"evil"}"#,
            r#"{"ref":"good","\u0072ef":"evil"}"#,
        ] {
            assert!(
                matches!(texts("ref", document), Err(JsonError::Repeated(_))),
                "{document}"
            );
        }

        for document in [
            "",
            "{",
            "{\"ref\":1}x",
            "\u{feff}{\"ref\":1}",
            "{\"ref\":\"\\ud800\"}",
        ] {
            assert_eq!(
                texts("ref", document),
                Err(JsonError::NotJson),
                "{document}"
            );
        }

        // `ſ` and the Kelvin sign fold to `s` and `k` in Unicode, and in Go's parser.
        for (name, document) in [
            ("status", r#"{"status":1,"ſtatus":2}"#),
            ("key", "{\"key\":1,\"\u{212a}ey\":2}"),
        ] {
            assert!(
                matches!(texts(name, document), Err(JsonError::Repeated(_))),
                "{document}"
            );
        }

        assert_eq!(
            texts("ref", r#"{"Ref":1,"ref":"x"}"#),
            Err(JsonError::Repeated("Ref".into()))
        );
    }

    #[test]
    fn letters_that_fold_in_java_repeat_a_name() {
        for document in [
            "{\"id\":\"good\",\"\u{131}d\":\"evil\"}",
            "{\"\u{130}d\":\"evil\",\"id\":\"good\"}",
        ] {
            assert!(
                matches!(texts("id", document), Err(JsonError::Repeated(_))),
                "{document}"
            );
        }
    }

    #[test]
    fn paths_are_read_or_refused() {
        for good in ["a", "a.b", "a[0]", "a[*].b", "a[]", "0.a", "[*].a"] {
            assert!(JsonPath::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", ".a", "a[", "a[x]", "a]", "a..b"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
