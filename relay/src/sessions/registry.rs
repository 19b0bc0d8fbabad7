//! Maps public hosts to sessions.
//!
//! A tunnel outlives its sessions: its host stays in the store, and its policy in memory. So a host
//! whose agent is disconnected answers 503, and a host without an owner 404. The connections of one
//! instance serve together. A newer instance takes over at once, unless both have `--pool`; the
//! older one serves again when the newer leaves.

mod endpoint;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hookward_core::names::{AgentName, HostName};
use hookward_gate::engine::GateState;
use tokio::sync::watch;
use tokio::time::timeout;

use self::endpoint::{Endpoint, KNOWN_INSTANCES};
pub(crate) use self::endpoint::{PolicyVersion, TunnelEndpoint};
use crate::sessions::active::ActiveSession;
use crate::storage::agents::{AgentId, AgentScope};

/// All tunnels; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    // A std mutex: lookups copy a few pointers, and nothing waits while it is held.
    tunnels: Arc<Mutex<HashMap<HostName, TunnelEndpoint>>>,
    /// Incremented when a tunnel is opened, loses a session, or the health of its application changes.
    opened: Arc<watch::Sender<u64>>,
    /// All sessions, also those without a tunnel, by number.
    sessions: Arc<Mutex<BTreeMap<u64, Arc<ActiveSession>>>>,
    /// Packets of ended sessions, by agent.
    ended_packets: Arc<Mutex<BTreeMap<AgentName, Packets>>>,
    /// Number of sessions of each agent.
    of_agent: Arc<Mutex<HashMap<AgentId, usize>>>,
}

/// Number of packets over QUIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Packets {
    pub sent: u64,
    pub lost: u64,
}

impl Packets {
    fn add(&mut self, session: &ActiveSession) {
        if let Some(path) = session.session.path_stats() {
            self.sent += path.sent_packets;
            self.lost += path.lost_packets;
        }
    }
}

/// Guard that counts a session of an agent.
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

impl Registry {
    /// Replaces the known hosts, each with its owner if the store has one. Keeps a host that is being served: it may have been claimed after
    /// `hosts` was read.
    pub(crate) fn replace_known_hosts(&self, hosts: HashMap<HostName, Option<AgentId>>) {
        let mut tunnels = self.lock();
        tunnels.retain(|name, tunnel| !tunnel.is_away() || hosts.contains_key(name));
        for (host, owner) in hosts {
            let tunnel = tunnels.entry(host).or_default();
            // No webhook is stored for an agent that has lost the host while it was away.
            let has_moved = owner.is_some() && tunnel.owner.is_some() && owner != tunnel.owner;
            if tunnel.is_away() && has_moved {
                (tunnel.gate, tunnel.owner) = (None, None);
            }
        }
    }

    /// Returns `true` if a tunnel without a session has a policy.
    pub(crate) fn has_policies_of_absent_agents(&self) -> bool {
        let tunnels = self.lock();
        tunnels
            .values()
            .any(|tunnel| tunnel.is_away() && tunnel.owner.is_some())
    }

    /// Counts a session of this agent. Returns `None` if it has the maximum.
    #[must_use]
    pub(crate) fn place(&self, agent: AgentId) -> Option<AgentSlot> {
        let mut of_agent = self.of_agent.lock().unwrap_or_else(PoisonError::into_inner);
        let count = of_agent.entry(agent).or_default();
        (*count < SESSIONS_PER_AGENT).then(|| {
            *count += 1;
            AgentSlot(Arc::clone(&self.of_agent), agent)
        })
    }

    /// Returns the tunnel of this host, or `None` if no agent owns it.
    #[must_use]
    pub(crate) fn find(&self, host: &str) -> Option<TunnelEndpoint> {
        self.lock().get(host).cloned()
    }

    /// Opens the host for this session with its policy, after the owner was checked. The newest
    /// instance serves, and an older one again when it leaves. Counters and lockouts persist, so
    /// that reconnecting resets nothing.
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

        // A policy that another connection of the instance brought meanwhile is newer. One that was held
        // to other limits stays where it is.
        let of_run = others
            .iter()
            .filter(|other| other.arrival == arrival)
            .map(|other| &other.brought)
            .filter(|other| other.is_held_to_same(&brought));
        let newest = of_run
            .max_by_key(|other| other.revision)
            .filter(|other| other.revision > brought.revision);
        let brought = newest.cloned().unwrap_or(brought);
        let gate = Arc::clone(&brought.gate);

        let same = others.iter().find(|other| other.live.is(session));
        let down = same.map(|same| Arc::clone(&same.down)).unwrap_or_default();
        let sessions = others
            .iter()
            // Sessions of the previous owner no longer serve the host.
            .filter(|other| !other.live.is(session) && other.live.agent.id == session.agent.id)
            .cloned()
            .map(|other| {
                match other.arrival == arrival && other.brought.is_held_to_same(&brought) {
                    true => Endpoint {
                        brought: brought.clone(),
                        ..other
                    },
                    false => other,
                }
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
            owner: Some(session.agent.id),
            scope: Arc::clone(&brought.scope),
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
            has(&|other| other.is(session)) || !has(&|other| other.is_older(session))
        });
        session.set_complete(complete);

        drop(tunnels);
        self.opened.send_modify(|count| *count += 1);
    }

    /// Returns a receiver that changes whenever a tunnel opens, loses a session, or its application
    /// returns.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.opened.subscribe()
    }

    /// Waits for a session of this host that `may` accepts, if its agent was connected recently.
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

    /// Returns `true` if the agent has another live connection of the same link.
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

    /// Records the agent's report that the application is unreachable, or reachable again.
    pub(crate) fn set_down(&self, host: &str, session: &ActiveSession, down: bool) {
        let tunnels = self.lock();
        let sessions = tunnels
            .get(host)
            .into_iter()
            .flat_map(|tunnel| tunnel.sessions.iter());
        let changed = sessions
            .filter(|other| other.live.is(session))
            .filter(|same| same.down.swap(down, Ordering::Relaxed) != down)
            .count();
        drop(tunnels);
        if changed > 0 {
            self.opened.send_modify(|count| *count += 1);
        }
    }

    /// Returns `true` if the session may get requests for this host: no newer instance has taken
    /// over.
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

    /// Removes the session from this host, which now belongs to another agent. No webhook is stored
    /// for the previous owner any more.
    pub(crate) fn give_up(&self, host: &HostName, session: &ActiveSession) {
        let mut tunnels = self.lock();
        if let Some(tunnel) = tunnels.get_mut(host) {
            tunnel.give_up(session);
            if tunnel.is_away() {
                (tunnel.gate, tunnel.owner) = (None, None);
            }
        }
    }

    /// Withdraws the policies of agents that are away, unless their scopes are still those that the
    /// policies were held to. No webhook is stored under another one.
    pub(crate) fn review_scopes(&self, scopes: &HashMap<AgentId, AgentScope>) {
        let mut tunnels = self.lock();
        let away = tunnels.values_mut().filter(|tunnel| tunnel.is_away());
        for tunnel in away {
            let Some(scope) = tunnel.owner.map(|owner| scopes.get(&owner)) else {
                continue;
            };
            if !scope.is_some_and(|scope| scope.includes(&tunnel.scope)) {
                (tunnel.gate, tunnel.owner) = (None, None);
            }
        }
    }

    /// Adds a session that begins.
    pub(crate) fn enter(&self, session: &Arc<ActiveSession>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.insert(session.number(), Arc::clone(session));
    }

    /// Removes a session that ended.
    pub(crate) fn remove(&self, session: &ActiveSession) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ended = self.lock_packets();
        if sessions.remove(&session.number()).is_some() {
            let agent = session.agent.name.clone();
            ended.entry(agent).or_default().add(session);
        }
        drop((sessions, ended));
        self.leave(session);
    }

    /// Returns all sessions, oldest first.
    pub(crate) fn sessions(&self) -> Vec<Arc<ActiveSession>> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.values().cloned().collect()
    }

    /// Returns the number of packets of each agent since the start. It never falls.
    pub(crate) fn packets(&self) -> BTreeMap<AgentName, Packets> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let mut packets = self.lock_packets().clone();
        for session in sessions.values() {
            let agent = session.agent.name.clone();
            packets.entry(agent).or_default().add(session);
        }
        packets
    }

    fn lock_packets(&self) -> MutexGuard<'_, BTreeMap<AgentName, Packets>> {
        let packets = self.ended_packets.lock();
        packets.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns all tunnels, by host.
    pub(crate) fn tunnels(&self) -> BTreeMap<HostName, TunnelEndpoint> {
        let tunnels = self.lock();
        let copy = |(host, tunnel): (&HostName, &TunnelEndpoint)| (host.clone(), tunnel.clone());
        tunnels.iter().map(copy).collect()
    }

    /// Removes a session that gets no more requests from all its hosts.
    pub(crate) fn leave(&self, session: &ActiveSession) {
        let mut tunnels = self.lock();
        for tunnel in tunnels.values_mut() {
            tunnel.give_up(session);
        }
        drop(tunnels);
        // An older instance may serve again.
        self.opened.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, TunnelEndpoint>> {
        // A panic elsewhere cannot leave the map half changed.
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of sessions of one agent: several machines of a pool with a few each, and a bound
/// on file descriptors.
const SESSIONS_PER_AGENT: usize = 64;

/// Time after which a disconnected agent is not expected back at any moment.
const RECONNECT_EXPECTED: Duration = Duration::from_secs(30);
