//! Messages of the control stream: JSON, each after its length as four bytes, big-endian.
//!
//! ```text
//! agent → relay   Join                  exchanges a join token for a credential; then disconnects
//!                 Hello                 authenticates with a credential
//!                 Open                  opens a tunnel for a host, with a policy
//!                 UpstreamHealth        reports if the application is reachable
//!                 Renew                 replaces its credential
//!                 Call                  calls a method of the relay's API, for its own tunnels
//!                 Drain                 requests no more exchanges: the agent stops, or has another connection
//! relay → agent   RenewCredential       requests a new credential before the present one expires
//!                 Renewed               has stored it
//!                 Joined | Welcome | Opened | PolicyRejected | DrainAck | Draining | Standby
//!                 HostLost | Refused
//!                 Refusals              reports what the relay refused on the agent's tunnels
//!                 Called                answers a call
//! ```
//! The greeting has up to 16 KiB; the agent sends a policy only after authentication. Both sides
//! skip unknown kinds of messages, so that either may be newer.

mod events;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::events::{RefusedContent, RefusedParts, RefusedReason, RefusedRequest};
use hookward_core::limits::Limits;
use hookward_core::reason::Check;
use hookward_core::secret::Secret;

/// Message of an agent to the relay. `P` is the policy, which this crate does not interpret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AgentMessage<P> {
    /// Exchanges the secret of a join token for a credential that the agent created.
    Join {
        /// Secret of the join token.
        secret: Secret,
        /// SHA-256 of the new credential, in hex. The relay learns no more before its first use.
        credential_digest: String,
    },
    /// Authenticates the agent.
    Hello {
        /// Credential of the agent.
        credential: Secret,
        /// Version of the agent, for the relay's log.
        version: String,
        /// Identity of the connection among those of the agent.
        connection: ConnectionId,
        /// `true` if the agent shares its tunnels with other agents that set this, too.
        #[serde(default)]
        pool: bool,
        /// `true` if the previous connection of this link is lost, even if the relay does not know yet.
        #[serde(default)]
        lost: bool,
        /// Time of the agent, in milliseconds since 1970; 0 from older agents.
        #[serde(default)]
        time_ms: u64,
        /// `true` if the agent wants the requests that the relay refuses, and not only the reasons.
        #[serde(default)]
        captures_refused: bool,
    },
    /// Opens a tunnel, or replaces its policy.
    Open {
        /// Public host: a label below the relay's domain, a full host name, or `None` for the
        /// agent's own host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// Policy, without the secrets that stay on the agent.
        policy: P,
        /// Revision, which grows with every change within an instance, because its connections may
        /// report changes in another order.
        #[serde(default)]
        revision: u64,
    },
    /// Reports the health of a tunnel's application. While it is down, other agents of a pool get
    /// its requests, and stored webhooks wait.
    UpstreamHealth {
        /// Public host of the tunnel, as named by the relay.
        host: String,
        /// `true` if the application accepts no connection.
        down: bool,
    },
    /// Calls a method of the relay's API that concerns the agent's own tunnels.
    Call {
        /// Number of the call on this connection.
        id: u64,
        /// HTTP method, such as GET.
        method: String,
        /// Path and query.
        path: String,
    },
    /// Replaces the credential of the connection, when the relay requests it. The old one stays valid
    /// until its own end.
    Renew {
        /// SHA-256 of the new credential, in hex.
        credential_digest: String,
    },
    /// Announces that the agent stops, or has replaced this connection. The relay sends no more
    /// requests over it, and those in flight finish.
    Drain,
    /// A message of a newer version.
    #[serde(other)]
    Unknown,
}

/// Identity of a connection among those of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionId {
    /// Unique name of the agent's instance. The connections of one instance serve together, and the
    /// newest instance takes over.
    pub instance: String,
    /// Number of the connection's link in the instance.
    pub index: u32,
    /// Number of the connection, which grows within the instance. A newer connection of a link
    /// replaces an older one, whose path may be dead.
    pub generation: u64,
}

impl ConnectionId {
    /// Returns `true` if both are connections of one link of an instance.
    #[must_use]
    pub fn is_same_link(&self, other: &Self) -> bool {
        self.index == other.index && self.instance == other.instance
    }

    /// Returns `true` if this connection began before the other one of its link.
    #[must_use]
    pub fn is_older(&self, other: &Self) -> bool {
        self.is_same_link(other) && self.generation < other.generation
    }
}

/// Message of the relay to an agent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RelayMessage {
    /// The join token was accepted.
    Joined {
        /// Name of the agent.
        agent: String,
    },
    /// The credential was accepted.
    Welcome {
        /// Name of the agent.
        agent: String,
        /// Version of the relay, for the agent's log.
        version: String,
        /// Deadlines of the relay that apply on both sides.
        deadlines: Deadlines,
        /// Time of the relay, in milliseconds since 1970.
        #[serde(default)]
        time_ms: u64,
        /// `true` if the session survives the refusal of one of several hosts.
        #[serde(default)]
        outlives_refused_hosts: bool,
    },
    /// The agent should renew its credential, which expires or was rotated.
    RenewCredential,
    /// The new credential is stored.
    Renewed,
    /// The tunnel is open.
    Opened {
        /// Public host.
        host: String,
        /// Port in the public URL.
        port: u16,
        /// Digest of the policy in force at the relay.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
        /// Time for which the relay stores webhooks that the application does not accept, in
        /// milliseconds; `None` if it stores none of this tunnel.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stored_for_ms: Option<u64>,
    },
    /// The relay refuses the new policy of an open tunnel; the old one stays in force.
    PolicyRejected {
        /// Reason, as text.
        message: String,
    },
    /// The relay sends no more requests to an agent that drains.
    DrainAck,
    /// The relay drains: it accepts no new senders, and only agents that have lost their
    /// connection. Requests in flight finish, and each idle connection may bring one more. The
    /// agent should connect to another relay.
    Draining,
    /// A newer instance of the agent has taken over the tunnels, or this one has them again.
    Standby {
        /// `true` while another instance has the tunnels.
        standby: bool,
    },
    /// The host of an open tunnel now belongs to another agent. The other tunnels stay open.
    HostLost {
        /// Public host.
        host: String,
        /// Reason, as text.
        message: String,
    },
    /// The relay refuses. The connection ends, unless only the host of one of several tunnels is
    /// refused.
    Refused {
        /// Reason, as a stable code.
        reason: RefusedReason,
        /// Reason, as text.
        message: String,
    },
    /// Answer to a call.
    Called {
        /// Number of the call.
        id: u64,
        /// HTTP status.
        status: u16,
        /// Body of the response, in JSON.
        body: String,
    },
    /// Requests that the relay refused.
    Refusals {
        /// Single refusals, up to 20 a second.
        requests: Vec<RefusedRequest>,
        /// Further refusals, counted by check.
        counts: Vec<(Check, u64)>,
    },
    /// A message of a newer version.
    #[serde(other)]
    Unknown,
}

/// Deadlines of the relay that the agent also applies, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// Maximum time between two pieces of a body.
    pub body_idle_ms: u64,
    /// Time for a body that a check reads.
    pub body_read_ms: u64,
    /// Maximum idle time of an upgraded connection.
    pub upgrade_idle_ms: u64,
}

impl Deadlines {
    /// Returns the deadlines of these limits.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            body_idle_ms: millis(limits.response_idle_timeout),
            body_read_ms: millis(limits.body_read_timeout),
            upgrade_idle_ms: millis(limits.upgrade_idle_timeout),
        }
    }

    /// Returns the maximum time between two pieces of a body.
    #[must_use]
    pub const fn body_idle(&self) -> Duration {
        Duration::from_millis(self.body_idle_ms)
    }

    /// Returns the time for a body that a check reads.
    #[must_use]
    pub const fn body_read(&self) -> Duration {
        Duration::from_millis(self.body_read_ms)
    }

    /// Returns the maximum idle time of an upgraded connection.
    #[must_use]
    pub const fn upgrade_idle(&self) -> Duration {
        Duration::from_millis(self.upgrade_idle_ms)
    }
}
