//! State of one public host: its sessions, its policy, and the choice of a session.

use crate::sessions::active::ActiveSession;
use crate::storage::agents::AgentId;
use hookward_gate::engine::{Gate, GateState};
use hookward_runtime::offload::OffloadQueue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// State of a public host.
#[derive(Clone)]
pub(crate) struct TunnelEndpoint {
    /// The owner's policy; `None` until the owner has opened the tunnel since the relay's start.
    pub gate: Option<Arc<Gate>>,
    /// The sessions that have opened it, the oldest first. Those of the newest run serve.
    pub(super) sessions: Arc<[Endpoint]>,
    /// State of its gate: rates, lockouts, named sets.
    pub state: Arc<GateState>,
    /// Queue for checks of its large bodies.
    pub checks: OffloadQueue,
    /// Scheme and authority of its public URL.
    pub origin: Arc<str>,
    /// Since when no session serves it.
    pub(super) away_since: Instant,
    /// The runs that came last, in the order of their first arrival: one that comes again is no
    /// newer for it.
    pub(super) runs: Arc<[KnownInstance]>,
}

/// A run of an agent's program, and its place among all that have come to a tunnel.
pub(super) type KnownInstance = (AgentId, Box<str>, u64);

/// Runs that are remembered for a tunnel, beyond their sessions.
pub(super) const KNOWN_INSTANCES: usize = 16;

/// A session that has opened a tunnel.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) live: Arc<ActiveSession>,
    /// The place of its run among all that have come to this tunnel.
    pub(super) arrival: u64,
    /// The policy that its run has brought.
    pub(super) brought: PolicyVersion,
    /// `true` while the agent reports that the application accepts no connection.
    pub(super) down: Arc<AtomicBool>,
}

/// A policy that an agent's run has brought.
#[derive(Clone)]
pub(crate) struct PolicyVersion {
    pub gate: Arc<Gate>,
    /// The run's later ones have a greater one.
    pub revision: u64,
}

impl Default for TunnelEndpoint {
    fn default() -> Self {
        // Of a tunnel without a gate nothing is counted, and every request begins with one: the
        // copies of the named sets are not made for each.
        static NOTHING: LazyLock<Arc<GateState>> = LazyLock::new(Arc::default);
        static NOWHERE: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

        Self {
            gate: None,
            sessions: Arc::from([]),
            state: Arc::clone(&NOTHING),
            checks: OffloadQueue::default(),
            origin: Arc::clone(&NOWHERE),
            away_since: Instant::now(),
            runs: Arc::from([]),
        }
    }
}

impl TunnelEndpoint {
    /// The sessions that serve: those of the newest run, and of all that share with it.
    pub(super) fn serving(&self) -> impl Iterator<Item = &Endpoint> {
        let newest = self.sessions.iter().max_by_key(|session| session.arrival);
        self.sessions.iter().filter(move |session| {
            newest.is_some_and(|newest| {
                let shared = newest.live.is_pooled()
                    && session.live.is_pooled()
                    && newest.live.agent.id == session.live.agent.id;
                session.arrival == newest.arrival || shared
            })
        })
    }

    /// Returns `true` if no session serves the host.
    #[must_use]
    pub(crate) fn is_away(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Returns the session that gets the owner's events.
    #[must_use]
    pub(crate) fn owner(&self) -> Option<&Arc<ActiveSession>> {
        self.serving()
            .min_by_key(|session| self.penalty(session))
            .map(|session| &session.live)
    }

    /// Returns the reasons against a session: its application is down, its agent is silent, or a
    /// newer connection has replaced it.
    fn penalty(&self, session: &Endpoint) -> (bool, bool, bool) {
        let replaced = self
            .sessions
            .iter()
            .any(|other| other.live.replaces(&session.live));

        (
            session.down.load(Ordering::Relaxed),
            session.live.is_silent(),
            replaced,
        )
    }

    /// The session that a request goes to: of the run that has the least to do, the oldest
    /// connection that is not overloaded; one that there is a doubt about only when there is no
    /// other. `None` when none `may` have it.
    #[must_use]
    pub(crate) fn select(
        &self,
        may: impl Fn(&ActiveSession) -> bool,
    ) -> Option<&Arc<ActiveSession>> {
        // Nearly always there are one or two, of one run.
        let load = ActiveSession::in_flight;
        let of_run = |session: &ActiveSession| {
            if !session.is_pooled() {
                return 0;
            }
            self.serving()
                .filter(|other| other.live.is_same_instance(session))
                .map(|other| load(&other.live))
                .sum()
        };

        let candidates = self.serving().filter(|session| may(&session.live));
        let best = candidates.min_by_key(|session| {
            (
                self.penalty(session),
                of_run(&session.live),
                session.live.load_penalty(),
            )
        });
        best.map(|session| &session.live)
    }

    /// Removes the session from this tunnel.
    pub(super) fn give_up(&mut self, session: &ActiveSession) {
        if self.sessions.iter().any(|other| other.live.is(session)) {
            self.sessions = self
                .sessions
                .iter()
                .filter(|other| !other.live.is(session))
                .cloned()
                .collect();
            self.away_since = Instant::now();
            self.refresh_policy();
        }
    }

    /// The policy is that of the newest run; without any, the last one's.
    pub(super) fn refresh_policy(&mut self) {
        if let Some(newest) = self.sessions.iter().max_by_key(|session| session.arrival) {
            self.gate = Some(Arc::clone(&newest.brought.gate));
        }
    }
}
