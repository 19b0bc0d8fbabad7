//! Editing of a value in a JSON document, by its path.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::json::{JsonError, JsonPath, PathStep};

/// Function that computes the new value from the old one, `None` if the path has none.
pub type Change<'c, E> = dyn FnMut(Option<&RawValue>) -> Result<Box<RawValue>, E> + 'c;

impl JsonPath {
    /// Returns the document with each value at the path replaced by the result of `change`. Creates
    /// missing objects and lists on the path, and keeps all other bytes.
    ///
    /// # Errors
    /// [`JsonError`], and those of `change`.
    pub fn edit<E: From<JsonError>>(
        &self,
        document: &[u8],
        change: &mut Change<'_, E>,
    ) -> Result<Vec<u8>, E> {
        let root: Option<&RawValue> = match document.trim_ascii() {
            b"" => None,
            text => Some(serde_json::from_slice(text).map_err(|_| JsonError::NotJson)?),
        };
        let edited = self.edit_below(&self.steps, root, change)?;
        Ok(edited.get().as_bytes().to_vec())
    }

    fn edit_below<E: From<JsonError>>(
        &self,
        steps: &[PathStep],
        value: Option<&RawValue>,
        change: &mut Change<'_, E>,
    ) -> Result<Box<RawValue>, E> {
        let Some((step, below)) = steps.split_first() else {
            return change(value);
        };
        let raw = match step {
            PathStep::Key(key) => {
                let mut object: BTreeMap<String, Box<RawValue>> =
                    self.read(value)?.unwrap_or_default();
                let edited = self.edit_below(below, object.get(key).map(AsRef::as_ref), change)?;
                object.insert(key.clone(), edited);
                to_raw_value(&object)
            }
            PathStep::Index(_) | PathStep::Every => {
                let mut list: Vec<Box<RawValue>> = self.read(value)?.unwrap_or_default();
                if list.is_empty() && matches!(step, PathStep::Every | PathStep::Index(0)) {
                    list.push(self.edit_below(below, None, change)?);
                } else {
                    for (index, item) in list.iter_mut().enumerate() {
                        if matches!(step, PathStep::Every) || *step == PathStep::Index(index) {
                            *item = self.edit_below(below, Some(item), change)?;
                        }
                    }
                }

                to_raw_value(&list)
            }
        };
        Ok(raw.map_err(|_| JsonError::NotJson)?)
    }

    /// Parses a value on the path, if it has the expected kind.
    fn read<T: for<'d> Deserialize<'d>>(
        &self,
        value: Option<&RawValue>,
    ) -> Result<Option<T>, JsonError> {
        match value.map(RawValue::get).filter(|text| *text != "null") {
            Some(text) => serde_json::from_str(text)
                .map(Some)
                .map_err(|_| JsonError::Absent(self.to_string())),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &str, document: &str) -> Result<String, JsonError> {
        let path = JsonPath::parse(path).unwrap();
        let edited = path.edit(document.as_bytes(), &mut |_| Ok(to_raw_value("x").unwrap()))?;
        Ok(String::from_utf8(edited).unwrap())
    }

    #[test]
    fn a_value_is_put_where_the_path_leads() {
        for (path, document, expected) in [
            ("a", "", r#"{"a":"x"}"#),
            (
                "a.b",
                r#"{"n": 1.50e400, "a": null}"#,
                r#"{"a":{"b":"x"},"n":1.50e400}"#,
            ),
            (
                "l[*].c",
                r#"{"l":[{"c":1},{"d": 2}]}"#,
                r#"{"l":[{"c":"x"},{"c":"x","d":2}]}"#,
            ),
            ("l[*].c", "{}", r#"{"l":[{"c":"x"}]}"#),
            ("l[1]", r#"{"l":[1,2]}"#, r#"{"l":[1,"x"]}"#),
        ] {
            assert_eq!(
                put(path, document).as_deref(),
                Ok(expected),
                "{path} {document}"
            );
        }

        assert_eq!(
            put("a.b", r#"{"a":1}"#),
            Err(JsonError::Absent("a.b".to_owned()))
        );
        assert_eq!(put("a", "no"), Err(JsonError::NotJson));
    }
}
