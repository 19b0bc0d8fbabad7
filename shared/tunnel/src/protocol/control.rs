//! Messages of the control stream: JSON, each behind its length as four bytes, big-endian.
//!
//! ```text
//! agent → relay   Join                  exchange a join token for a credential, then part
//!                 Hello                 who I am
//!                 Open                  a tunnel for this host, with this policy
//!                 Application           whether it takes connections here
//!                 Leave                 send nothing more here: I stop, or another connection is there
//! relay → agent   Joined | Welcome | Opened | Kept | Left | Leaving | Standby | Refused
//!                 Refusals              what the relay refused on the agent's tunnels
//! ```
//! The greeting is capped at 16 KiB; a policy is sent only once the relay knows the agent. A kind
//! of message that is not known is skipped, so that either side may be the newer one.

mod events;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::events::{RefusedReason, RefusedRequest};
use hookward_core::limits::Limits;
use hookward_core::reason::Check;
use hookward_core::secret::Secret;

/// Message of an agent to the relay. `P` is the policy, which this crate does not interpret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AgentMessage<P> {
    /// Exchange the secret of a join token for a credential of the agent's own making.
    Join {
        /// The join token's secret.
        secret: Secret,
        /// SHA-256 of the new credential, in hex. The relay never learns more before it is used.
        credential_digest: String,
    },
    /// The agent says who it is.
    Hello {
        /// Credential of the agent.
        credential: Secret,
        /// Version of the agent's program, for the relay's log.
        version: String,
        /// Which run of the agent's program this is: the connections of one run serve together, and
        /// the newest run takes over.
        instance: String,
        /// `true` if the agent shares its tunnels with other agents that set this, too.
        #[serde(default)]
        pool: bool,
        /// Which of the run's connections to this relay it is: a newer one takes the place of an
        /// older one, whose path may be dead. Nothing: of none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        line: Option<u32>,
        /// The connection of this line that was there before is lost, whatever the relay has heard
        /// of it.
        #[serde(default)]
        lost: bool,
    },
    /// Open a tunnel, or replace its policy.
    Open {
        /// The public host: a label under the relay's domain, a whole host name, or nothing for
        /// the one that the relay has for this agent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<String>,
        /// The policy, without the secrets that stay on the agent.
        policy: P,
        /// Grows with every change within a run of the agent's program: the connections of a run
        /// may tell of one in another order than it happened.
        #[serde(default)]
        revision: u64,
    },
    /// Health of an open tunnel's application. With several agents, others get its requests while
    /// it is down.
    UpstreamHealth {
        /// The tunnel's public host, as the relay has named it.
        host: String,
        /// `true` if the application accepts no connection.
        down: bool,
    },
    /// The agent is about to stop, or has another connection in place of this one: send nothing
    /// more over it; what it has comes to its end.
    Drain,
    /// Something from a newer version.
    #[serde(other)]
    Unknown,
}

/// Message of the relay to an agent.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RelayMessage {
    /// The join token was accepted.
    Joined {
        /// The name under which the agent was admitted.
        agent: String,
    },
    /// The credential was accepted.
    Welcome {
        /// Name of the agent.
        agent: String,
        /// The relay program's version, for the agent's log.
        version: String,
        /// The relay's deadlines that both sides of an exchange keep.
        deadlines: Deadlines,
        /// The relay's clock, in milliseconds since 1970.
        #[serde(default)]
        time_ms: u64,
        /// `true` if the session goes on when the relay refuses the host of one of several tunnels.
        #[serde(default)]
        outlives_refused_hosts: bool,
    },
    /// The tunnel is open.
    Opened {
        /// Public host.
        host: String,
        /// The port of the public URL.
        port: u16,
    },
    /// The new policy of an open tunnel is refused; the old one stays in force.
    PolicyRejected {
        /// Reason, as text.
        message: String,
    },
    /// Nothing more will be sent to an agent that said it leaves.
    DrainAck,
    /// The relay is about to stop: it takes no new senders, and agents back only that have lost
    /// their connection; requests under way come to their end, and one more on each kept
    /// connection. The agent had better look for another relay.
    Draining,
    /// A newer run of the agent's program has the tunnels, and this one gets no requests; or it has
    /// them again.
    Standby {
        /// `true` while another instance has the tunnels.
        standby: bool,
    },
    /// The host of an open tunnel belongs to another agent now. The other tunnels stay open.
    HostLost {
        /// Public host.
        host: String,
        /// Reason, as text.
        message: String,
    },
    /// No. The connection ends after it, unless it is one of several tunnels whose host can't be
    /// had.
    Refused {
        /// Reason, as a stable code.
        reason: RefusedReason,
        /// Reason, as text.
        message: String,
    },
    /// Requests that the relay refused.
    Refusals {
        /// One by one, at most 20 a second.
        told: Vec<RefusedRequest>,
        /// The rest, counted by check.
        counted: Vec<(Check, u64)>,
    },
    /// Something from a newer version.
    #[serde(other)]
    Unknown,
}

/// Deadlines of the relay's settings that the agent keeps, too, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// Between two pieces of a body.
    pub body_idle_ms: u64,
    /// For a body that a check must read whole.
    pub body_read_ms: u64,
    /// For an upgraded connection on which nothing moves.
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

    /// Between two pieces of a body.
    #[must_use]
    pub const fn body_idle(&self) -> Duration {
        Duration::from_millis(self.body_idle_ms)
    }

    /// For a body that a check must read whole.
    #[must_use]
    pub const fn body_read(&self) -> Duration {
        Duration::from_millis(self.body_read_ms)
    }

    /// For an upgraded connection on which nothing moves.
    #[must_use]
    pub const fn upgrade_idle(&self) -> Duration {
        Duration::from_millis(self.upgrade_idle_ms)
    }
}
