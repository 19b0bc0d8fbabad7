//! Reading of TOML files that finds all mistakes in one run, each with its location.
//!
//! A [`TomlDocument`] collects diagnostics. A [`TableReader`] reads the keys of one table and
//! reports unknown ones, so that a misspelled rule is never ignored. [`describe`] returns the keys that a
//! reader knows.

mod keys;
mod values;
mod variables;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

pub use self::keys::{FileValue, KeyKind, KnownKey, describe, file_values};
pub use self::values::{parse_duration, parse_size};
pub use self::variables::Variables;
use crate::text;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A mistake: its location, its cause, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, line and column, or the flag.
    pub place: String,
    /// Cause of the error, and the remedy.
    pub reason: String,
}

impl Diagnostic {
    /// Creates a diagnostic.
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            reason: what.into(),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// Origin of a value: a flag, or a place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag of the command line, such as `--allow-ip`.
    Flag(&'static str),
    /// A place in a file.
    File {
        /// Byte offset, for [`TomlDocument::report_at`].
        offset: usize,
        /// Path of the value, such as `route[1].accept[2]: allow_ips`.
        label: String,
    },
}

impl Origin {
    /// Returns the origin without the path of its value, for a mistake that names it in its own words.
    #[must_use]
    pub fn without_label(self) -> Self {
        match self {
            Self::File { offset, .. } => Self::File {
                offset,
                label: String::new(),
            },
            flag @ Self::Flag(_) => flag,
        }
    }
}

/// Origins of the values of one table, by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    table: Origin,
    keys: BTreeMap<String, Origin>,
}

impl Default for Origins {
    fn default() -> Self {
        Self::of_flags("flags", &[])
    }
}

impl Origins {
    /// Returns the origins of values that flags set. `others` is the origin of all other values.
    #[must_use]
    pub fn of_flags(others: &'static str, flags: &[(&str, &'static str)]) -> Self {
        let keys = flags.iter();
        Self {
            table: Origin::Flag(others),
            keys: keys
                .map(|(key, flag)| ((*key).to_owned(), Origin::Flag(flag)))
                .collect(),
        }
    }

    /// Returns the origin of the value of `key`, or of the table if the key is absent.
    #[must_use]
    pub fn of(&self, key: &str) -> &Origin {
        self.keys.get(key).unwrap_or(&self.table)
    }

    /// Returns the origin of the table.
    #[must_use]
    pub const fn table(&self) -> &Origin {
        &self.table
    }
}

/// All mistakes of one run; an error is never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// A file that is being read, and its diagnostics.
pub struct TomlDocument<'i> {
    name: String,
    text: &'i str,
    problems: RefCell<Vec<Diagnostic>>,
    /// Values of `${NAME}`; `None` if the file has no variables.
    variables: Option<Variables<'i>>,
    /// Keys that were read, while [`describe`] runs.
    known: Option<RefCell<Vec<KnownKey>>>,
    empty: DeTable<'i>,
}

impl<'i> TomlDocument<'i> {
    /// Creates a document of this name (for messages) and content.
    pub fn new(name: impl Into<String>, text: &'i str) -> Self {
        Self {
            name: name.into(),
            text,
            problems: RefCell::default(),
            variables: None,
            known: None,
            empty: DeTable::new(),
        }
    }

    /// Replaces `${NAME}` in strings of the file by the values of these variables.
    #[must_use]
    pub fn with_variables(self, variables: Variables<'i>) -> Self {
        Self {
            variables: Some(variables),
            ..self
        }
    }

    /// Parses the file. Syntax errors become diagnostics; returns what could be parsed.
    pub fn parse(&self) -> Spanned<DeTable<'i>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.report_at(at, error.message().to_owned());
        }
        table
    }

    /// Reports a mistake at a byte offset of the file.
    pub fn report_at(&self, offset: usize, what: impl Into<String>) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        let place = format!("{}:{line}:{column}", self.name);
        self.problems
            .borrow_mut()
            .push(Diagnostic::new(place, what));
    }

    /// Reports a mistake of a value with this origin.
    pub fn report(&self, origin: &Origin, reason: &str) {
        match origin {
            Origin::File { offset, label } if label.is_empty() => self.report_at(*offset, reason),
            Origin::File { offset, label } => self.report_at(*offset, format!("{label}: {reason}")),
            Origin::Flag(flag) => {
                let mut problems = self.problems.borrow_mut();
                problems.push(Diagnostic::new(*flag, reason));
            }
        }
    }

    /// Returns the diagnostics.
    #[must_use]
    pub fn into_diagnostics(self) -> Vec<Diagnostic> {
        self.problems.into_inner()
    }
}

/// Reader of one table of a [`TomlDocument`].
pub struct TableReader<'d> {
    document: &'d TomlDocument<'d>,
    table: &'d DeTable<'d>,
    offset: usize,
    path: String,
    known: BTreeSet<&'static str>,
}

impl<'d> TableReader<'d> {
    /// Creates a reader of the document's root table.
    #[must_use]
    pub fn new(document: &'d TomlDocument<'d>, table: &'d Spanned<DeTable<'d>>) -> Self {
        Self {
            document,
            table: table.get_ref(),
            offset: table.span().start,
            path: String::new(),
            known: BTreeSet::new(),
        }
    }

    /// Reports a mistake of the table as a whole.
    pub fn problem(&self, what: impl fmt::Display) {
        self.document.report_at(self.offset, self.named(&what));
    }

    /// Reports a mistake of the value of `key`, or of the table if the key is absent.
    pub fn report_value(&self, key: &str, what: impl fmt::Display) {
        let offset = self
            .table
            .get(key)
            .map_or(self.offset, |value| value.span().start);
        self.document
            .report_at(offset, self.named(&format!("{key}: {what}")));
    }

    /// Reports a mistake at a byte offset of the file.
    pub fn report_at(&self, offset: usize, what: impl fmt::Display) {
        self.document.report_at(offset, self.named(&what));
    }

    /// Returns the origins of all values of the table.
    #[must_use]
    pub fn origins(&self) -> Origins {
        let origin = |offset, label| Origin::File { offset, label };
        let keys = self.table.iter().map(|(key, value)| {
            let label = self.named(key.get_ref());
            (key.get_ref().to_string(), origin(value.span().start, label))
        });
        Origins {
            table: origin(self.offset, self.path.clone()),
            keys: keys.collect(),
        }
    }

    /// Returns the origin of a value below `key` at this byte offset.
    #[must_use]
    pub fn origin_at(&self, offset: usize, key: &str) -> Origin {
        Origin::File {
            offset,
            label: self.named(&key),
        }
    }

    /// Number of errors found in the file so far.
    #[must_use]
    pub fn diagnostics(&self) -> usize {
        self.document.problems.borrow().len()
    }

    /// Returns `true` if the table has this key. Marks the key as known.
    pub fn has(&mut self, key: &'static str) -> bool {
        self.known.insert(key);
        self.table.contains_key(key)
    }

    /// Returns `true` if the value of `key` is a table. Marks the key as known.
    pub fn is_table(&mut self, key: &'static str) -> bool {
        matches!(
            self.take(key).map(Spanned::get_ref),
            Some(DeValue::Table(_))
        )
    }

    /// Returns the offset of this table in the file, for [`TomlDocument::report_at`].
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Reads a table.
    pub fn table(&mut self, key: &'static str) -> Option<TableReader<'d>> {
        if self.document.known.is_some() {
            self.known.insert(key);
            return Some(self.below(key.to_owned(), &self.document.empty, 0));
        }
        let value = self.take(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.below(key.to_owned(), table, value.span().start)),
            _ => self.wrong(key, "a table"),
        }
    }

    /// Reads a list of tables; a single table counts as a list of one.
    pub fn tables(&mut self, key: &'static str) -> Vec<TableReader<'d>> {
        if self.document.known.is_some() {
            self.known.insert(key);
            return vec![self.below(format!("{key}[]"), &self.document.empty, 0)];
        }
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        match value.get_ref() {
            DeValue::Table(table) => vec![self.below(key.to_owned(), table, value.span().start)],
            DeValue::Array(items) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| match item.get_ref() {
                    DeValue::Table(table) => {
                        let name = format!("{key}[{}]", index + 1);
                        Some(self.below(name, table, item.span().start))
                    }
                    _ => self.wrong(key, "a list of tables"),
                })
                .collect(),
            _ => self
                .wrong::<TableReader<'d>>(key, "a list of tables")
                .into_iter()
                .collect(),
        }
    }

    /// Reads all entries of a table whose keys are the user's own names, with string values.
    pub fn entries(&mut self) -> Vec<(String, String)> {
        self.note_path(self.path.clone(), KeyKind::Map);
        let mut entries = Vec::new();
        for (key, value) in self.table.iter() {
            match value.get_ref() {
                DeValue::String(text) => {
                    let text = self.expand(key.get_ref(), text);
                    entries.extend(text.map(|text| (key.get_ref().to_string(), text.into_owned())));
                }
                _ => self.document.report_at(
                    value.span().start,
                    self.named(&format!("{}: expected a text in quotes", key.get_ref())),
                ),
            }
        }

        entries
    }

    /// Reports every key that was not read.
    pub fn finish(self) {
        for (key, _) in self.table.iter() {
            if !self.known.contains(key.get_ref().as_ref()) {
                let known = self.known.iter().copied().collect::<Vec<_>>();
                let meant = text::closest(key.get_ref(), known.iter().copied());
                let hint = match meant {
                    Some(meant) => format!("did you mean {meant:?}?"),
                    None => format!("known here: {}", known.join(", ")),
                };
                let what = format!("unknown key {:?}; {hint}", key.get_ref());
                self.document.report_at(key.span().start, self.named(&what));
            }
        }
    }

    /// Replaces the variables of a string. Reports those that are not set.
    fn expand<'t>(&self, key: &str, text: &'t str) -> Option<Cow<'t, str>> {
        let Some(variables) = &self.document.variables else {
            return Some(Cow::Borrowed(text));
        };
        match variables.expand(text) {
            Ok(text) => Some(text),
            Err(what) => {
                self.report_value(key, what);
                None
            }
        }
    }

    fn note(&self, key: &str, kind: KeyKind) {
        if self.document.known.is_some() {
            self.note_path(self.path_of(key), kind);
        }
    }

    fn note_path(&self, path: String, kind: KeyKind) {
        if let Some(known) = &self.document.known {
            known.borrow_mut().push(KnownKey { path, kind });
        }
    }

    fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.insert(key);
        self.table.get(key)
    }

    fn wrong<T>(&self, key: &str, expected: &str) -> Option<T> {
        self.report_value(key, format_args!("expected {expected}"));
        None
    }

    fn below(&self, name: String, table: &'d DeTable<'d>, offset: usize) -> TableReader<'d> {
        let path = self.path_of(&name);

        TableReader {
            document: self.document,
            table,
            offset,
            path,
            known: BTreeSet::new(),
        }
    }

    fn named(&self, what: &dyn fmt::Display) -> String {
        if self.path.is_empty() {
            what.to_string()
        } else {
            format!("{}: {what}", self.path)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn all_mistakes_in_one_run_with_their_lines() {
        let text = "a = 1\nb = \"x\"\nc = \"10 s\"\n[d]\nz = 1\n";
        let document = TomlDocument::new("f.toml", text);

        {
            let table = document.parse();
            let mut reader = TableReader::new(&document, &table);
            assert_eq!(reader.string("a"), None);
            assert_eq!(reader.duration("c"), None);
            reader.table("d").unwrap().finish();
            reader.finish();
        }

        let problems = document.into_diagnostics();
        let lines: Vec<_> = problems
            .iter()
            .map(|problem| problem.place.as_str())
            .collect();
        assert_eq!(
            lines,
            ["f.toml:1:5", "f.toml:3:5", "f.toml:5:1", "f.toml:2:1"]
        );

        assert!(
            problems[2].reason.contains("unknown key \"z\""),
            "{}",
            problems[2]
        );
    }

    #[test]
    fn times_and_sizes() {
        assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_size("25MiB"), Some(25 << 20));
        for bad in ["", "s", "10", "0s", "-1s", "1.5s", "10 parsecs"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
