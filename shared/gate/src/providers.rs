//! The catalog of webhook providers: their signing schemes, as data.
//!
//! A provider's row pins its scheme; the sender never chooses it. `providers/catalog.toml` has the
//! rows, sorted, each with its source. A new provider with a known kind of scheme needs a row and
//! its fixtures, and no code. A custom scheme in a policy has the same fields.

pub(crate) mod canonical;
pub mod challenge;
pub(crate) mod condition;
mod error;
mod fetched;
pub(crate) mod jwt;
mod jwt_key;
pub mod key;
pub mod locator;
pub mod samples;
pub mod scheme;
pub(crate) mod signing_input;
pub mod template;
pub mod verifier;

use hookward_core::reason::Reason;
use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use http::HeaderName;
use serde::Deserialize;

pub use challenge::Challenge;
pub use error::SignatureError;
pub use key::SecretShape;
pub use locator::ValueLocator;
pub use scheme::{Coverage, Scheme};
pub use verifier::{SignatureVerifier, Verified};

/// A webhook provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Id: lower case, words joined by `_`.
    pub id: String,
    /// Aliases of the id.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Display name.
    pub name: String,
    /// Default scheme.
    scheme: Scheme,
    /// Equivalent schemes: other names of the headers, other slots for keys.
    #[serde(default, rename = "or")]
    others: Vec<Scheme>,
    /// Schemes that are weaker, or that the provider's settings select. A policy must name one.
    #[serde(default, rename = "variant")]
    pub variants: BTreeMap<String, Scheme>,
    /// Parts of the secret with their descriptions, if it has several.
    #[serde(default)]
    parts: BTreeMap<String, String>,
    /// Part that a secret is if it is not a JSON object.
    #[serde(default)]
    plain: Option<String>,
    /// Locations of the delivery's id; several together if an id is unique only within a channel. A
    /// header with the id must not repeat with another value, on any route.
    #[serde(default, deserialize_with = "one_or_several")]
    pub delivery: Vec<ValueLocator>,
    /// Location of the event type.
    #[serde(default)]
    pub event: Option<ValueLocator>,
    /// `true` if the provider signs with one key for all its customers. A valid signature then
    /// identifies the provider, not the account.
    #[serde(default)]
    pub shared_key: bool,
    /// `true` if one signature may cover several deliveries.
    #[serde(default)]
    pub signature_repeats: bool,
    /// Challenges.
    #[serde(default, rename = "challenge")]
    pub challenges: Vec<Challenge>,
    /// Named set of addresses that it sends from.
    #[serde(default)]
    pub addresses: Option<String>,
    /// Status of a wrong signature: 403, unless the provider tests for another one.
    #[serde(default)]
    pub refused_with: Option<u16>,
    /// Time that the provider waits for a response, in seconds.
    #[serde(default)]
    pub answer_seconds: Option<u64>,
    /// Time that the provider waits for a response, and its retries.
    #[serde(default)]
    pub limits: Option<String>,
    /// Values to enter at the provider, and where.
    #[serde(default)]
    pub setup: Option<String>,
    /// Note for the provider's users.
    #[serde(default)]
    pub note: Option<String>,
    /// Source of this row.
    pub source: String,
}

/// A sender of webhooks that cannot be verified.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unverifiable {
    /// Id of the provider.
    pub id: String,
    /// Display name.
    pub name: String,
    /// Reason, and what to use instead.
    pub reason: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Catalog {
    provider: Vec<Provider>,
    unverifiable: Vec<Unverifiable>,
}

/// Reads one location, or a list.
fn one_or_several<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<ValueLocator>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum SecretWritten {
        One(ValueLocator),
        Several(Vec<ValueLocator>),
    }

    Ok(match SecretWritten::deserialize(deserializer)? {
        SecretWritten::One(place) => vec![place],
        SecretWritten::Several(places) => places,
    })
}

/// Returns all providers, sorted by id.
#[must_use]
pub fn all() -> &'static [Provider] {
    &CATALOG.provider
}

static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
    // The data is part of the program, and a unit test parses it, so a malformed row cannot be
    // released. If it were malformed, the catalog would be empty, and every policy that names a
    // provider would be refused.
    toml::from_str(include_str!("providers/catalog.toml")).unwrap_or_default()
});

/// Returns the providers that can't be verified, sorted by id.
#[must_use]
pub fn unverifiable() -> &'static [Unverifiable] {
    &CATALOG.unverifiable
}

/// Returns the provider with this id or alias; ignores case, and `-` and `_` are equal.
#[must_use]
pub fn find(name: &str) -> Option<&'static Provider> {
    let wanted = name.replace('-', "_").to_ascii_lowercase();
    let named = |text: &String| text.replace('-', "_") == wanted;
    CATALOG
        .provider
        .iter()
        .find(|row| row.id == wanted || row.aliases.iter().any(named))
}

/// Returns the error for an unknown provider name. Does not repeat a text that could be a secret.
#[must_use]
pub fn unknown(name: &str) -> String {
    /// Similarity from which a name is suggested (Jaro-Winkler, 0 to 1).
    const MIN_SIMILARITY: f64 = 0.85;
    /// Maximum number of suggestions.
    const MAX_SUGGESTIONS: usize = 3;

    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    let all = "`hookward providers` lists all";

    if name.len() > 40 || !name.bytes().all(plain) {
        return format!("no provider has this name; {all}");
    }

    let wanted = name.replace('-', "_");
    if let Some(row) = unverifiable().iter().find(|row| row.id == wanted) {
        return format!("{} can't be verified: {}", row.name, row.reason);
    }

    let names = CATALOG
        .provider
        .iter()
        .flat_map(|row| std::iter::once(&row.id).chain(&row.aliases));
    let mut alike: Vec<(f64, &str)> = names
        .map(|known| (strsim::jaro_winkler(known, name), known.as_str()))
        .filter(|(at, _)| *at >= MIN_SIMILARITY)
        .collect();
    alike.sort_by(|(a, _), (b, _)| b.total_cmp(a));

    alike.truncate(MAX_SUGGESTIONS);
    if alike.is_empty() {
        return format!(
            "no provider is called {name:?}; {all}, and a policy may hold a scheme of your own (README)"
        );
    }

    let alike = alike
        .into_iter()
        .map(|(_, known)| known)
        .collect::<Vec<_>>()
        .join(", ");

    format!("no provider is called {name:?}; is it one of {alike}? {all}")
}

/// Returns `true` for headers that occur once: those that identify a provider's delivery, or
/// contain its signature, unless some provider repeats them.
#[must_use]
pub(crate) fn stands_once(name: &HeaderName) -> bool {
    SINGULAR_HEADERS.contains(name)
}

static SINGULAR_HEADERS: LazyLock<HashSet<HeaderName>> = LazyLock::new(|| {
    let name = |place: &ValueLocator| match place {
        ValueLocator::Header(field) => Some(field.name().clone()),
        _ => None,
    };
    let ways = || {
        CATALOG.provider.iter().flat_map(|row| {
            std::iter::once(&row.scheme)
                .chain(&row.others)
                .chain(row.variants.values())
        })
    };
    let repeated: HashSet<_> = ways()
        .filter(|way| way.sig.repeats)
        .filter_map(|way| name(&way.sig.at))
        .collect();

    let signatures = ways().map(|way| &way.sig.at);
    let deliveries = CATALOG.provider.iter().flat_map(|row| &row.delivery);
    signatures
        .chain(deliveries)
        .filter_map(name)
        .filter(|name| !repeated.contains(name))
        .collect()
});

impl Provider {
    /// Returns the default schemes, any of which is sufficient.
    #[must_use]
    pub fn schemes(&self) -> Vec<Scheme> {
        std::iter::once(&self.scheme)
            .chain(&self.others)
            .cloned()
            .collect()
    }

    /// Returns the first default scheme.
    #[must_use]
    pub const fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Returns the schemes that a policy pins: those of a variant, or the default ones.
    ///
    /// # Errors
    /// A sentence that lists the variants, if there is none of this name.
    pub fn pinned(&self, variant: Option<&str>) -> Result<Vec<Scheme>, Reason> {
        match variant {
            None => Ok(self.schemes()),
            Some(name) => match self.variants.get(name) {
                Some(scheme) => Ok(vec![scheme.clone()]),
                None if self.variants.is_empty() => {
                    Err(format!("{} has no variants", self.name).into())
                }
                None => {
                    let names = self.variants.keys().cloned().collect::<Vec<_>>().join(", ");
                    Err(format!(
                        "{} has no variant {name:?}; its variants: {names}",
                        self.name
                    )
                    .into())
                }
            },
        }
    }

    /// Returns the format of the provider's secret.
    #[must_use]
    pub fn shape(&self) -> SecretShape {
        SecretShape {
            parts: self.parts.clone(),
            plain: self.plain.clone(),
        }
    }

    /// Returns `true` if the secret can have several parts.
    #[must_use]
    pub(crate) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Returns how much of the body the signatures cover: of several schemes, the least.
    #[must_use]
    pub fn coverage(&self) -> Coverage {
        self.schemes()
            .iter()
            .map(Scheme::coverage)
            .min()
            .unwrap_or(Coverage::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_catalog_loads_and_is_sorted() {
        let rows: Catalog = toml::from_str(include_str!("providers/catalog.toml")).unwrap();
        assert!(
            rows.provider.is_sorted_by(|a, b| a.id < b.id),
            "sorted by id, no id twice"
        );
        assert!(
            rows.unverifiable.is_sorted_by(|a, b| a.id < b.id),
            "sorted by id, no id twice"
        );

        for row in &rows.provider {
            assert!(
                row.id
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );

            for scheme in row.schemes().iter().chain(row.variants.values()) {
                scheme
                    .check()
                    .unwrap_or_else(|error| panic!("{}: {error}", row.id));
            }

            assert!(!row.source.is_empty(), "{} has no source", row.id);
            let status = row.refused_with.map(http::StatusCode::from_u16);
            assert!(
                status.is_none_or(|status| status.unwrap().is_client_error()),
                "{}",
                row.id
            );

            if let Some(set) = &row.addresses {
                assert!(
                    hookward_core::ip_sets::find(set).is_some(),
                    "{}: no set is called {set}",
                    row.id
                );
            }
        }

        let ids = rows.unverifiable.iter().map(|row| &row.id);
        let names = rows
            .provider
            .iter()
            .flat_map(|row| std::iter::once(&row.id).chain(&row.aliases));
        let names: Vec<_> = names.chain(ids).collect();
        let different: BTreeSet<_> = names.iter().map(|name| name.replace('-', "_")).collect();
        assert_eq!(
            different.len(),
            names.len(),
            "every name stands for one provider"
        );
    }

    #[test]
    fn schemes_are_written_as_they_are_read() {
        for row in all() {
            for scheme in row.schemes() {
                let text = serde_json::to_string(&scheme).unwrap();
                assert_eq!(
                    serde_json::from_str::<Scheme>(&text).unwrap(),
                    scheme,
                    "{}",
                    row.id
                );
            }
        }
    }

    #[test]
    fn names_and_aliases() {
        for name in [
            "bitbucket_dc",
            "bitbucket-dc",
            "bitbucket-server",
            "bitbucket_server",
        ] {
            assert_eq!(find(name).unwrap().id, "bitbucket_dc", "{name}");
        }

        assert!(find("GitHub").is_some());
        assert!(
            unknown("githup").contains("github"),
            "{}",
            unknown("githup")
        );
        assert!(!unknown("a-secret-and-no-name_0123456789abcdefghij").contains("0123"));
        assert!(find("").is_none());
    }

    #[test]
    fn what_can_not_be_verified_says_why() {
        for name in [
            "docker_hub",
            "docker-hub",
            "ebay",
            "go1",
            "fal",
            "mailchannels",
            "oci_notifications",
        ] {
            assert!(find(name).is_none(), "{name}");
            assert!(
                unknown(name).contains("can't be verified"),
                "{}",
                unknown(name)
            );
        }
    }

    /// Every host that the catalog fetches from, and hosts that only resemble one.
    #[test]
    fn no_pattern_of_the_catalog_matches_a_bucket_or_a_longer_name() {
        let fetched = all().iter().flat_map(|row| {
            let schemes = row
                .schemes()
                .into_iter()
                .chain(row.variants.values().cloned());
            let keys =
                schemes.flat_map(|scheme| scheme.fetch.into_iter().flat_map(|fetch| fetch.hosts));
            let confirmed = row
                .challenges
                .iter()
                .flat_map(|challenge| &challenge.confirm);

            keys.chain(confirmed.flat_map(|confirm| confirm.hosts.clone()))
                .collect::<Vec<_>>()
        });

        let mut count = 0;
        for pattern in fetched {
            count += 1;
            let text = String::from(pattern.clone());

            for (from, to) in [
                ("{region}", "s3"),
                ("{region}", "s3-us-west-2"),
                ("*", "a.b"),
                ("*", ""),
            ] {
                let host = text.replace(from, to);
                assert!(
                    host == text || !pattern.matches(&host),
                    "{text} takes {host}"
                );
            }

            for host in [
                format!("{text}.evil.example"),
                format!("x{text}"),
                format!("x.{text}"),
            ] {
                assert!(!pattern.matches(&host), "{text} takes {host}");
            }
        }

        assert!(count >= 5, "{count}");
    }
}
