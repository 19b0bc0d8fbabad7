//! A session as the rest of the relay uses it: owner, load, and health.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hookward_core::clock::UnixMillis;
use hookward_tunnel::protocol::control::ConnectionId;
use hookward_tunnel::transport::Session;

use crate::body::response::TunnelBody;
use crate::observe::owner_events::OwnerEvents;
use crate::overload::load::{LoadGuard, SessionLoad};
use crate::overload::slow_readers::ResponseBacklog;
use crate::storage::agents::Agent;

/// Identity of a session, as its agent stated it.
pub(crate) struct SessionIdentity {
    pub connection: ConnectionId,
    /// `true` if the agent shares its tunnels with others.
    pub is_pooled: bool,
    /// Time at which it connected.
    pub connected: UnixMillis,
    /// Time by which the agent's clock is ahead of the relay's, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// Version of the agent, printable and bounded.
    pub version: String,
    /// `true` if the previous connection of this link was lost.
    pub replaces_lost: bool,
    /// `true` if the agent wants the requests that the relay refuses.
    pub captures_refused: bool,
}

/// A session that is being served.
pub(crate) struct ActiveSession {
    id: u64,
    pub agent: Agent,
    identity: SessionIdentity,
    pub session: Session,
    /// Events for the agent.
    pub owner_events: OwnerEvents,
    /// Responses that senders have not yet read.
    pub response_backlog: Arc<ResponseBacklog<TunnelBody>>,
    load: Arc<SessionLoad>,
    order: AtomicU32,
    quiet: AtomicBool,
    /// `true` once the session serves all hosts of the session that it replaces. It gets no requests
    /// before.
    complete: AtomicBool,
}

impl ActiveSession {
    /// Creates a session.
    #[must_use]
    pub(crate) fn new(
        agent: Agent,
        identity: SessionIdentity,
        session: Session,
        refusals: OwnerEvents,
    ) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);

        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            id,
            agent,
            identity,
            session,
            owner_events: refusals,
            response_backlog: Arc::default(),
            load: Arc::default(),
            order: AtomicU32::new(0),
            quiet: AtomicBool::new(false),
            complete: AtomicBool::new(false),
        })
    }

    /// Counts a request of this session.
    #[must_use]
    pub(crate) fn begin(&self) -> LoadGuard {
        self.load.begin()
    }

    #[must_use]
    pub(crate) fn in_flight(&self) -> usize {
        self.load.count()
    }

    /// Returns a penalty for load, to compare connections of one instance: many requests, or unread
    /// responses.
    #[must_use]
    pub(crate) fn load_penalty(&self) -> usize {
        (self.in_flight() / SPREAD_FROM).max(self.response_backlog.congestion())
    }

    /// Resolves when no request is in flight.
    pub(crate) async fn idle(&self) {
        self.load.idle().await;
    }

    /// Marks the agent as silent for longer than expected. Other sessions are preferred.
    pub(crate) fn set_silent(&self, quiet: bool) {
        self.quiet.store(quiet, Ordering::Relaxed);
    }

    /// Returns `true` if the agent is silent.
    #[must_use]
    pub(crate) fn is_silent(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// Records that the session serves all hosts of the session that it replaces.
    pub(crate) fn set_complete(&self, complete: bool) {
        self.complete.store(complete, Ordering::Relaxed);
    }

    /// Returns `true` if this session has replaced that one.
    #[must_use]
    pub(crate) fn replaces(&self, other: &Self) -> bool {
        other.is_older(self) && self.complete.load(Ordering::Relaxed)
    }

    /// Returns `true` if both are connections of one link of an instance.
    #[must_use]
    pub(crate) fn is_same_link(&self, other: &Self) -> bool {
        let (own, others) = (&self.identity.connection, &other.identity.connection);
        self.agent.id == other.agent.id && own.is_same_link(others)
    }

    /// Returns `true` if the agent shares its tunnels.
    #[must_use]
    pub(crate) const fn is_pooled(&self) -> bool {
        self.identity.is_pooled
    }

    /// Returns `true` if the other session is a newer one of the same link.
    #[must_use]
    pub(crate) fn is_older(&self, other: &Self) -> bool {
        let (own, others) = (&self.identity.connection, &other.identity.connection);
        self.agent.id == other.agent.id && own.is_older(others)
    }

    /// Returns `true` if the agent reported the previous connection of its link as lost.
    #[must_use]
    pub(crate) const fn replaces_lost_link(&self) -> bool {
        self.identity.replaces_lost
    }

    /// Returns the identity that its agent stated.
    #[must_use]
    pub(crate) const fn identity(&self) -> &SessionIdentity {
        &self.identity
    }

    /// Returns the version of its agent.
    #[must_use]
    pub(crate) fn version(&self) -> &str {
        &self.identity.version
    }

    /// Returns its number, which grows with each session of the process.
    #[must_use]
    pub(crate) const fn number(&self) -> u64 {
        self.id
    }

    /// Returns the name of its instance.
    #[must_use]
    pub(crate) fn instance(&self) -> &str {
        &self.identity.connection.instance
    }

    /// Returns `true` if both are the same session.
    #[must_use]
    pub(crate) const fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Returns `true` if both belong to one instance of the agent's program.
    #[must_use]
    pub(crate) fn is_same_instance(&self, other: &Self) -> bool {
        self.agent.id == other.agent.id && self.instance() == other.instance()
    }

    /// Returns a sequence number for a message of this session; lower ones are sent first.
    pub(crate) fn next_order(&self) -> u32 {
        self.order.fetch_add(1, Ordering::Relaxed)
    }
}

/// Number of requests in flight up to which a connection counts as idle. Spreading few requests
/// over several connections is slower (measured: three times the p99 on two cores).
const SPREAD_FROM: usize = 64;
