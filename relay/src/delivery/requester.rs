//! The administrator or agent that requests an act on stored deliveries.

use std::net::IpAddr;

use hookward_observe::audit::{Actor, AuditLog, Causer, LimitedKind};
use serde_json::{Value, json};

use crate::storage::agents::AgentId;

/// Client of a method on stored deliveries.
#[derive(Debug, Clone)]
pub(crate) struct Requester {
    actor: Actor,
    /// Agent whose deliveries alone are visible, and its address; `None` for an administrator.
    agent: Option<(AgentId, IpAddr)>,
}

impl Requester {
    pub(crate) const fn administrator(actor: Actor) -> Self {
        Self { actor, agent: None }
    }

    pub(crate) const fn agent(actor: Actor, agent: AgentId, address: IpAddr) -> Self {
        Self {
            actor,
            agent: Some((agent, address)),
        }
    }

    /// Returns the agent whose deliveries alone are visible.
    pub(crate) fn owner(&self) -> Option<AgentId> {
        self.agent.map(|(agent, _)| agent)
    }

    /// Returns `true` if deliveries of this agent are visible.
    pub(crate) fn sees(&self, owner: AgentId) -> bool {
        self.owner().is_none_or(|own| own == owner)
    }

    /// Records an act. Acts of agents are bounded, so that they fill no disk.
    pub(crate) fn record(&self, audit: &AuditLog, event: &'static str, mut fields: Value) {
        let Some((_, address)) = self.agent else {
            audit.act(event, self.actor.clone(), fields);
            return;
        };
        if let Value::Object(fields) = &mut fields {
            fields.insert("actor".to_owned(), json!(self.actor.to_string()));
        }
        let kind = LimitedKind { event, reason: "" };
        audit.limited(Causer::Agent, address, kind, || fields);
    }
}
