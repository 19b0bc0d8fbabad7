//! The catalogue of webhook providers: who signs how, as data.
//!
//! A row pins one [`Scheme`]; the sender never chooses it. The rows stand in
//! `providers/catalogue.toml`, sorted, each with its source; adding a provider that signs in a known
//! way means adding a row and its fixtures there, and no code.

pub mod keyed;
pub mod scheme;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use http::HeaderName;
use serde::Deserialize;

pub use keyed::{Keyed, SignatureFault};
pub use scheme::Scheme;

/// One provider.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its id: lower case, words joined by `_`.
    pub id: String,
    /// Other names by which it is known.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its name for people.
    pub name: String,
    /// The header with the delivery's id. It identifies one delivery, so that a request which
    /// repeats it with another value is ambiguous, whatever the route.
    #[serde(default)]
    pub delivery: Option<String>,
    /// How it signs.
    pub scheme: Scheme,
    /// The status that a wrong signature gets: 403, unless the provider tries out whether it gets
    /// another one.
    #[serde(default)]
    pub refused_with: Option<u16>,
    /// Where that is written down.
    pub source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    provider: Vec<Provider>,
}

static CATALOGUE: LazyLock<Vec<Provider>> = LazyLock::new(|| {
    // The data is part of the program and read by a unit test; a broken row can't be released.
    // Were it broken all the same, the catalogue is empty, and every policy that names a provider
    // is refused.
    toml::from_str::<Catalogue>(include_str!("providers/catalogue.toml"))
        .map(|catalogue| catalogue.provider)
        .unwrap_or_default()
});

static DELIVERY_HEADERS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    CATALOGUE.iter().filter_map(|row| row.delivery.as_ref()).map(|name| name.to_ascii_lowercase()).collect()
});

/// All providers, sorted by id.
#[must_use]
pub fn all() -> &'static [Provider] {
    &CATALOGUE
}

/// The provider of that id or alias; `-` and `_` are alike.
#[must_use]
pub fn find(name: &str) -> Option<&'static Provider> {
    let wanted = name.replace('-', "_");
    let named = |text: &String| text.replace('-', "_") == wanted;
    CATALOGUE.iter().find(|row| row.id == wanted || row.aliases.iter().any(named))
}

/// What to say about a name that no provider has. A text that could be a secret is not repeated.
#[must_use]
pub fn unknown(name: &str) -> String {
    /// From here on two names are alike (Jaro-Winkler, 0 to 1).
    const ALIKE: f64 = 0.85;
    /// Names that are suggested.
    const SUGGESTED: usize = 3;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let all = "`hookward providers` lists all";
    if name.len() > 40 || !name.bytes().all(plain) {
        return format!("no provider has this name; {all}");
    }
    let names = CATALOGUE.iter().flat_map(|row| std::iter::once(&row.id).chain(&row.aliases));
    let mut alike: Vec<(f64, &str)> =
        names.map(|known| (strsim::jaro_winkler(known, name), known.as_str())).filter(|(at, _)| *at >= ALIKE).collect();
    alike.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    alike.truncate(SUGGESTED);
    if alike.is_empty() {
        return format!("no provider is called {name:?}; {all}");
    }
    let alike = alike.into_iter().map(|(_, known)| known).collect::<Vec<_>>().join(", ");
    format!("no provider is called {name:?}; is it one of {alike}? {all}")
}

/// Whether some provider identifies its deliveries by this header.
#[must_use]
pub fn identifies_delivery(name: &HeaderName) -> bool {
    DELIVERY_HEADERS.contains(name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_loads_and_is_sorted() {
        let rows: Catalogue = toml::from_str(include_str!("providers/catalogue.toml")).unwrap();
        assert!(rows.provider.is_sorted_by(|a, b| a.id < b.id), "sorted by id, no id twice");
        for row in &rows.provider {
            assert!(row.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            row.scheme.check().unwrap_or_else(|error| panic!("{}: {error}", row.id));
            assert!(!row.source.is_empty(), "{} has no source", row.id);
            let status = row.refused_with.map(http::StatusCode::from_u16);
            assert!(status.is_none_or(|status| status.unwrap().is_client_error()), "{}", row.id);
        }
        let names: Vec<_> = rows.provider.iter().flat_map(|row| std::iter::once(&row.id).chain(&row.aliases)).collect();
        let different: BTreeSet<_> = names.iter().map(|name| name.replace('-', "_")).collect();
        assert_eq!(different.len(), names.len(), "every name stands for one provider");
    }

    #[test]
    fn names_and_aliases() {
        for name in ["bitbucket_dc", "bitbucket-dc", "bitbucket-server", "bitbucket_server"] {
            assert_eq!(find(name).unwrap().id, "bitbucket_dc", "{name}");
        }
        assert!(find("GitHub").is_none());
        assert!(unknown("githup").contains("github"), "{}", unknown("githup"));
        assert!(!unknown("a-secret-and-no-name_0123456789abcdefghij").contains("0123"));
        assert!(find("").is_none());
    }
}
