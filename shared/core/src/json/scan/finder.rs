//! Visitor that reads a JSON document once and records the values of all paths.

use super::{FoundValue, Node, ScanError};
use crate::limits::GATE_PARSED_BYTES;
use crate::text::{name_hash, same_name};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Number of wanted names of one object without additional cost; catalog providers need no more.
pub(super) const FREE_NAMES: usize = 8;

/// Cost of each further name, in bytes: an entry in a list that is created and searched.
pub(super) const NAME_COST: usize = 32;

#[derive(Debug, Clone)]
pub(super) struct KeySeed {
    pub(super) hash: u64,
    pub(super) name: String,
    pub(super) node: Node,
}

pub(super) fn address(text: &str) -> usize {
    text.as_ptr() as usize
}

/// Collector of the values.
pub(super) struct Finder {
    /// Address of the document's first byte.
    pub(super) start: usize,
    pub(super) most: usize,
    pub(super) found: Vec<FoundValue>,
    pub(super) cost: u64,
}

impl Finder {
    /// Charges additional work.
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

    /// Returns `true` if the result below this node can no longer change.
    fn is_settled(&self, node: &Node) -> bool {
        node.all.iter().all(|number| {
            self.found
                .get(*number)
                .is_some_and(|found| found.fault.is_some())
        })
    }
}

/// Value at a node of the tree.
pub(super) struct At<'n, 'f> {
    pub(super) node: &'n Node,
    pub(super) finder: &'f mut Finder,
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

        // One path ends where another continues, so the value is parsed again.
        self.finder.spend(value.get().len())?;
        serde_json::Deserializer::from_str(value.get())
            .deserialize_any(self)
            .map_err(serde::de::Error::custom)
    }
}

/// Reads one value for several nodes.
pub(super) fn read_for_all<'n, E: serde::de::Error>(
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
    /// Records a value that is neither an object nor a list, and so has nothing below it.
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

        // For each wanted name: if it occurred, and another spelling of it.
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
            // Without the wanted name, a name in another case is just another name.
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

/// Comparison of a member's name with the wanted ones.
pub(super) struct Name<'n>(&'n [KeySeed]);

#[derive(Default)]
pub(super) struct Named {
    /// Wanted name that it equals.
    exact: Option<usize>,
    /// Wanted names that differ only in case.
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
