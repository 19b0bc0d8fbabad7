//! Address sets in use.

use super::all;
use crate::address::AddressSet;
use crate::clock::UnixMillis;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

/// Source of the ranges in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetOrigin {
    /// No copy is available.
    Nowhere,
    /// The built-in copy of this date.
    BuiltIn(Option<String>),
    /// The provider's list, fetched at this time.
    Fetched(UnixMillis),
}

/// Ranges of a set in use.
#[derive(Debug, Clone)]
pub struct ActiveSet {
    /// Ranges in use.
    pub addresses: AddressSet,
    /// Number of listed ranges.
    pub count: usize,
    /// Source of the ranges.
    pub origin: SetOrigin,
}

impl ActiveSet {
    /// Returns the age of the ranges as text.
    #[must_use]
    pub fn age(&self, now: UnixMillis) -> String {
        match &self.origin {
            SetOrigin::Nowhere => "empty until its first refresh".to_owned(),
            SetOrigin::BuiltIn(Some(day)) => {
                format!("{} ranges, the built-in copy of {day}", self.count)
            }
            SetOrigin::BuiltIn(None) => {
                format!("{} ranges, the built-in copy, undated", self.count)
            }
            SetOrigin::Fetched(at) => {
                format!(
                    "{} ranges, read {} h ago",
                    self.count,
                    now.seconds().saturating_sub(at.seconds()) / 3600
                )
            }
        }
    }
}

/// All named sets in use; clones share them.
#[derive(Clone)]
pub struct NamedSets {
    // A std lock: lookups copy a pointer, and nothing waits while it is held.
    current: Arc<RwLock<BTreeMap<&'static str, Arc<ActiveSet>>>>,
}

impl Default for NamedSets {
    fn default() -> Self {
        let current = all()
            .iter()
            .map(|set| (set.name.as_str(), Arc::new(set.built_in())))
            .collect();
        Self {
            current: Arc::new(RwLock::new(current)),
        }
    }
}

impl NamedSets {
    /// Returns the ranges of a set in use.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<ActiveSet>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// Replaces the ranges of a set by a fetched list.
    pub fn set(&self, name: &'static str, networks: &[IpNet], at: UnixMillis) {
        let current = ActiveSet {
            addresses: AddressSet::new(networks),
            count: networks.len(),
            origin: SetOrigin::Fetched(at),
        };

        self.current
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, Arc::new(current));
    }

    /// Returns `true` if the set of this name contains this address.
    #[must_use]
    pub fn contains(&self, name: &str, address: IpAddr) -> bool {
        self.get(name)
            .is_some_and(|current| current.addresses.contains(address))
    }
}
