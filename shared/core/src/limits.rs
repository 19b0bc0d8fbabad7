//! The bounds of both programs, with unit and reason.
//!
//! The relay's settings file may override every field of [`Limits`] in its `[limits]` table; what
//! of it the agent must keep, too, it is told when it connects. The constants behind it are part of
//! the protocol or of a promise. A bound that only one file needs stands at the head of that file.

use std::time::Duration;

/// One kibibyte, in bytes.
pub const KIB: u64 = 1024;
/// One mebibyte, in bytes.
pub const MIB: u64 = 1024 * KIB;

/// Returns a size as settings write it, in the largest unit without a rest.
fn size_text(bytes: u64) -> String {
    match bytes {
        bytes if bytes % MIB == 0 => format!("{}MiB", bytes / MIB),
        bytes if bytes % KIB == 0 => format!("{}KiB", bytes / KIB),
        bytes => bytes.to_string(),
    }
}

/// Declares [`Limits`], its defaults and the list of its names from one table.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident = $default:expr;)+) => {
        /// The bounds that the relay's settings may override.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $name: limits!(@type $kind),)+
        }

        impl Default for Limits {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        impl Limits {
            /// Returns name, default and meaning of every limit, for help and documents.
            #[must_use]
            pub fn table() -> Vec<(&'static str, String, String)> {
                let default = Self::default();
                vec![$((
                    stringify!($name),
                    limits!(@text default, $name, $kind),
                    [$($doc),+].concat().trim().to_owned(),
                ),)+]
            }

            /// Reads the `[limits]` table. The reader collects the errors.
            pub fn read(reader: &mut crate::diagnostics::TableReader<'_>) -> Self {
                let mut limits = Self::default();
                $(limits!(@read reader, limits, $name, $kind);)+
                limits
            }
        }
    };
    (@text $limits:ident, $name:ident, time) => { format!("{}s", $limits.$name.as_secs()) };
    (@text $limits:ident, $name:ident, size) => { size_text($limits.$name) };
    (@text $limits:ident, $name:ident, count) => { $limits.$name.to_string() };
    (@type time) => { Duration };
    (@type size) => { u64 };
    (@type count) => { usize };
    (@read $reader:ident, $limits:ident, $name:ident, time) => {
        if let Some(value) = $reader.duration(stringify!($name)) { $limits.$name = value; }
    };
    (@read $reader:ident, $limits:ident, $name:ident, size) => {
        if let Some(value) = $reader.size(stringify!($name)) { $limits.$name = value; }
    };
    (@read $reader:ident, $limits:ident, $name:ident, count) => {
        if let Some(value) = $reader.count(stringify!($name)) { $limits.$name = value; }
    };
}

limits! {
    /// Time from `accept` to the end of the TLS handshake; a round trip across the world takes 0.3 s
    tls_handshake_timeout: time = Duration::from_secs(9);
    /// Time for a request head, and maximum idle time of an HTTP/1.1 connection
    request_head_timeout: time = Duration::from_secs(9);
    /// Maximum idle time of an HTTP/2 connection that has brought a request which passed the gate
    http2_idle_timeout: time = Duration::from_secs(60);
    /// Maximum lifetime of a connection that has brought no request which passed the gate
    unverified_lifetime: time = Duration::from_secs(60);
    /// Window in which a request body must bring `min_body_rate` bytes for every second
    body_rate_window: time = Duration::from_secs(9);
    /// Minimum rate of a request body, in bytes a second; the slowest modem is faster
    min_body_rate: size = KIB;
    /// Time for a whole body that a check reads; senders give up after 10 to 30 s
    body_read_timeout: time = Duration::from_secs(30);
    /// Time after which a sender that reads nothing of a response is disconnected
    write_timeout: time = Duration::from_secs(9);
    /// Wait for a free stream of the agent's connection
    open_stream_timeout: time = Duration::from_secs(5);
    /// Wait beyond the route's `answer_timeout`, in which the agent's 504 arrives
    response_margin: time = Duration::from_secs(5);
    /// Maximum time between two pieces of a response body; event streams send one every 15 to 60 s
    response_idle_timeout: time = Duration::from_secs(120);
    /// Maximum idle time of an upgraded connection (WebSocket)
    upgrade_idle_timeout: time = Duration::from_secs(600);
    /// Time for in-flight requests after SIGTERM
    drain: time = Duration::from_secs(10);

    /// Maximum size of a request head; webhooks need 2 to 4 KiB
    max_head_bytes: size = 32 * KIB;
    /// Maximum number of header fields of a request
    max_head_fields: count = 128;
    /// Maximum size of a body that a check reads; GitHub's maximum
    max_body_bytes: size = 25 * MIB;
    /// Memory for request bodies, in all; one client address may hold an eighth
    body_memory: size = 8 * 25 * MIB;

    /// Maximum number of TCP connections of one client address (IPv6: its /64); trusted proxies are exempt
    max_connections_per_client: count = 512;
    /// Maximum number of TCP connections; each costs up to 100 KiB
    max_connections: count = 8192;
    /// Maximum number of requests in flight of one client address; each costs some 20 KiB beside its body
    max_requests_per_client: count = 512;
    /// Maximum number of streams of one HTTP/2 connection (RFC 9113 section 6.5.2 recommends 100)
    max_streams_per_connection: count = 100;
    /// Maximum number of agents' connections that have not yet authenticated
    max_unauthenticated_agents: count = 256;
    /// Time from an agent's QUIC handshake to its authentication
    agent_handshake_timeout: time = Duration::from_secs(9);
    /// Time without traffic before an agent's connection is closed; over QUIC the lower of both sides applies
    tunnel_idle_timeout: time = TUNNEL_IDLE_TIMEOUT;
    /// Wait of a request for an agent that was connected a moment ago
    reconnect_wait: time = Duration::from_secs(3);
    /// Maximum number of routes of a tunnel's policy; each is tried for every request
    policy_routes: count = 64;
    /// Maximum number of address ranges of a tunnel's policy; each costs 40 bytes
    policy_ranges: count = 100_000;
    /// Maximum `max_body` of a route
    policy_body: size = 25 * MIB;
    /// Maximum `answer_timeout` of a route
    policy_answer_timeout: time = Duration::from_secs(3600);
    /// Maximum rate of a tunnel, in requests a second; a lower one also applies to tunnels without `rate`
    policy_rate: count = 1_000_000;
    /// Maximum number of deliveries remembered for replay protection, of one tunnel; 100 bytes each on disk
    max_tracked_deliveries: count = 2_000_000;
    /// Time for fetching a public key or a list of addresses; a webhook waits for a key
    fetch_timeout: time = Duration::from_secs(5);
    /// Maximum number of refusals a second that a tunnel's owner gets one by one; the rest as counts
    refusal_events_per_second: count = 20;
}

/// Longest request target, in bytes (RFC 9110 §4.1 asks for 8,000 octets at least).
pub const TARGET_BYTES: usize = 8 * 1024;
/// Longest token that is compared at all: no legal one is longer, and a long one must cost nothing.
pub const TOKEN_BYTES: usize = 512;
/// Most hops of `X-Forwarded-For` that are read: real chains have 2 or 3.
pub const FORWARDED_HOPS: usize = 32;
/// Streams of one connection of an agent in use at one time: two connections carry as many requests
/// as the relay takes connections. QUIC's own default of 100 queues at 256 requests.
pub const TUNNEL_STREAMS: u32 = 4096;
/// A tunnel's connection on which nothing was heard for so long is dead, unless a setting says
/// otherwise.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A request whose connection was lost is given again within so long of its begin: the agent
/// remembers for longer what it has begun.
pub const RETRY_WINDOW: Duration = Duration::from_secs(60);
/// Part of the memory for bodies that one client address may hold: an eighth.
pub const BODY_MEMORY_SHARES: u64 = 8;
/// Memory of the agent for bodies that its own checks read: eight of the largest.
pub const AGENT_BODY_MEMORY: u64 = 8 * 25 * MIB;
/// Idle connections to the application live this long: below the 5 s of Node's servers.
pub const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Idle connections to the application that are kept.
pub const UPSTREAM_IDLE_CONNECTIONS: usize = 256;
/// For a TCP connection to the application: it is beside the agent.
pub const UPSTREAM_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Wait for the head of the application's answer, unless the route says otherwise.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait that a route may ask for.
pub const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// A body up to this size travels ahead of larger ones in the tunnel, and is sent in one piece.
pub const SMALL_BODY: usize = 64 * 1024;
/// Time in which the relay gathers the first bytes of a streamed body, so that a small body, or a
/// broken one, is complete before the application gets the request.
pub const GATHER_TIMEOUT: Duration = Duration::from_millis(100);
/// First messages of an agent, before it is known who it is: a credential and some names.
pub const GREETING_BYTES: usize = 16 * 1024;
/// One control message of a known agent: a policy with 100,000 addresses has 3 MiB.
pub const CONTROL_BYTES: usize = 8 * 1024 * 1024;
/// One head of an exchange: the edge's cap on heads, and room for what the relay adds.
pub const HEAD_FRAME_BYTES: usize = 96 * 1024;
/// Maximum size of an exchange's trailers in the tunnel, in bytes: the edge takes 32 KiB of them
/// over HTTP/2 (`max_head_bytes`), and their encoding adds some.
pub const TRAILERS_FRAME_BYTES: usize = 48 * 1024;
/// Routes of a policy: each is tried for every request.
pub const ROUTES: usize = 64;
/// Paths, methods or alternatives of one route.
pub const ITEMS_PER_ROUTE: usize = 32;
/// Bytes of one path pattern.
pub const PATTERN_BYTES: usize = 1024;
/// Secrets or tokens that are live at one time: the old and the new one, and some for mistakes.
pub const ACTIVE_SECRETS: usize = 8;
/// Connections of one client address whose peer has not yet said who it is.
pub const UNAUTHENTICATED_PER_CLIENT: usize = 16;
/// Maximum bytes hashed for one request: the largest body under 40 keys. One core needs 0.5 s for
/// it. A policy that could need more is refused when it is loaded.
pub const GATE_HASHED_BYTES: u64 = 1024 * MIB;
/// Bytes that the gate may read as JSON or a form for one request: the largest body five times.
pub const GATE_PARSED_BYTES: u64 = 128 * MIB;
/// Bytes of signed texts that the gate may put together for one request, beside what it takes from
/// the body in place.
pub const GATE_RENDERED_BYTES: u64 = 128 * MIB;
/// Bytes of one signed text: so many times the body, because JSON in a JSON string doubles every
/// quote.
pub const MESSAGE_FACTOR: usize = 2;
/// Bytes of one signed text beside that: the head of a request with all its fields.
pub const MESSAGE_BYTES: usize = 128 * 1024;
/// Header fields that a list of signed fields may name.
pub const SIGNED_FIELDS: usize = 32;
/// Bytes of each kind of work that one diagnosis of a wrong signature may cost.
pub const DOCTOR_BYTES: u64 = 2 * MIB;
/// Bytes of work that all diagnoses of one program may cost in a second: a hundredth of a core.
pub const DOCTOR_BYTES_PER_SECOND: u64 = 8 * MIB;
/// Longest observation of a route before it enforces.
pub const OBSERVE_DAYS: i64 = 30;
/// A join token is worth something for this long, in milliseconds.
pub const JOIN_TOKEN_LIFE_MS: u64 = 24 * 3600 * 1000;
