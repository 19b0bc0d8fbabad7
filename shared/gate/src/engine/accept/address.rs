//! Address rules of an accept rule.

use crate::engine::evaluation::Evaluation;
use crate::engine::state::GateState;
use crate::policy::Addresses;
use hookward_core::address::AddressSet;
use std::net::IpAddr;

/// Address ranges and named sets.
pub(crate) struct AddressRule {
    pub(super) ranges: AddressSet,
    pub(super) named: Vec<String>,
}

impl AddressRule {
    pub(crate) fn new(addresses: &Addresses) -> Self {
        let named = addresses
            .named
            .iter()
            .map(|name| name.replace('-', "_"))
            .collect();

        Self {
            ranges: addresses.set(),
            named,
        }
    }

    /// Returns `true` if the rule contains this address.
    pub(crate) fn contains(&self, client: IpAddr, state: &GateState) -> bool {
        self.ranges.contains(client)
            || self
                .named
                .iter()
                .any(|name| state.sets.contains(name, client))
    }

    /// Returns the names of the sets.
    pub(crate) fn named(&self) -> &[String] {
        &self.named
    }

    /// Describes the named sets with the age of their content.
    pub(crate) fn ages(&self, evaluation: Evaluation<'_>) -> Vec<String> {
        let age = |name: &String| {
            evaluation
                .state
                .sets
                .get(name)
                .map(|set| format!("{name}: {}", set.age(evaluation.time())))
        };
        self.named.iter().filter_map(age).collect()
    }
}
