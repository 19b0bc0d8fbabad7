//! Fields of a body that the checks of a route read.

use hookward_core::json::{JsonPath, JsonPaths};
use std::collections::BTreeMap;

/// Places in bodies that checks read: of a JSON body, and of JSON in the fields of a form.
#[derive(Debug, Clone)]
pub(crate) struct BodyFields {
    pub(super) json: JsonPaths,
    pub(super) documents: BTreeMap<String, JsonPaths>,
}

/// Collects what [`BodyFields`] are made of.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyFieldsBuilder {
    json: Vec<JsonPath>,
    documents: BTreeMap<String, Vec<JsonPath>>,
}

impl Default for BodyFields {
    /// No places: what is read is looked for by itself.
    fn default() -> Self {
        BodyFieldsBuilder::default().finish()
    }
}

impl BodyFieldsBuilder {
    /// Adds a value of a JSON body.
    pub(crate) fn json(&mut self, path: &JsonPath) {
        self.json.push(path.clone());
    }

    /// Adds a value of JSON that stands in a field of a form.
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
