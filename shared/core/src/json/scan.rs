//! One pass over a JSON document that finds the values of many paths.

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::json::{JsonError, JsonPath, MAX_VALUES, PathStep};
use crate::limits::GATE_PARSED_BYTES;
use crate::text::{name_hash, same_name};

/// Wanted names of one object that cost nothing beside the pass: a provider's own.
const FREE_NAMES: usize = 8;
/// Cost of each further one, in bytes: a place in a list, made and looked through.
const NAME_COST: usize = 32;

/// Paths that are looked for together.
#[derive(Debug, Clone)]
pub struct JsonPaths {
    /// Sorted paths, each once.
    paths: Vec<JsonPath>,
    root: Node,
    most: usize,
}

/// A place in the tree of paths.
#[derive(Debug, Clone, Default)]
struct Node {
    /// The path that ends here, by its position.
    end: Option<usize>,
    /// The paths that end here or below.
    all: Vec<usize>,
    /// Members of an object, sorted by the hash of their names.
    keys: Vec<KeySeed>,
    /// Items of a list.
    indexes: Vec<(usize, Node)>,
    /// All items of a list.
    every: Option<Box<Node>>,
}

#[derive(Debug, Clone)]
struct KeySeed {
    hash: u64,
    name: String,
    node: Node,
}

/// Values of a document at each of the paths.
#[derive(Debug, Clone)]
pub struct Scan {
    /// For each path, in order. `None`: the document is not JSON, or costs too much.
    found: Option<Vec<FoundValue>>,
    /// Work beside the one pass: names held against each object, and values that are read once
    /// more.
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
    /// Something else than an object or a list stands on the way.
    Absent,
    TooMany,
}

impl JsonPaths {
    /// The paths as one tree.
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

    /// Returns `true` if this path is one of them.
    #[must_use]
    pub fn has(&self, path: &JsonPath) -> bool {
        self.paths.binary_search(path).is_ok()
    }

    /// Finds the values of all paths in one pass. A document whose cost beside that pass exceeds
    /// [`GATE_PARSED_BYTES`] counts as no JSON.
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
    /// Work beside the one pass over the document, in bytes.
    #[must_use]
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// The values of a path as they stand in the document. At least one.
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

    /// The texts of the values: strings decoded, numbers and words as they stand. At least one.
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

    /// The one value's text. `null` counts as absent.
    ///
    /// # Errors
    /// [`JsonError`], also when the path stands for several.
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

    /// The paths through members of an object here.
    fn of_keys(&self) -> impl Iterator<Item = usize> {
        self.keys
            .iter()
            .flat_map(|key| key.node.all.iter().copied())
    }

    /// The paths through items of a list here.
    fn of_items(&self) -> impl Iterator<Item = usize> {
        let nodes = self
            .indexes
            .iter()
            .map(|(_, node)| node)
            .chain(self.every.as_deref());
        nodes.flat_map(|node| node.all.iter().copied())
    }

    /// The nodes for the item at this position.
    fn for_item(&self, position: usize) -> impl Iterator<Item = &Self> {
        let indexed = self
            .indexes
            .iter()
            .filter(move |(index, _)| *index == position)
            .map(|(_, node)| node);
        indexed.chain(self.every.as_deref())
    }
}

fn address(text: &str) -> usize {
    text.as_ptr() as usize
}

/// Collects what is found.
struct Finder {
    /// Address of the document's first byte.
    start: usize,
    most: usize,
    found: Vec<FoundValue>,
    cost: u64,
}

impl Finder {
    /// Counts work beside the pass.
    fn spend<E: serde::de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.cost = self.cost.saturating_add(bytes as u64);
        if self.cost > GATE_PARSED_BYTES {
            Err(E::custom("the document costs too much"))
        } else {
            Ok(())
        }
    }

    fn keep(&mut self, number: usize, value: &RawValue) {
        let (start, most) = (address(value.get()) - self.start, self.most);
        let Some(found) = self.found.get_mut(number) else {
            return;
        };
        if found.values.len() >= most {
            found.fault.get_or_insert(ScanError::TooMany);
        } else {
            found.values.push(start..start + value.get().len());
        }
    }

    fn fail(&mut self, numbers: impl Iterator<Item = usize>, fault: &ScanError) {
        for number in numbers {
            if let Some(found) = self.found.get_mut(number) {
                found.fault.get_or_insert_with(|| fault.clone());
            }
        }
    }

    /// Returns `true` if nothing below this node can change any more.
    fn is_settled(&self, node: &Node) -> bool {
        node.all.iter().all(|number| {
            self.found
                .get(*number)
                .is_some_and(|found| found.fault.is_some())
        })
    }
}

/// A value at a node of the tree.
struct At<'n, 'f> {
    node: &'n Node,
    finder: &'f mut Finder,
}

impl<'d> DeserializeSeed<'d> for At<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'d>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.finder.is_settled(self.node) {
            return IgnoredAny::deserialize(deserializer).map(drop);
        }

        let Some(end) = self.node.end else {
            return deserializer.deserialize_any(self);
        };
        let value = <&RawValue>::deserialize(deserializer)?;
        self.finder.keep(end, value);

        if self.node.is_leaf() {
            return Ok(());
        }

        // One path ends where another goes on: the value is read once more.
        self.finder.spend(value.get().len())?;
        serde_json::Deserializer::from_str(value.get())
            .deserialize_any(self)
            .map_err(serde::de::Error::custom)
    }
}

/// Reads one value for several nodes.
fn read_for_all<'n, E: serde::de::Error>(
    value: &RawValue,
    nodes: impl Iterator<Item = &'n Node>,
    finder: &mut Finder,
) -> Result<(), E> {
    for node in nodes {
        finder.spend(value.get().len())?;
        let at = At {
            node,
            finder: &mut *finder,
        };
        at.deserialize(&mut serde_json::Deserializer::from_str(value.get()))
            .map_err(E::custom)?;
    }

    Ok(())
}

impl At<'_, '_> {
    /// A value that is neither an object nor a list: nothing stands below it.
    fn scalar<E>(self) -> Result<(), E> {
        let Self { node, finder } = self;
        finder.fail(node.of_keys().chain(node.of_items()), &ScanError::Absent);
        Ok(())
    }
}

impl<'d> Visitor<'d> for At<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.scalar()
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.scalar()
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.scalar()
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.scalar()
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { node, finder } = self;
        finder.fail(node.of_items(), &ScanError::Absent);
        finder.spend(
            node.keys
                .len()
                .saturating_sub(FREE_NAMES)
                .saturating_mul(NAME_COST),
        )?;

        // For each wanted name: it was there; another spelling of it was there, too.
        let mut seen: Vec<(bool, Option<String>)> = vec![(false, None); node.keys.len()];

        while let Some(named) = map.next_key_seed(Name(&node.keys))? {
            for twin in named.twins {
                if let Some((_, spelled)) = seen.get_mut(twin) {
                    spelled.get_or_insert_with(|| named.text.clone());
                }
            }

            let wanted = named
                .exact
                .and_then(|number| Some((node.keys.get(number)?, seen.get_mut(number)?)));
            match wanted {
                Some((key, (seen @ false, _))) => {
                    *seen = true;
                    map.next_value_seed(At {
                        node: &key.node,
                        finder: &mut *finder,
                    })?;
                }
                Some((key, (true, spelled))) => {
                    spelled.get_or_insert_with(|| key.name.clone());
                    map.next_value::<IgnoredAny>()?;
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }

        for (key, (seen, spelled)) in node.keys.iter().zip(seen) {
            // Without the wanted name, one in another case is just another name.
            if let (true, Some(name)) = (seen, spelled) {
                finder.fail(key.node.all.iter().copied(), &ScanError::Repeated(name));
            }
        }

        Ok(())
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut items: A) -> Result<(), A::Error> {
        let Self { node, finder } = self;
        finder.fail(node.of_keys(), &ScanError::Absent);

        for position in 0_usize.. {
            let mut nodes = node.for_item(position);
            let next = match (nodes.next(), nodes.next()) {
                (None, _) => items.next_element::<IgnoredAny>()?.map(drop),
                (Some(node), None) => items.next_element_seed(At {
                    node,
                    finder: &mut *finder,
                })?,
                (Some(_), Some(_)) => match items.next_element::<&RawValue>()? {
                    Some(value) => Some(read_for_all(value, node.for_item(position), finder)?),
                    None => None,
                },
            };
            if next.is_none() {
                break;
            }

            if position == finder.most
                && let Some(every) = &node.every
            {
                finder.fail(every.all.iter().copied(), &ScanError::TooMany);
            }
        }

        Ok(())
    }
}

/// A member's name, held against the wanted ones.
struct Name<'n>(&'n [KeySeed]);

#[derive(Default)]
struct Named {
    /// The wanted name that it is.
    exact: Option<usize>,
    /// Wanted names of which it is another spelling.
    twins: Vec<usize>,
    text: String,
}

impl<'d> DeserializeSeed<'d> for Name<'_> {
    type Value = Named;

    fn deserialize<D: Deserializer<'d>>(self, deserializer: D) -> Result<Named, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, text: &str) -> Result<Named, E> {
        let hash = name_hash(text.as_bytes());
        let first = self.0.partition_point(|key| key.hash < hash);
        let alike = self
            .0
            .iter()
            .enumerate()
            .skip(first)
            .take_while(|(_, key)| key.hash == hash);
        let mut named = Named::default();

        for (number, key) in alike {
            if key.name == text {
                named.exact = Some(number);
            } else if same_name(key.name.as_bytes(), text.as_bytes()) {
                named.twins.push(number);
                text.clone_into(&mut named.text);
            }
        }

        Ok(named)
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
            "an item without it is no item of the batch"
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

    /// Names that are wanted cost for each object, and values that are read once more cost their
    /// length.
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

        // Three lists, in each other, of objects: beyond its limit a document counts as no JSON.
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
