//! Events of the agent: one vocabulary for the screen, the log lines and JSON.

mod channel;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::channel::{EventObserver, EventSink, EventStream, channel, observed_channel};
use hookward_core::reason::{Check, Code};
use hookward_core::text::Escaped;
use hookward_core::trace::TraceId;
use hookward_tunnel::protocol::control::RefusedRequest;
use hookward_tunnel::protocol::head::RequestId;
use hookward_tunnel::transport::Transport;
use http::Method;
use serde::Serialize;
use time::OffsetDateTime;

/// Event of the agent.
#[derive(Debug, Clone)]
pub enum Event {
    /// The agent dials a relay.
    Connecting {
        /// Address of the relay.
        relay: String,
    },
    /// A tunnel is open.
    Ready(Ready),
    /// No relay is connected; the agent keeps dialing.
    Disconnected {
        /// Reason of the loss.
        reason: String,
    },
    /// This relay is not connected, while others are.
    RelayDisconnected {
        /// Address of the relay.
        relay: String,
        /// Reason of the loss.
        reason: String,
        /// `true` if dialing again would change nothing.
        permanent: bool,
    },
    /// A request reached this agent.
    Request(Box<RequestEvent>),
    /// The relay refused a request.
    Refused(Box<RefusedRequest>),
    /// Refusals of the relay beyond those reported one by one, counted by check.
    RefusedSummary(Vec<(Check, u64)>),
    /// The local API is served.
    Api {
        /// Address of the API.
        address: SocketAddr,
    },
    /// The agent stops, and drains requests in flight.
    Stopping {
        /// Number of requests in progress.
        in_flight: usize,
    },
    /// The application became unreachable or unresponsive, or it recovered.
    Application {
        /// Address of the application.
        application: String,
        /// `true` if it accepts connections and responds.
        is_healthy: bool,
        /// Description for the user.
        message: String,
    },
    /// Information for the user.
    Note(String),
    /// A problem that the user should fix.
    Warning(String),
}

/// An event with its time.
#[derive(Debug, Clone)]
pub struct TimedEvent {
    /// Time of the event.
    pub at: OffsetDateTime,
    /// Time of the event by a monotonic clock, for the order of events.
    pub moment: Instant,
    /// The event itself.
    pub event: Event,
}

impl From<Event> for TimedEvent {
    fn from(report: Event) -> Self {
        Self {
            at: OffsetDateTime::now_utc(),
            moment: Instant::now(),
            event: report,
        }
    }
}

/// Announcement of an open tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// Public URL of one webhook, with a created token.
    pub url: String,
    /// URL of the tunnel without the path.
    pub base_url: String,
    /// Public host of the tunnel.
    pub host: String,
    /// Address and port of the HTTPS listener, if it is in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
    /// Path of the certificate to trust, if it is self-signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Address of the relay.
    pub relay: String,
    /// Transport to the relay.
    pub transport: Transport,
    /// Application behind the tunnel.
    pub application: String,
}

/// A request that reached this agent, with its result.
#[derive(Debug, Clone)]
pub struct RequestEvent {
    /// Id of the request.
    pub id: RequestId,
    /// Public host of its tunnel.
    pub host: Arc<str>,
    /// Method of the request.
    pub method: Method,
    /// Path without the query, escaped.
    pub path: String,
    /// Client address.
    pub client: IpAddr,
    /// Trace of the sender.
    pub trace: Option<TraceId>,
    /// Time until the head of the response.
    pub took: Duration,
    /// Result of the request.
    pub outcome: RequestResult,
}

impl RequestEvent {
    /// Returns the method, escaped for display.
    #[must_use]
    pub fn method(&self) -> String {
        Escaped(self.method.as_str().as_bytes()).to_string()
    }
}

/// Result of a request.
#[derive(Debug, Clone)]
pub enum RequestResult {
    /// The application answered.
    Answered {
        /// Status of the response.
        status: u16,
        /// Check that would have refused it, if the route did not only observe.
        observed: Option<(Check, String)>,
        /// Name of the route.
        route: String,
        /// Checks that the request passed.
        checks: Arc<[Check]>,
        /// Names of the secrets and tokens that matched.
        secrets: Vec<String>,
    },
    /// The agent answered a provider's challenge.
    Challenge {
        /// Status of the response.
        status: u16,
    },
    /// The agent's own gate refused it.
    Refused {
        /// Status of the response.
        status: u16,
        /// Check that refused the request.
        check: Check,
        /// Reason of the refusal.
        reason: String,
    },
    /// Forwarding failed.
    Failed {
        /// Status of the response.
        status: u16,
        /// Stable code of the failure.
        code: Code,
        /// Reason of the failure.
        reason: String,
    },
    /// The sender or the relay aborted the request.
    Aborted,
}

impl RequestResult {
    /// Returns the name of the verdict, as in the relay's records.
    #[must_use]
    pub const fn verdict(&self) -> &'static str {
        match self {
            Self::Answered { .. } => "forwarded",
            Self::Challenge { .. } => "answered",
            Self::Refused { .. } => "refused",
            Self::Failed { .. } => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// Returns the status of the response; `None` if there was none.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self {
            Self::Answered { status, .. }
            | Self::Challenge { status }
            | Self::Refused { status, .. }
            | Self::Failed { status, .. } => Some(*status),
            Self::Aborted => None,
        }
    }

    /// Returns the check that refused.
    #[must_use]
    pub const fn check(&self) -> Option<Check> {
        match self {
            Self::Refused { check, .. } => Some(*check),
            _ => None,
        }
    }

    /// Returns the code of a failure.
    #[must_use]
    pub const fn code(&self) -> Option<Code> {
        match self {
            Self::Failed { code, .. } => Some(*code),
            _ => None,
        }
    }
}
