//! Search for the values of many paths in one pass over a JSON document.

mod finder;

use std::ops::Range;

use serde::de::DeserializeSeed;

use self::finder::{At, Finder, KeySeed, address};
use crate::json::{JsonError, JsonPath, MAX_VALUES, PathStep};
use crate::text::name_hash;

/// Paths of one search.
#[derive(Debug, Clone)]
pub struct JsonPaths {
    /// Sorted paths without duplicates.
    paths: Vec<JsonPath>,
    root: Node,
    most: usize,
}

/// Node of the tree of paths.
#[derive(Debug, Clone, Default)]
struct Node {
    /// Position of the path that ends here.
    end: Option<usize>,
    /// Positions of the paths that end here or below.
    all: Vec<usize>,
    /// Members of an object, sorted by the hash of their names.
    keys: Vec<KeySeed>,
    /// Items of a list.
    indexes: Vec<(usize, Node)>,
    /// All items of a list.
    every: Option<Box<Node>>,
}

/// Values of a document at each of the paths.
#[derive(Debug, Clone)]
pub struct Scan {
    /// One result per path, in order. `None` if the document is not JSON, or costs too much.
    found: Option<Vec<FoundValue>>,
    /// Work beyond the single pass, in bytes: names compared in each object, and values parsed
    /// again.
    cost: u64,
}

#[derive(Debug, Clone, Default)]
struct FoundValue {
    /// Ranges of the values in the document.
    values: Vec<Range<usize>>,
    fault: Option<ScanError>,
}

#[derive(Debug, Clone)]
enum ScanError {
    Repeated(String),
    /// A value on the path is neither an object nor a list.
    Absent,
    TooMany,
}

impl JsonPaths {
    /// Builds the tree of these paths.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = JsonPath>) -> Self {
        let mut paths: Vec<_> = paths.into_iter().collect();
        paths.sort();
        paths.dedup();

        let mut root = Node::default();
        for (number, path) in paths.iter().enumerate() {
            root.add(number, &path.steps);
        }

        root.sort();
        Self {
            paths,
            root,
            most: MAX_VALUES,
        }
    }

    /// Raises the maximum number of values that each path may have.
    pub(crate) fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Returns `true` if the tree has this path.
    #[must_use]
    pub fn has(&self, path: &JsonPath) -> bool {
        self.paths.binary_search(path).is_ok()
    }

    /// Finds the values of all paths in one pass. A document whose additional cost exceeds
    /// `GATE_PARSED_BYTES` counts as invalid JSON.
    #[must_use]
    pub fn scan(&self, document: &[u8]) -> Scan {
        let Ok(text) = std::str::from_utf8(document) else {
            return Scan {
                found: None,
                cost: 0,
            };
        };

        let found = vec![FoundValue::default(); self.paths.len()];
        let mut finder = Finder {
            start: address(text),
            most: self.most,
            found,
            cost: 0,
        };

        let mut reader = serde_json::Deserializer::from_str(text);
        let read = At {
            node: &self.root,
            finder: &mut finder,
        }
        .deserialize(&mut reader)
        .and_then(|()| reader.end());
        let cost = finder.cost;

        Scan {
            found: read.is_ok().then_some(finder.found),
            cost,
        }
    }
}

impl Scan {
    /// Returns the work beyond the single pass, in bytes.
    #[must_use]
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// Returns the values of a path as written in the document. At least one.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn raw<'d>(
        &self,
        paths: &JsonPaths,
        path: &JsonPath,
        document: &'d [u8],
    ) -> Result<Vec<&'d str>, JsonError> {
        let all = self.found.as_ref().ok_or(JsonError::NotJson)?;
        let absent = || JsonError::Absent(path.to_string());
        let found = paths
            .paths
            .binary_search(path)
            .ok()
            .and_then(|number| all.get(number))
            .ok_or_else(absent)?;
        match &found.fault {
            Some(ScanError::Repeated(name)) => return Err(JsonError::Repeated(name.clone())),
            Some(ScanError::TooMany) => {
                return Err(JsonError::TooMany(path.to_string(), paths.most));
            }
            Some(ScanError::Absent) => return Err(absent()),
            None => {}
        }

        let text = |range: &Range<usize>| std::str::from_utf8(document.get(range.clone())?).ok();
        let values: Vec<_> = found.values.iter().filter_map(text).collect();
        if values.is_empty() {
            Err(absent())
        } else {
            Ok(values)
        }
    }

    /// Returns the values as text: strings decoded, numbers and literals as written. At least one.
    ///
    /// # Errors
    /// [`JsonError`].
    pub fn texts(
        &self,
        paths: &JsonPaths,
        path: &JsonPath,
        document: &[u8],
    ) -> Result<Vec<String>, JsonError> {
        self.raw(paths, path, document)?
            .into_iter()
            .map(|raw| path.text(raw))
            .collect()
    }

    /// Returns the only value as text. `null` counts as absent.
    ///
    /// # Errors
    /// [`JsonError`], also if the path has several values.
    pub fn single(
        &self,
        paths: &JsonPaths,
        path: &JsonPath,
        document: &[u8],
    ) -> Result<String, JsonError> {
        path.single_of(&self.raw(paths, path, document)?)
    }
}

impl Node {
    fn add(&mut self, number: usize, steps: &[PathStep]) {
        self.all.push(number);
        let Some((step, below)) = steps.split_first() else {
            self.end = Some(number);
            return;
        };
        let node = match step {
            PathStep::Key(name) => match self.keys.iter().position(|key| key.name == *name) {
                Some(at) => self.keys.get_mut(at).map(|key| &mut key.node),
                None => {
                    let hash = name_hash(name.as_bytes());
                    self.keys.push(KeySeed {
                        hash,
                        name: name.clone(),
                        node: Self::default(),
                    });
                    self.keys.last_mut().map(|key| &mut key.node)
                }
            },
            PathStep::Index(wanted) => {
                match self.indexes.iter().position(|(index, _)| index == wanted) {
                    Some(at) => self.indexes.get_mut(at).map(|(_, node)| node),
                    None => {
                        self.indexes.push((*wanted, Self::default()));
                        self.indexes.last_mut().map(|(_, node)| node)
                    }
                }
            }
            PathStep::Every => Some(self.every.get_or_insert_default().as_mut()),
        };
        if let Some(node) = node {
            node.add(number, below);
        }
    }

    fn sort(&mut self) {
        self.keys.sort_by_key(|key| key.hash);
        let lists = self
            .indexes
            .iter_mut()
            .map(|(_, node)| node)
            .chain(self.every.as_deref_mut());

        self.keys
            .iter_mut()
            .map(|key| &mut key.node)
            .chain(lists)
            .for_each(Self::sort);
    }

    fn is_leaf(&self) -> bool {
        self.keys.is_empty() && self.indexes.is_empty() && self.every.is_none()
    }

    /// Returns the paths through members of this object.
    fn of_keys(&self) -> impl Iterator<Item = usize> {
        self.keys
            .iter()
            .flat_map(|key| key.node.all.iter().copied())
    }

    /// Returns the paths through items of this list.
    fn of_items(&self) -> impl Iterator<Item = usize> {
        let nodes = self
            .indexes
            .iter()
            .map(|(_, node)| node)
            .chain(self.every.as_deref());
        nodes.flat_map(|node| node.all.iter().copied())
    }

    /// Returns the nodes for the item at this position.
    fn for_item(&self, position: usize) -> impl Iterator<Item = &Self> {
        let indexed = self
            .indexes
            .iter()
            .filter(move |(index, _)| *index == position)
            .map(|(_, node)| node);
        indexed.chain(self.every.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(texts: &[&str]) -> JsonPaths {
        JsonPaths::new(texts.iter().map(|text| JsonPath::parse(text).unwrap()))
    }

    fn texts(
        paths: &JsonPaths,
        scan: &Scan,
        path: &str,
        document: &str,
    ) -> Result<Vec<String>, JsonError> {
        scan.texts(paths, &JsonPath::parse(path).unwrap(), document.as_bytes())
    }

    #[test]
    fn many_paths_in_one_pass() {
        let document = r#"{"a":{"b":"x","c":[{"d":1},{"d":2}]},"l":[[7,8],"s"],"e":"y"}"#;
        let wanted = [
            "a.b", "a", "a.c[*].d", "a.c[1].d", "a.c[1]", "l[0][1]", "l[1]", "e", "none",
        ];
        let paths = paths(&wanted);
        let scan = paths.scan(document.as_bytes());

        for (path, expected) in [
            ("a.b", vec!["x"]),
            ("a.c[*].d", vec!["1", "2"]),
            ("a.c[1].d", vec!["2"]),
            ("l[0][1]", vec!["8"]),
            ("l[1]", vec!["s"]),
            ("e", vec!["y"]),
        ] {
            assert_eq!(
                texts(&paths, &scan, path, document).unwrap(),
                expected,
                "{path}"
            );
        }

        let raw =
            |path: &str| scan.raw(&paths, &JsonPath::parse(path).unwrap(), document.as_bytes());
        assert_eq!(raw("a").unwrap(), [r#"{"b":"x","c":[{"d":1},{"d":2}]}"#]);
        assert_eq!(raw("a.c[1]").unwrap(), [r#"{"d":2}"#]);
        assert!(matches!(raw("none"), Err(JsonError::Absent(_))));
        assert!(
            matches!(raw("unasked"), Err(JsonError::Absent(_))),
            "fails closed"
        );
    }

    #[test]
    fn each_path_has_its_own_faults() {
        let document = r#"{"a":{"x":1,"X":2,"y":3},"b":5,"l":[{"k":1},2]}"#;
        let paths = paths(&["a.x", "a.y", "b.c", "b", "l[*].k"]);
        let scan = paths.scan(document.as_bytes());
        let of = |path: &str| texts(&paths, &scan, path, document);
        assert_eq!(of("a.x"), Err(JsonError::Repeated("X".into())));
        assert_eq!(of("a.y").unwrap(), ["3"]);
        assert!(matches!(of("b.c"), Err(JsonError::Absent(_))));
        assert_eq!(of("b").unwrap(), ["5"]);
        assert!(
            matches!(of("l[*].k"), Err(JsonError::Absent(_))),
            "an item without it is not an item of the batch"
        );
    }

    #[test]
    fn lists_have_a_bound() {
        let list = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
        let paths = paths(&["[*].a", "[*]"]);

        for (count, fits) in [(MAX_VALUES, true), (MAX_VALUES + 1, false)] {
            let document = list(count);
            let scan = paths.scan(document.as_bytes());
            let below = texts(&paths, &scan, "[*].a", &document).unwrap_err();
            assert_eq!(matches!(below, JsonError::Absent(_)), fits, "{count}");

            let raw = scan.raw(
                &paths,
                &JsonPath::parse("[*]").unwrap(),
                document.as_bytes(),
            );
            assert_eq!(raw.is_ok(), fits, "{count}");
        }
    }

    /// Wanted names cost time for each object, and values that are parsed again cost their length.
    #[test]
    fn a_document_has_a_cost_beside_its_pass() {
        let objects = format!("[{}]", vec!["{}"; 1000].join(","));
        let one = paths(&["[*].a"]);
        assert_eq!(one.scan(objects.as_bytes()).cost(), 0);

        let names: Vec<_> = (0..500).map(|n| format!("[*].k{n}")).collect();
        let many = paths(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(many.scan(objects.as_bytes()).cost() >= 1000 * 499);

        let nested = paths(&["a", "a.a", "a.a.a"]);
        let document = r#"{"a":{"a":{"a":1}}}"#;
        let scan = nested.scan(document.as_bytes());
        assert!(scan.cost() >= 20, "{}", scan.cost());

        // Three nested lists of objects: beyond the limit, a document counts as invalid JSON.
        let names: Vec<_> = (0..992).map(|n| format!("[*][*][*].k{n}")).collect();
        let many = paths(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let list = |items: &str, count: usize| format!("[{}]", vec![items; count].join(","));
        let hostile = list(&list(&list("{}", 30), 30), 30);
        let scan = many.scan(hostile.as_bytes());
        assert_eq!(
            texts(&many, &scan, "[*][*][*].k0", &hostile),
            Err(JsonError::NotJson)
        );
    }

    #[test]
    fn deep_and_broken_documents_are_no_trouble() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        let paths = paths(&["b", "a.x"]);
        let scan = paths.scan(deep.as_bytes());
        assert!(matches!(
            texts(&paths, &scan, "b", &deep),
            Err(JsonError::Absent(_))
        ));

        for broken in ["", "{", "{\"b\":1}x", "{\"b\":1,}", "{b:1}", "{\"b\":01}"] {
            let scan = paths.scan(broken.as_bytes());
            assert_eq!(
                texts(&paths, &scan, "b", broken),
                Err(JsonError::NotJson),
                "{broken}"
            );
        }
    }
}
