//! Which sessions serve which public host.
//!
//! A tunnel outlives its sessions: the host stays known (and is kept in the store), the policy
//! stays in memory. So a host whose agent is away answers 503, and 404 is for hosts that nobody
//! owns. The connections of one run of the agent serve together. A newer run takes over at once,
//! unless both have asked to share, and an older one serves again when it is gone.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::names::HostName;
use hookward_gate::engine::{Gate, GateState};
use hookward_runtime::offload::OffloadQueue;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::sessions::active::ActiveSession;
use crate::storage::agents::AgentId;

/// All tunnels; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    // A std mutex: look-ups copy some pointers, and nothing waits while it is held.
    tunnels: Arc<Mutex<HashMap<HostName, TunnelEndpoint>>>,
    /// Grows with every tunnel that is opened.
    opened: Arc<watch::Sender<u64>>,
    /// Sessions of each agent.
    of_agent: Arc<Mutex<HashMap<AgentId, usize>>>,
}

/// Connections of one agent: several machines of a pool with some each. It can't take everybody's
/// files.
const SESSIONS_PER_AGENT: usize = 64;

/// A session's place among its agent's.
pub(crate) struct AgentSlot(Arc<Mutex<HashMap<AgentId, usize>>>, AgentId);

impl Drop for AgentSlot {
    fn drop(&mut self) {
        let mut of_agent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = of_agent.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                of_agent.remove(&self.1);
            }
        }
    }
}

/// An agent that was away for longer is not expected back at any moment.
const RECONNECT_EXPECTED: Duration = Duration::from_secs(30);

/// State of a public host.
#[derive(Clone)]
pub(crate) struct TunnelEndpoint {
    /// The owner's policy; `None` until the owner has opened the tunnel since the relay's start.
    pub gate: Option<Arc<Gate>>,
    /// The sessions that have opened it, the oldest first. Those of the newest run serve.
    sessions: Arc<[Endpoint]>,
    /// State of its gate: rates, lockouts, named sets.
    pub state: Arc<GateState>,
    /// Queue for checks of its large bodies.
    pub checks: OffloadQueue,
    /// Scheme and authority of its public URL.
    pub origin: Arc<str>,
    /// Since when no session serves it.
    away_since: Instant,
    /// The runs that came last, in the order of their first arrival: one that comes again is no
    /// newer for it.
    runs: Arc<[KnownInstance]>,
}

/// A run of an agent's program, and its place among all that have come to a tunnel.
type KnownInstance = (AgentId, Box<str>, u64);

/// Runs that are remembered for a tunnel, beyond their sessions.
const KNOWN_INSTANCES: usize = 16;

/// A session that has opened a tunnel.
#[derive(Clone)]
struct Endpoint {
    live: Arc<ActiveSession>,
    /// The place of its run among all that have come to this tunnel.
    arrival: u64,
    /// The policy that its run has brought.
    brought: PolicyVersion,
    /// `true` while the agent reports that the application accepts no connection.
    down: Arc<AtomicBool>,
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
    fn serving(&self) -> impl Iterator<Item = &Endpoint> {
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
    fn give_up(&mut self, session: &ActiveSession) {
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
    fn refresh_policy(&mut self) {
        if let Some(newest) = self.sessions.iter().max_by_key(|session| session.arrival) {
            self.gate = Some(Arc::clone(&newest.brought.gate));
        }
    }
}

impl Registry {
    /// Makes these hosts known, and no others. A host that is being served is left alone: it may
    /// have been claimed after the owners were read.
    pub(crate) fn replace_known_hosts(&self, hosts: HashSet<HostName>) {
        let mut tunnels = self.lock();
        tunnels.retain(|name, tunnel| !tunnel.is_away() || hosts.contains(name));
        for host in hosts {
            tunnels.entry(host).or_default();
        }
    }

    /// A place for one more session of this agent; `None` when it has as many as one may.
    #[must_use]
    pub(crate) fn place(&self, agent: AgentId) -> Option<AgentSlot> {
        let mut of_agent = self.of_agent.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_agent.entry(agent).or_default();
        (*count < SESSIONS_PER_AGENT).then(|| {
            *count += 1;
            AgentSlot(Arc::clone(&self.of_agent), agent)
        })
    }

    /// Returns the state of this host; `None` if no agent owns it.
    #[must_use]
    pub(crate) fn find(&self, host: &str) -> Option<TunnelEndpoint> {
        self.lock().get(host).cloned()
    }

    /// Gives the host to this session, with its policy. Ownership was checked before. The newest
    /// run serves, and an older one again when it is gone. What was counted and who is locked out
    /// stays: to come again makes nobody new.
    pub(crate) fn open(
        &self,
        host: HostName,
        origin: Arc<str>,
        brought: PolicyVersion,
        state: GateState,
        session: &Arc<ActiveSession>,
    ) {
        let mut tunnels = self.lock();
        let before = tunnels.get(&host).filter(|tunnel| tunnel.gate.is_some());
        let state = before.map_or_else(|| Arc::new(state), |tunnel| Arc::clone(&tunnel.state));
        let checks = tunnels
            .get(&host)
            .map(|tunnel| tunnel.checks.clone())
            .unwrap_or_default();
        let others = tunnels
            .get(&host)
            .map(|tunnel| Arc::clone(&tunnel.sessions))
            .unwrap_or_else(|| Arc::from([]));

        let runs = tunnels
            .get(&host)
            .map(|tunnel| Arc::clone(&tunnel.runs))
            .unwrap_or_else(|| Arc::from([]));
        let known = runs.iter().find(|(agent, instance, _)| {
            *agent == session.agent.id && **instance == *session.instance()
        });
        let (arrival, runs) = match known {
            Some((_, _, arrival)) => (*arrival, Arc::clone(&runs)),
            None => {
                let wait_for_session = runs.last().map(|(_, _, last)| last + 1).unwrap_or_default();
                let run = (
                    session.agent.id,
                    session.instance().into(),
                    wait_for_session,
                );
                let over = (runs.len() + 1).saturating_sub(KNOWN_INSTANCES);
                (
                    wait_for_session,
                    runs.iter().skip(over).cloned().chain([run]).collect(),
                )
            }
        };

        // What another connection of the run has brought meanwhile is newer than what this one
        // brings late.
        let of_run = others
            .iter()
            .filter(|other| other.arrival == arrival)
            .map(|other| &other.brought);
        let newest = of_run
            .max_by_key(|other| other.revision)
            .filter(|other| other.revision > brought.revision);
        let brought = newest.cloned().unwrap_or(brought);
        let gate = Arc::clone(&brought.gate);

        let same = others.iter().find(|other| other.live.is(session));
        let down = same.map(|same| Arc::clone(&same.down)).unwrap_or_default();
        let sessions = others
            .iter()
            // A host can be given to another agent: then the one before has nothing to do with it
            // any more.
            .filter(|other| !other.live.is(session) && other.live.agent.id == session.agent.id)
            .cloned()
            .map(|other| match other.arrival == arrival {
                true => Endpoint {
                    brought: brought.clone(),
                    ..other
                },
                false => other,
            })
            .chain([Endpoint {
                live: Arc::clone(session),
                arrival,
                brought: brought.clone(),
                down,
            }])
            .collect();

        let mut tunnel = TunnelEndpoint {
            gate: Some(gate),
            sessions,
            state,
            checks,
            origin,
            away_since: Instant::now(),
            runs,
        };
        tunnel.refresh_policy();

        tunnels.insert(host, tunnel);
        let complete = tunnels.values().all(|tunnel| {
            let has = |what: &dyn Fn(&ActiveSession) -> bool| {
                tunnel.sessions.iter().any(|other| what(&other.live))
            };
            has(&|other| other.is(session))
                || !has(&|other| other.is_same_link(session) && other.is_older(session))
        });
        session.set_complete(complete);

        drop(tunnels);
        self.opened.send_modify(|count| *count += 1);
    }

    /// Waits for a session of this host that `may`, if its agent was connected a moment ago.
    pub(crate) async fn arrival(
        &self,
        host: &str,
        patience: Duration,
        may: impl Fn(&ActiveSession) -> bool,
    ) -> Option<TunnelEndpoint> {
        let mut opened = self.opened.subscribe();
        let waiting = async {
            loop {
                opened.borrow_and_update();
                let tunnel = self.find(host)?;
                if tunnel.select(&may).is_some() {
                    return Some(tunnel);
                }

                if tunnel.is_away() && tunnel.away_since.elapsed() > RECONNECT_EXPECTED {
                    return None;
                }

                opened.changed().await.ok()?;
            }
        };
        timeout(patience, waiting).await.ok().flatten()
    }

    /// Returns `true` if the agent has a live connection in place of this one.
    #[must_use]
    pub(crate) fn has_another(&self, session: &ActiveSession) -> bool {
        if session.replaces_lost_link() {
            return false;
        }

        let tunnels = self.lock();
        let mut others = tunnels.values().flat_map(|tunnel| tunnel.sessions.iter());
        others.any(|other| {
            !other.live.is(session) && other.live.is_same_link(session) && !other.live.is_silent()
        })
    }

    /// The agent of this session says whether the host's application takes no connection there.
    pub(crate) fn set_down(&self, host: &str, session: &ActiveSession, down: bool) {
        let tunnels = self.lock();
        let sessions = tunnels
            .get(host)
            .into_iter()
            .flat_map(|tunnel| tunnel.sessions.iter());
        sessions
            .filter(|other| other.live.is(session))
            .for_each(|same| same.down.store(down, Ordering::Relaxed));
    }

    /// Returns `true` if requests for this host may use this session: no newer instance has taken
    /// it over.
    #[must_use]
    pub(crate) fn is_active(&self, host: &str, session: &ActiveSession) -> bool {
        self.lock().get(host).is_some_and(|tunnel| {
            tunnel
                .serving()
                .any(|other| other.live.is_same_instance(session))
        })
    }

    /// Returns `true` if this session has opened the host.
    #[must_use]
    pub(crate) fn is_served_by(&self, host: &str, session: &ActiveSession) -> bool {
        self.lock()
            .get(host)
            .is_some_and(|tunnel| tunnel.sessions.iter().any(|other| other.live.is(session)))
    }

    /// Removes the session from this host, which belongs to another agent now.
    pub(crate) fn give_up(&self, host: &HostName, session: &ActiveSession) {
        let mut tunnels = self.lock();
        if let Some(tunnel) = tunnels.get_mut(host) {
            tunnel.give_up(session);
        }
    }

    /// The session is over: its tunnels are left to others, or wait for the next one.
    pub(crate) fn leave(&self, session: &ActiveSession) {
        let mut tunnels = self.lock();
        for tunnel in tunnels.values_mut() {
            tunnel.give_up(session);
        }
        drop(tunnels);
        // An older run may serve again.
        self.opened.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, TunnelEndpoint>> {
        // A panic elsewhere can't leave the map half changed.
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
