//! JSON Schema of a TOML file, for editors (json-schema.org, draft 2020-12).

use hookward_core::diagnostics::{KeyKind, KnownKey};
use serde_json::{Map, Value, json};

/// Returns the schema of a file with these keys, each with its description.
pub fn of<'k>(title: &str, keys: impl IntoIterator<Item = (&'k KnownKey, &'k str)>) -> Value {
    let mut root = table();
    for (key, about) in keys {
        let mut parts = key.path.split('.').peekable();
        let mut at = &mut root;
        while let Some(part) = parts.next() {
            let (name, is_list) = match part.strip_suffix("[]") {
                Some(name) => (name, true),
                None => (part, false),
            };
            let properties = at
                .as_object_mut()
                .and_then(|table| table.get_mut("properties"))
                .and_then(Value::as_object_mut);
            let Some(properties) = properties else { break };
            if parts.peek().is_none() {
                let mut value = value(key.kind);
                value.insert("description".to_owned(), json!(about));
                properties.insert(name.to_owned(), Value::Object(value));
                break;
            }
            let below = properties.entry(name).or_insert_with(|| match is_list {
                true => json!({ "type": "array", "items": table() }),
                false => table(),
            });
            at = match is_list {
                true => match below.get_mut("items") {
                    Some(items) => items,
                    None => break,
                },
                false => below,
            };
        }
    }
    accept_single_tables(&mut root);
    if let Some(root) = root.as_object_mut() {
        let schema = "https://json-schema.org/draft/2020-12/schema";
        root.insert("$schema".to_owned(), json!(schema));
        root.insert("title".to_owned(), json!(title));
    }
    root
}

/// Lets a single table stand for a list of tables, as the readers do.
fn accept_single_tables(table: &mut Value) {
    let properties = table.get_mut("properties").and_then(Value::as_object_mut);
    for value in properties.into_iter().flat_map(Map::values_mut) {
        match value.get_mut("items") {
            Some(items) if items.get("properties").is_some() => {
                accept_single_tables(items);
                let (list, single) = (value.clone(), value.get("items").cloned());
                *value = json!({ "anyOf": [list, single] });
            }
            _ => accept_single_tables(value),
        }
    }
}

fn table() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

fn value(kind: KeyKind) -> Map<String, Value> {
    // A string with a variable stands for a value of any kind.
    let variable = r"\$\{[^}]+\}";
    let value = match kind {
        KeyKind::Text => json!({ "type": "string" }),
        KeyKind::TextOrNumber => json!({ "type": ["string", "integer"] }),
        KeyKind::Texts => json!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
        ]}),
        KeyKind::Boolean => json!({ "anyOf": [
            { "type": "boolean" },
            { "type": "string", "pattern": variable },
        ]}),
        KeyKind::Count => json!({ "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": variable },
        ]}),
        KeyKind::Duration => json!({
            "type": "string",
            "pattern": format!(r"^[1-9][0-9]*(ms|s|m|h|d)$|{variable}"),
        }),
        KeyKind::Size => json!({ "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": format!(r"^[1-9][0-9]* ?(B|KiB|MiB|GiB)$|{variable}") },
        ]}),
        KeyKind::Map => json!({ "type": "object" }),
        KeyKind::Day | KeyKind::Any => json!({}),
    };
    match value {
        Value::Object(value) => value,
        _ => Map::new(),
    }
}
