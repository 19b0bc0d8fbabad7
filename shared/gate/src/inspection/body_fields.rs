//! Body fields that the checks of a route read.

use hookward_core::json::{JsonPath, JsonPaths};
use std::collections::BTreeMap;

/// Body fields that checks read: of a JSON body, and of JSON in form fields.
#[derive(Debug, Clone)]
pub(crate) struct BodyFields {
    pub(super) json: JsonPaths,
    pub(super) documents: BTreeMap<String, JsonPaths>,
}

/// Builder of [`BodyFields`].
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyFieldsBuilder {
    json: Vec<JsonPath>,
    documents: BTreeMap<String, Vec<JsonPath>>,
}

impl Default for BodyFields {
    /// Without fields, each value is searched for on its own.
    fn default() -> Self {
        BodyFieldsBuilder::default().finish()
    }
}

impl BodyFieldsBuilder {
    /// Adds a value of a JSON body.
    pub(crate) fn json(&mut self, path: &JsonPath) {
        self.json.push(path.clone());
    }

    /// Adds a value of JSON in a form field.
    pub(crate) fn form_json(&mut self, field: &str, path: &JsonPath) {
        self.documents
            .entry(field.to_owned())
            .or_default()
            .push(path.clone());
    }

    #[must_use]
    pub(crate) fn finish(self) -> BodyFields {
        let documents = self
            .documents
            .into_iter()
            .map(|(field, paths)| (field, JsonPaths::new(paths)));

        BodyFields {
            json: JsonPaths::new(self.json),
            documents: documents.collect(),
        }
    }
}
