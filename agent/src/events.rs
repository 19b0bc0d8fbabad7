//! What the agent has to say: one vocabulary for the screen, the log lines and JSON.

mod channel;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use self::channel::QUEUE_LENGTH;
pub use self::channel::{EventSink, EventStream};
use hookward_core::reason::{Check, Code};
use hookward_core::text::Escaped;
use hookward_tunnel::protocol::control::RefusedRequest;
use hookward_tunnel::protocol::head::RequestId;
use hookward_tunnel::transport::Transport;
use http::Method;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// One thing to say.
#[derive(Debug, Clone)]
pub enum Event {
    /// The agent is dialling.
    /// The agent dials a relay.
    Connecting {
        /// Address of the relay.
        relay: String,
    },
    /// The tunnel is open.
    Ready(Ready),
    /// No relay is reached; the agent goes on dialling.
    /// No relay is connected.
    Disconnected {
        /// Reason of the loss.
        reason: String,
    },
    /// No connection to this relay is left, while other relays are reached.
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
    /// The relay refused more than it told, counted by check.
    RefusedSummary(Vec<(Check, u64)>),
    /// The agent stops, and waits for requests that are under way.
    Stopping {
        /// Number of requests in progress.
        in_flight: usize,
    },
    /// Something that the user should know.
    Note(String),
    /// Something that the user should mend.
    Warning(String),
}

/// A report, and the time that it is about.
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

/// The tunnel is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ready {
    /// The public URL of one webhook, complete with a minted token.
    pub url: String,
    /// URL of the tunnel without the path.
    pub base_url: String,
    /// Public host of the tunnel.
    pub host: String,
    /// Address and port of the HTTPS listener, when it is in this process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
    /// Path of the certificate to trust, when it is self-signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// Address of the relay.
    pub relay: String,
    /// Transport to the relay.
    pub transport: Transport,
    /// Application behind the tunnel.
    pub application: String,
}

/// A request that reached this agent, and how it ended.
#[derive(Debug, Clone)]
pub struct RequestEvent {
    /// Id of the request.
    pub id: RequestId,
    /// The public host of its tunnel.
    pub host: Arc<str>,
    /// Method of the request.
    pub method: Method,
    /// Path without the query, escaped.
    pub path: String,
    /// Client address.
    pub client: IpAddr,
    /// Time until the head of the response.
    pub took: Duration,
    /// Result of the request.
    pub outcome: RequestResult,
}

impl RequestEvent {
    /// The method as it is shown: escaped.
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
        /// The names of the secrets and tokens that were right.
        secrets: Vec<String>,
    },
    /// The request was a provider's challenge, and was answered here.
    Handshake {
        /// Status of the answer.
        status: u16,
    },
    /// The agent's own gate refused it.
    Refused {
        /// Status of the answer.
        status: u16,
        /// Check that refused the request.
        check: Check,
        /// Reason of the refusal.
        reason: String,
    },
    /// Forwarding failed.
    Failed {
        /// Status of the answer.
        status: u16,
        /// Stable code of the failure.
        code: Code,
        /// Reason of the failure.
        reason: String,
    },
    /// The sender, or the relay, went away.
    Aborted,
}

/// A way for reports.
#[must_use]
pub fn channel() -> (EventSink, EventStream) {
    let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
    let lost = Arc::new(AtomicU64::new(0));
    (
        EventSink {
            sender,
            lost: Arc::clone(&lost),
        },
        EventStream { receiver, lost },
    )
}
