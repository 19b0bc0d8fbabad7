//! A session that is being served, as the rest of the relay knows it: whose it is, what it has to
//! do, and whether there is a doubt about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hookward_tunnel::transport::Session;

use crate::body::response::TunnelBody;
use crate::overload::load::{LoadGuard, SessionLoad};
use crate::overload::slow_readers::ResponseBacklog;
use crate::sessions::owner_events::OwnerEvents;
use crate::storage::agents::Agent;

/// Requests under way with which a connection is still as good as an idle one: to spread few
/// requests over several connections costs more than it brings (measured: p99 three times as long
/// on two cores).
const SPREAD_FROM: usize = 64;

/// A run of an agent's program, and what part of it a session is.
pub(crate) struct AgentInstance {
    /// No other run has this name.
    pub instance: Box<str>,
    /// Whether it shares its tunnels with others.
    pub pool: bool,
    /// Which of the run's connections this is.
    pub link: Option<u32>,
    /// The one before on its line is lost.
    pub lost: bool,
}

/// A session that is being served.
pub(crate) struct ActiveSession {
    id: u64,
    /// Whose it is.
    pub agent: Agent,
    run: AgentInstance,
    /// The connection.
    pub session: Session,
    /// What the agent is to be told.
    pub owner_events: OwnerEvents,
    /// What senders have not taken of its answers.
    pub response_backlog: Arc<ResponseBacklog<TunnelBody>>,
    load: Arc<SessionLoad>,
    order: AtomicU32,
    quiet: AtomicBool,
    /// It serves all that the one before it on its line serves: until then its agent takes nothing
    /// from it.
    complete: AtomicBool,
}

impl ActiveSession {
    /// A session that begins to be served.
    #[must_use]
    pub(crate) fn new(
        agent: Agent,
        run: AgentInstance,
        session: Session,
        refusals: OwnerEvents,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            id,
            agent,
            run,
            session,
            owner_events: refusals,
            response_backlog: Arc::default(),
            load: Arc::default(),
            order: AtomicU32::new(0),
            quiet: AtomicBool::new(false),
            complete: AtomicBool::new(false),
        })
    }

    /// Counts a request that this session is given.
    #[must_use]
    pub(crate) fn begin(&self) -> LoadGuard {
        self.load.begin()
    }

    /// Requests under way.
    #[must_use]
    pub(crate) fn in_flight(&self) -> usize {
        self.load.count()
    }

    /// How much it is burdened, beside another connection of its run: by many requests, or by
    /// answers that are not taken.
    #[must_use]
    pub(crate) fn load_penalty(&self) -> usize {
        (self.in_flight() / SPREAD_FROM).max(self.response_backlog.crowds())
    }

    /// Resolves when no request is under way.
    pub(crate) async fn idle(&self) {
        self.load.idle().await;
    }

    /// Whether nothing was heard of the agent for longer than it should be silent: others go first.
    pub(crate) fn set_silent(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// Whether that is so.
    #[must_use]
    pub(crate) fn is_silent(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// It serves all that the one before on its line serves, or does not yet.
    pub(crate) fn set_complete(&self, complete: bool) {
        self.complete.store(complete, Ordering::Relaxed);
    }

    /// Whether it has taken the place of that other session of its run.
    #[must_use]
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        self.is_same_link(other) && self.id > other.id && self.complete.load(Ordering::Relaxed)
    }

    /// Whether both are connections of one line of a run.
    #[must_use]
    pub(crate) fn is_same_link(&self, other: &Self) -> bool {
        self.run.link.is_some() && self.run.link == other.run.link && self.is_same_instance(other)
    }

    /// Whether its run shares its tunnels.
    #[must_use]
    pub(crate) const fn is_pooled(&self) -> bool {
        self.run.pool
    }

    /// Whether it came before that other one.
    #[must_use]
    pub(crate) const fn is_older(&self, other: &Self) -> bool {
        self.id < other.id
    }

    /// Whether the agent has said that the one before on its line is lost.
    #[must_use]
    pub(crate) const fn replaces_lost_link(&self) -> bool {
        self.run.lost
    }

    /// Which run it belongs to.
    #[must_use]
    pub(crate) const fn instance(&self) -> &str {
        &self.run.instance
    }

    /// Whether it is this one.
    #[must_use]
    pub(crate) const fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Whether both belong to one run of the agent's program.
    #[must_use]
    pub(crate) fn is_same_instance(&self, other: &Self) -> bool {
        self.agent.id == other.agent.id && self.run.instance == other.run.instance
    }

    /// A number that grows with every message of this session: the older goes first.
    pub(crate) fn next_order(&self) -> u32 {
        self.order.fetch_add(1, Ordering::Relaxed)
    }
}
