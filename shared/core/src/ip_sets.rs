//! Named address sets: the ranges from which providers send webhooks.
//!
//! `ip_sets.toml` has the rows. A built-in copy contains only what its source states, with the
//! date; the relay updates it from the provider's list. A set without any copy is empty and refuses
//! every address; the gate's reason says so.

mod active;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

pub use self::active::{ActiveSet, NamedSets, SetOrigin};
use crate::address::{AddressSet, parse_network};
use crate::json::JsonPath;

/// Named set of addresses that a provider publishes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedSet {
    /// Name in policies.
    pub name: String,
    /// Display name.
    pub title: String,
    /// URL of the provider's list; `None` if only a page for people has it.
    #[serde(default)]
    pub url: Option<String>,
    /// Paths of the ranges, or of the items that contain them, in the list's JSON. Empty if the
    /// list has one range per line.
    #[serde(default)]
    pub pick: Vec<JsonPath>,
    /// Field of an item that contains the range, if items are objects.
    #[serde(default)]
    pub field: Option<String>,
    /// Values that other fields of an item must have or contain.
    #[serde(default, rename = "where")]
    pub conditions: BTreeMap<String, String>,
    /// Ranges of the built-in copy.
    #[serde(default)]
    pub ranges: Vec<String>,
    /// Date of the copy, if known.
    #[serde(default)]
    pub dated: Option<String>,
    /// Source of the built-in copy.
    pub source: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Sets {
    set: Vec<NamedSet>,
}

/// Returns all named sets, sorted by name.
#[must_use]
pub fn all() -> &'static [NamedSet] {
    &SETS
}

static SETS: LazyLock<Vec<NamedSet>> = LazyLock::new(|| {
    // A unit test parses the file. If it were malformed, there would be no sets, and policies that
    // name one would be refused.
    toml::from_str::<Sets>(include_str!("ip_sets.toml"))
        .unwrap_or_default()
        .set
});

/// Returns the set of this name; `-` and `_` are equal.
#[must_use]
pub fn find(name: &str) -> Option<&'static NamedSet> {
    let wanted = name.replace('-', "_");
    SETS.iter().find(|set| set.name == wanted)
}

/// Returns the error for an unknown name, with the known ones.
#[must_use]
pub fn unknown(name: &str) -> String {
    let known = SETS
        .iter()
        .map(|set| set.name.as_str())
        .collect::<Vec<_>>()
        .join(", ");

    format!(
        "{name:?} is neither an address range such as 192.30.252.0/22 nor a named set; the sets: {known}"
    )
}

/// Reason to reject a fetched list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// The list has an unexpected format.
    #[error("the list has an unexpected format: {0}")]
    Form(String),
    /// The list is empty.
    #[error("the list is empty")]
    Empty,
    /// A range is malformed, or covers a whole address family.
    #[error("the list holds {0:?}, which is not a range of a provider")]
    Range(String),
}

impl NamedSet {
    /// Parses the provider's list.
    ///
    /// # Errors
    /// [`ListError`]; the copy in use stays in use.
    pub fn read(&self, content: &[u8]) -> Result<Vec<IpNet>, ListError> {
        let mut texts = Vec::new();
        if self.pick.is_empty() {
            let text = std::str::from_utf8(content)
                .map_err(|_| ListError::Form("it is not valid text".to_owned()))?;
            texts.extend(
                text.lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty() && !line.starts_with('#'))
                    .map(str::to_owned),
            );
        }

        for path in &self.pick {
            let items = path
                .raw_up_to(content, MAX_RANGES)
                .map_err(|fault| ListError::Form(fault.to_string()))?;
            for item in items {
                let value: Value = serde_json::from_str(item)
                    .map_err(|error| ListError::Form(error.to_string()))?;
                if let Some(text) = self.range_of(&value) {
                    texts.push(text);
                }
            }
        }

        if texts.len() > MAX_RANGES {
            return Err(ListError::Form(format!("it has {} ranges", texts.len())));
        }

        let networks = texts.iter().map(|text| {
            parse_network(text)
                .ok()
                .filter(|net| net.prefix_len() > 0)
                .ok_or_else(|| ListError::Range(text.clone()))
        });
        let networks = networks.collect::<Result<Vec<_>, _>>()?;
        if networks.is_empty() {
            Err(ListError::Empty)
        } else {
            Ok(networks)
        }
    }

    /// Returns the range of an item that meets the conditions.
    fn range_of(&self, item: &Value) -> Option<String> {
        let Some(field) = &self.field else {
            return item.as_str().map(str::to_owned);
        };
        let holds = |(name, wanted): (&String, &String)| match item.get(name) {
            Some(Value::Array(values)) => values.iter().any(|value| value.as_str() == Some(wanted)),
            Some(value) => value.as_str() == Some(wanted),
            None => false,
        };
        if !self.conditions.iter().all(holds) {
            return None;
        }

        item.get(field).and_then(Value::as_str).map(str::to_owned)
    }

    #[must_use]
    pub(crate) fn built_in(&self) -> ActiveSet {
        let networks: Vec<_> = self
            .ranges
            .iter()
            .filter_map(|text| parse_network(text).ok())
            .collect();
        let origin = if networks.is_empty() {
            SetOrigin::Nowhere
        } else {
            SetOrigin::BuiltIn(self.dated.clone())
        };

        ActiveSet {
            addresses: AddressSet::new(&networks),
            count: networks.len(),
            origin,
        }
    }
}

/// Maximum number of ranges of one set; real lists have up to a few thousand.
const MAX_RANGES: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;

    #[test]
    fn the_sets_load_and_their_copies_are_ranges() {
        let sets: Sets = toml::from_str(include_str!("ip_sets.toml")).unwrap();
        assert!(sets.set.is_sorted_by(|a, b| a.name < b.name));

        for set in &sets.set {
            assert!(!set.source.is_empty(), "{}", set.name);
            assert_eq!(
                set.built_in().count,
                set.ranges.len(),
                "{}: every range is one",
                set.name
            );
            assert!(!set.built_in().addresses.has_whole_family(), "{}", set.name);

            if let Some(url) = &set.url {
                assert!(crate::url::HttpsUrl::parse(url).is_ok(), "{url}");
            }

            assert!(
                set.url.is_some() || !set.ranges.is_empty(),
                "{} can never have a range",
                set.name
            );
        }
    }

    #[test]
    fn lists_are_read_as_their_providers_write_them() {
        let read = |name: &str, content: &str| find(name).unwrap().read(content.as_bytes());
        assert_eq!(
            read(
                "github",
                r#"{"hooks":["192.30.252.0/22","2a0a:a440::/29"],"web":["1.1.1.1/32"]}"#
            )
            .unwrap()
            .len(),
            2
        );

        let atlassian = r#"{"items":[
            {"cidr":"104.192.136.0/21","product":["bitbucket"],"direction":["egress","ingress"]},
            {"cidr":"10.9.0.0/16","product":["jira"],"direction":["egress"]},
            {"cidr":"10.8.0.0/16","product":["bitbucket"],"direction":["ingress"]}]}"#;
        assert_eq!(
            read("bitbucket_cloud", atlassian).unwrap(),
            ["104.192.136.0/21".parse().unwrap()]
        );

        // Atlassian's list has some thousand.
        let item = |n: usize| {
            format!(
                r#"{{"cidr":"104.{}.{}.0/24","product":["bitbucket"],"direction":["egress"]}}"#,
                n / 256,
                n % 256
            )
        };
        let long = format!(
            r#"{{"items":[{}]}}"#,
            (0..3000).map(item).collect::<Vec<_>>().join(",")
        );
        assert_eq!(read("bitbucket_cloud", &long).unwrap().len(), 3000);

        assert_eq!(
            read("mollie", "# Mollie\n87.233.229.26\n\n").unwrap().len(),
            1
        );
        assert_eq!(
            read("github", r#"{"hooks":[]}"#),
            Err(ListError::Form("hooks[*] is not in the body".into()))
        );

        for bad in [
            "",
            "<html>",
            r#"{"hooks":["0.0.0.0/0"]}"#,
            r#"{"hooks":["any"]}"#,
            r#"{"other":[]}"#,
        ] {
            assert!(read("github", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_set_without_ranges_contains_no_address() {
        let sets = NamedSets::default();
        let address = "203.0.113.9".parse().unwrap();
        assert!(!sets.contains("buildkite", address));
        assert_eq!(sets.get("buildkite").unwrap().origin, SetOrigin::Nowhere);
        sets.set(
            "buildkite",
            &["203.0.113.0/24".parse().unwrap()],
            UnixMillis(0),
        );

        assert!(sets.contains("buildkite", address) && !sets.contains("github", address));
        assert!(
            sets.get("buildkite")
                .unwrap()
                .age(UnixMillis(7_200_000))
                .contains("2 h ago")
        );
    }
}
