//! Tunnel of one public host: its sessions, its policy, and the choice of a session.

use crate::sessions::active::ActiveSession;
use crate::storage::agents::{AgentId, AgentScope};
use hookward_gate::engine::{Gate, GateState};
use hookward_runtime::offload::OffloadQueue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

/// Tunnel of a public host.
#[derive(Clone)]
pub(crate) struct TunnelEndpoint {
    /// Gate with the owner's policy; `None` until the owner has opened the tunnel since the relay
    /// started.
    pub gate: Option<Arc<Gate>>,
    /// Agent that brought the gate.
    pub owner: Option<AgentId>,
    /// Scope of the agent, which the gate's policy was held to.
    pub(super) scope: Arc<AgentScope>,
    /// Sessions that opened it, oldest first. Those of the newest instance serve.
    pub(super) sessions: Arc<[Endpoint]>,
    /// State of its gate: rates, lockouts, address sets.
    pub state: Arc<GateState>,
    /// Queue for checks of its large bodies.
    pub checks: OffloadQueue,
    /// Origin (scheme and authority) of its public URL.
    pub origin: Arc<str>,
    /// Time since when no session serves it.
    pub(super) away_since: Instant,
    /// Recent instances in the order of their first arrival, so that a reconnect does not make one
    /// newer.
    pub(super) runs: Arc<[KnownInstance]>,
}

/// An instance of an agent's program, and its arrival number.
pub(super) type KnownInstance = (AgentId, Box<str>, u64);

/// Number of instances remembered beyond those with sessions.
pub(super) const KNOWN_INSTANCES: usize = 16;

/// A session that has opened a tunnel.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) live: Arc<ActiveSession>,
    /// Arrival number of its instance.
    pub(super) arrival: u64,
    /// Policy of its instance.
    pub(super) brought: PolicyVersion,
    /// `true` while the agent reports that the application accepts no connection.
    pub(super) down: Arc<AtomicBool>,
}

/// Policy that an instance sent.
#[derive(Clone)]
pub(crate) struct PolicyVersion {
    pub gate: Arc<Gate>,
    /// Revision; later policies of the instance have a higher one.
    pub revision: u64,
    /// Scope of the agent, which the policy was held to.
    pub scope: Arc<AgentScope>,
}

impl PolicyVersion {
    /// Returns `true` if both were held to the same limits.
    pub(super) fn is_held_to_same(&self, other: &Self) -> bool {
        self.scope.includes(&other.scope) && other.scope.includes(&self.scope)
    }
}

impl Default for TunnelEndpoint {
    fn default() -> Self {
        // A tunnel without a gate counts nothing, and every request starts with one, so all share
        // this state.
        static NOTHING: LazyLock<Arc<GateState>> = LazyLock::new(Arc::default);
        static NOWHERE: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

        Self {
            gate: None,
            owner: None,
            scope: Arc::default(),
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
    /// Returns the sessions that serve: those of the newest instance, and of those that share with
    /// it.
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

    /// Returns the number of sessions.
    #[must_use]
    pub(crate) fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Returns `true` if no session serves the host.
    #[must_use]
    pub(crate) fn is_away(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Returns `true` if a session serves the host whose application accepts connections.
    #[must_use]
    pub(crate) fn is_available(&self) -> bool {
        self.serving()
            .any(|session| !session.down.load(Ordering::Relaxed))
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

    /// Chooses the session for a request: of the least loaded instance, the oldest connection that
    /// is not overloaded. Sessions with a penalty are the last choice. Returns `None` if `may`
    /// accepts none.
    #[must_use]
    pub(crate) fn select(
        &self,
        may: impl Fn(&ActiveSession) -> bool,
    ) -> Option<&Arc<ActiveSession>> {
        // Nearly always there are one or two, of one instance.
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

    /// Applies the policy of the newest instance, or keeps the last one without any.
    pub(super) fn refresh_policy(&mut self) {
        if let Some(newest) = self.sessions.iter().max_by_key(|session| session.arrival) {
            self.gate = Some(Arc::clone(&newest.brought.gate));
            self.scope = Arc::clone(&newest.brought.scope);
        }
    }
}
