//! Which session serves which public host.
//!
//! A tunnel outlives its sessions: the host stays known (and is kept in the store), the policy
//! stays in memory. So a host whose agent is away answers 503, and 404 is for hosts that nobody
//! owns. The newest session of the owner takes over at once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use hookward_shared::gate::{Gate, State};
use hookward_shared::names::HostName;
use hookward_shared::transport::Session;

use super::refusals::Refusals;
use crate::store::Agent;

/// All tunnels; clones share it.
#[derive(Clone, Default)]
pub struct Registry {
    // A std mutex: look-ups copy two pointers, and nothing waits while it is held.
    tunnels: Arc<Mutex<HashMap<HostName, Tunnel>>>,
}

/// What is known of a public host.
#[derive(Clone)]
pub struct Tunnel {
    /// The owner's policy; `None` until the owner has opened the tunnel since the relay's start.
    pub gate: Option<Arc<Gate>>,
    /// The session that serves it now.
    pub session: Option<Arc<LiveSession>>,
    /// What its gate remembers: rates, lockouts, the named sets.
    pub state: Arc<State>,
    /// Scheme and authority of its public URL.
    pub origin: Arc<str>,
}

impl Default for Tunnel {
    fn default() -> Self {
        // Of a tunnel without a gate nothing is counted, and every request begins with one: the copies of the
        // named sets are not made for each.
        static NOTHING: LazyLock<Arc<State>> = LazyLock::new(Arc::default);
        static NOWHERE: LazyLock<Arc<str>> = LazyLock::new(|| "".into());
        Self { gate: None, session: None, state: Arc::clone(&NOTHING), origin: Arc::clone(&NOWHERE) }
    }
}

/// A session that is being served.
pub struct LiveSession {
    id: u64,
    /// Whose it is.
    pub agent: Agent,
    /// The connection.
    pub session: Session,
    /// What the agent is to be told.
    pub refusals: Refusals,
    order: AtomicU32,
}

impl LiveSession {
    /// A session that begins to be served.
    #[must_use]
    pub fn new(agent: Agent, session: Session, refusals: Refusals) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, agent, session, refusals, order: AtomicU32::new(0) })
    }

    /// A number that grows with every message of this session: the older goes first.
    pub fn next_order(&self) -> u32 {
        self.order.fetch_add(1, Ordering::Relaxed)
    }
}

impl Registry {
    /// Makes these hosts known, and no others. A host that is being served is left alone: it may have
    /// been claimed after the owners were read.
    pub fn know_only(&self, hosts: HashSet<HostName>) {
        let mut tunnels = self.lock();
        tunnels.retain(|name, tunnel| tunnel.session.is_some() || hosts.contains(name));
        for host in hosts {
            tunnels.entry(host).or_default();
        }
    }

    /// What is known of this host; `None` for a host that nobody was given.
    #[must_use]
    pub fn find(&self, host: &str) -> Option<Tunnel> {
        self.lock().get(host).cloned()
    }

    /// Gives the host to this session, with its policy. Ownership was checked before. What was counted and who
    /// is locked out stays: to come again makes nobody new.
    pub fn open(&self, host: HostName, origin: Arc<str>, gate: Arc<Gate>, state: State, session: &Arc<LiveSession>) {
        let mut tunnels = self.lock();
        let before = tunnels.get(&host).filter(|tunnel| tunnel.gate.is_some());
        let state = before.map_or_else(|| Arc::new(state), |tunnel| Arc::clone(&tunnel.state));
        tunnels.insert(host, Tunnel { gate: Some(gate), session: Some(Arc::clone(session)), state, origin });
    }

    /// Whether this session serves the host.
    #[must_use]
    pub fn is_served_by(&self, host: &str, session: &LiveSession) -> bool {
        self.lock().get(host).and_then(|tunnel| tunnel.session.as_ref()).is_some_and(|live| live.id == session.id)
    }

    /// The session is over: its tunnels wait for the next one. Tunnels that a newer session has
    /// taken over are left alone.
    pub fn leave(&self, session: &LiveSession) {
        for tunnel in self.lock().values_mut() {
            if tunnel.session.as_ref().is_some_and(|live| live.id == session.id) {
                tunnel.session = None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<HostName, Tunnel>> {
        // A panic elsewhere can't leave the map half changed.
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
