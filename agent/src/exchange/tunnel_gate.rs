//! The gate of a tunnel, and gates that it has replaced.

use std::sync::Arc;

use arc_swap::ArcSwap;
use hookward_core::clock::UnixMillis;
use hookward_gate::engine::{Gate, RetiredGate};

use crate::inspector::policy::InspectedPolicy;

/// The agent's gate that is in force for a tunnel at a relay.
pub(crate) struct TunnelGate(ArcSwap<GateHistory>);

/// A gate, and those that it has replaced, newest first: the secret of a stored webhook may be
/// retired by the time of its delivery.
pub(crate) struct GateHistory {
    pub current: Arc<Gate>,
    /// Policy of the current gate.
    pub policy: Arc<InspectedPolicy>,
    pub retired: Vec<RetiredGate>,
}

impl TunnelGate {
    pub(crate) fn new(gate: Arc<Gate>, policy: Arc<InspectedPolicy>) -> Self {
        Self(ArcSwap::from_pointee(GateHistory {
            current: gate,
            policy,
            retired: Vec::new(),
        }))
    }

    /// Returns the gate with those that it has replaced.
    pub(crate) fn history(&self) -> Arc<GateHistory> {
        self.0.load_full()
    }

    /// Returns the gate in force.
    pub(crate) fn current(&self) -> Arc<Gate> {
        Arc::clone(&self.0.load().current)
    }

    /// Returns the policy of the gate in force.
    pub(crate) fn policy(&self) -> Arc<InspectedPolicy> {
        Arc::clone(&self.0.load().policy)
    }

    /// Puts the gate of a policy in force.
    pub(crate) fn replace(&self, gate: &Arc<Gate>, policy: &Arc<InspectedPolicy>, now: UnixMillis) {
        let before = self.0.load_full();
        if Arc::ptr_eq(&before.current, gate) {
            return;
        }

        let last = RetiredGate {
            gate: Arc::clone(&before.current),
            until: now,
        };
        let earlier = before.retired.iter().take(RETIRED_GATES - 1).cloned();
        self.0.store(Arc::new(GateHistory {
            current: Arc::clone(gate),
            policy: Arc::clone(policy),
            retired: [last].into_iter().chain(earlier).collect(),
        }));
    }
}

/// Number of replaced gates that are kept: a secret is rotated in two or three steps.
const RETIRED_GATES: usize = 8;
