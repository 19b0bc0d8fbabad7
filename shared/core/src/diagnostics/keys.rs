//! Keys that a reader of a file knows, found by running it.

use super::{TableReader, TomlDocument, Variables};
use std::borrow::Cow;
use std::cell::RefCell;

use toml::de::{DeTable, DeValue};

/// A key of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKey {
    /// Path of the key, such as `fetch.hosts`; `tunnel[].host` in a list of tables.
    pub path: String,
    /// Kind of its value.
    pub kind: KeyKind,
}

/// Kind of a key's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// A string.
    Text,
    /// A string or a number.
    TextOrNumber,
    /// A list of strings, or one.
    Texts,
    /// `true` or `false`.
    Boolean,
    /// An integer of at least 1.
    Count,
    /// A duration such as `"10s"`.
    Duration,
    /// A size such as `"64KiB"`.
    Size,
    /// A date.
    Day,
    /// A table whose keys are the user's own names.
    Map,
    /// A value of several kinds.
    Any,
}

/// Returns the keys that `read` knows, in the order in which it reads them.
pub fn describe(read: impl FnOnce(&mut TableReader<'_>)) -> Vec<KnownKey> {
    let mut document = TomlDocument::new("", "");
    document.known = Some(RefCell::default());
    {
        let table = document.parse();
        read(&mut TableReader::new(&document, &table));
    }
    document.known.map(RefCell::into_inner).unwrap_or_default()
}

/// A value of a file, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileValue {
    /// Path of its key, such as `fetch.hosts` or `tunnel[1].host`.
    pub path: String,
    /// Text of the value.
    pub text: String,
    /// Line of the value, from 1 up.
    pub line: usize,
}

impl FileValue {
    /// Returns the value with its variables, or as it is written if one is not set.
    #[must_use]
    pub fn expanded(&self, variables: &Variables<'_>) -> String {
        let expanded = variables.expand(&self.text);
        expanded.map_or_else(|_| self.text.clone(), Cow::into_owned)
    }
}

/// Returns the values of a TOML file, also of one with mistakes, in the order of their keys.
#[must_use]
pub fn file_values(text: &str) -> Vec<FileValue> {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut values = Vec::new();
    add_values(text, "", table.get_ref(), &mut values);
    values
}

fn add_values(text: &str, path: &str, table: &DeTable<'_>, values: &mut Vec<FileValue>) {
    for (key, value) in table.iter() {
        let path = match path {
            "" => key.get_ref().to_string(),
            path => format!("{path}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(below) => {
                add_values(text, &path, below, values);
                continue;
            }
            DeValue::Array(items) => {
                let before = values.len();
                for (index, item) in items.iter().enumerate() {
                    if let DeValue::Table(below) = item.get_ref() {
                        add_values(text, &format!("{path}[{}]", index + 1), below, values);
                    }
                }
                if values.len() > before {
                    continue;
                }
            }
            _ => {}
        }
        let written = text.get(value.span()).unwrap_or_default().to_owned();
        let before = text.get(..value.span().start).unwrap_or_default();
        values.push(FileValue {
            path,
            text: written,
            line: before.matches('\n').count() + 1,
        });
    }
}
