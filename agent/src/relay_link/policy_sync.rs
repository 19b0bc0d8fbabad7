//! Choice of the policy for opening a tunnel: the wanted one, unless the relay refused it; then the
//! last accepted one. A policy is in force on this side once the relay accepts it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hookward_core::clock::UnixMillis;
use hookward_core::text::printable;
use hookward_gate::engine::Gate;
use hookward_gate::policy::{Policy, summary};
use tokio::sync::watch;

use crate::events::{Event, EventSink};
use crate::exchange::TunnelGate;
use crate::inspector::policy::InspectedPolicy;

/// A policy in the form for the relay, and compiled for the agent's own gate.
pub(crate) struct PolicyOffer {
    /// For the relay, without the secrets that stay on the agent.
    pub policy: Policy,
    pub gate: Arc<Gate>,
    /// For the inspector.
    pub inspected: Arc<InspectedPolicy>,
    /// Revision; later policies have a higher one.
    pub revision: u64,
    /// Digest of the policy, which the relay returns once it is in force there.
    pub digest: String,
}

impl PolicyOffer {
    /// Creates the gate of an offer.
    #[must_use]
    pub(crate) fn tunnel_gate(&self) -> TunnelGate {
        TunnelGate::new(Arc::clone(&self.gate), Arc::clone(&self.inspected))
    }

    /// Puts the gate of an offer in force.
    pub(crate) fn put_in_force(&self, gate: &TunnelGate, now: UnixMillis) {
        gate.replace(&self.gate, &self.inspected, now);
    }

    /// Creates an offer that is newer than all others of this process.
    #[must_use]
    pub(crate) fn new(policy: Policy, gate: Gate, inspected: InspectedPolicy) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let revision = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        Self {
            digest: summary::digest(&policy),
            policy,
            gate: Arc::new(gate),
            inspected: Arc::new(inspected),
            revision,
        }
    }

    /// Warns if the relay has put another policy in force than this one: it has another version, or
    /// changed the policy.
    pub(crate) fn compare_digest(&self, digest: Option<&str>, relay: &str, events: &EventSink) {
        if let Some(digest) = digest.filter(|digest| *digest != self.digest) {
            events.emit(Event::Warning(format!(
                "the relay {relay} has another policy in force: its digest is {}, and {} was expected; are both \
                 programs of one version?",
                printable(digest),
                self.digest
            )));
        }
    }
}

/// Effect of a policy that the relay accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The policy has come into force.
    New,
    /// The policy was in force already.
    Unchanged,
    /// A newer policy was accepted meanwhile, over another connection.
    Stale,
}

/// Policies of one tunnel at one relay.
pub(crate) struct PolicySync {
    wanted: watch::Receiver<Arc<PolicyOffer>>,
    // A std mutex: it guards two pointers, and nothing waits while it is held.
    known: Mutex<RelayPolicy>,
}

#[derive(Default)]
struct RelayPolicy {
    accepted: Option<Arc<PolicyOffer>>,
    refused: Option<Arc<PolicyOffer>>,
}

impl PolicySync {
    /// Tracks the policies of this channel.
    #[must_use]
    pub(crate) fn new(wanted: watch::Receiver<Arc<PolicyOffer>>) -> Self {
        Self {
            wanted,
            known: Mutex::default(),
        }
    }

    /// Returns the policy to open the tunnel with.
    #[must_use]
    pub(crate) fn best(&self) -> Arc<PolicyOffer> {
        let (wanted, known) = (Arc::clone(&self.wanted.borrow()), self.lock());
        match (&known.refused, &known.accepted) {
            (Some(refused), Some(accepted)) if Arc::ptr_eq(refused, &wanted) => {
                Arc::clone(accepted)
            }
            _ => wanted,
        }
    }

    /// Records that the relay accepted this policy.
    pub(crate) fn accept(&self, offer: &Arc<PolicyOffer>) -> Applied {
        let mut known = self.lock();
        match known.accepted.as_ref().map(|accepted| accepted.revision) {
            Some(accepted) if accepted == offer.revision => Applied::Unchanged,
            Some(accepted) if accepted > offer.revision => Applied::Stale,
            _ => {
                known.accepted = Some(Arc::clone(offer));
                Applied::New
            }
        }
    }

    /// Returns `true` if the relay has refused this policy.
    #[must_use]
    pub(crate) fn is_refused(&self, offer: &Arc<PolicyOffer>) -> bool {
        self.lock()
            .refused
            .as_ref()
            .is_some_and(|refused| Arc::ptr_eq(refused, offer))
    }

    /// Records that the relay refused this policy. Returns `true` if there is another one to use.
    pub(crate) fn refuse(&self, offer: &Arc<PolicyOffer>) -> bool {
        let mut known = self.lock();
        known.refused = Some(Arc::clone(offer));
        known
            .accepted
            .as_ref()
            .is_some_and(|accepted| !Arc::ptr_eq(accepted, offer))
    }

    /// Waits for a wanted policy that was neither accepted nor refused. Waits forever without one.
    pub(crate) async fn changed(&self) -> Arc<PolicyOffer> {
        let mut wanted = self.wanted.clone();
        loop {
            let offer = Arc::clone(&wanted.borrow_and_update());
            if !self.is_known(&offer) {
                return offer;
            }

            if wanted.changed().await.is_err() {
                // The source of policies is gone, so no other will arrive.
                std::future::pending::<()>().await;
            }
        }
    }

    fn is_known(&self, offer: &Arc<PolicyOffer>) -> bool {
        let known = self.lock();
        let is = |one: &Option<Arc<PolicyOffer>>| {
            one.as_ref().is_some_and(|one| Arc::ptr_eq(one, offer))
        };
        is(&known.accepted) || is(&known.refused)
    }

    fn lock(&self) -> MutexGuard<'_, RelayPolicy> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
