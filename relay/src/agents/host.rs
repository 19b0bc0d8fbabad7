//! What agents' connections find when they come: the relay, as far as it concerns them.

use std::collections::BTreeMap;

use hookward_shared::clock::Clock;
use hookward_shared::gate::address::AddressSet;
use hookward_shared::limits::Limits;
use hookward_shared::names::{AgentName, HostName};
use hookward_shared::transport::liveness::Liveness;

use super::registry::Registry;
use crate::address_lists::AddressLists;
use crate::store::Store;

/// What a session needs of the relay.
pub struct Host {
    /// Who serves which host.
    pub registry: Registry,
    /// What survives a restart.
    pub store: Store,
    /// The time of day.
    pub clock: Clock,
    /// All bounds.
    pub limits: Limits,
    /// The public domain.
    pub domain: HostName,
    /// Exact hosts by the relay's settings.
    pub given: BTreeMap<HostName, AgentName>,
    /// The port of public URLs.
    pub public_port: u16,
    /// The named sets of addresses.
    pub lists: AddressLists,
    /// Trusted proxies, which are never locked out.
    pub trusted_proxies: AddressSet,
}

impl Host {
    /// When an agent's connection counts as dead.
    #[must_use]
    pub const fn liveness(&self) -> Liveness {
        Liveness::dead_after_silence_of(self.limits.tunnel_dead)
    }

    /// The host of an agent that asks for none: what the settings give it, or its name below the domain.
    #[must_use]
    pub fn host_of(&self, agent: &AgentName) -> HostName {
        let given = self.given.iter().find(|(_, owner)| *owner == agent).map(|(name, _)| name.clone());
        given.unwrap_or_else(|| self.domain.child(agent))
    }
}
