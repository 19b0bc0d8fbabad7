//! Limits of both programs, with units and reasons.
//!
//! The `[limits]` table of the relay's settings file may override every field of [`Limits`]. The
//! relay sends those that agents must apply, too, when they connect. The constants are part of the
//! protocol or of a promise. A limit that only one file needs is a constant there.

use std::time::Duration;

/// One kibibyte, in bytes.
pub const KIB: u64 = 1024;
/// One mebibyte, in bytes.
pub const MIB: u64 = 1024 * KIB;

/// Formats a size as settings write it, in the largest whole unit.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    match bytes {
        bytes if bytes % MIB == 0 => format!("{}MiB", bytes / MIB),
        bytes if bytes % KIB == 0 => format!("{}KiB", bytes / KIB),
        bytes => bytes.to_string(),
    }
}

/// Declares [`Limits`], its defaults, and the list of names.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ident = $default:expr;)+) => {
        /// Limits that the relay's settings may override.
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
            /// Returns name, default and description of every limit, for help and documents.
            #[must_use]
            pub fn table() -> Vec<(&'static str, String, String)> {
                let default = Self::default();
                vec![$((
                    stringify!($name),
                    limits!(@text default, $name, $kind),
                    [$($doc),+].concat().trim().to_owned(),
                ),)+]
            }

            /// Returns the limits that are not the default, with their values.
            #[must_use]
            pub fn changed(&self) -> Vec<(&'static str, String)> {
                let default = Self::default();
                let mut changed = Vec::new();
                $(if self.$name != default.$name {
                    changed.push((stringify!($name), limits!(@text self, $name, $kind)));
                })+
                changed
            }

            /// Returns all limits with their values.
            #[must_use]
            pub fn values(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($name), limits!(@text self, $name, $kind)),)+]
            }

            /// Reads the `[limits]` table. The reader collects the errors.
            pub fn read(reader: &mut crate::diagnostics::TableReader<'_>) -> Self {
                let mut limits = match reader.size("profile") {
                    Some(memory) if PROFILES.contains(&memory) => Self::for_memory(memory),
                    Some(_) => {
                        reader.report_value("profile", "lies outside 256MiB to 256GiB");
                        Self::default()
                    }
                    None => Self::default(),
                };
                $(limits!(@read reader, limits, $name, $kind);)+
                limits
            }
        }
    };
    (@text $limits:expr, $name:ident, time) => { format!("{}s", $limits.$name.as_secs()) };
    (@text $limits:expr, $name:ident, size) => { size_text($limits.$name) };
    (@text $limits:expr, $name:ident, count) => { $limits.$name.to_string() };
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

impl Limits {
    /// Returns the limits for a machine with this memory, in bytes. The defaults are those of 1 GiB.
    #[must_use]
    pub fn for_memory(memory: u64) -> Self {
        let default = Self::default();
        let scaled = |of_one_gib: u64| memory / KIB * of_one_gib / (1024 * MIB / KIB);
        let body_memory = scaled(default.body_memory);
        let body = default.max_body_bytes.min(body_memory / BODY_MEMORY_SHARES);
        let connections = scaled(default.max_connections as u64).min(MAX_CONNECTIONS);
        Self {
            body_memory,
            max_body_bytes: body,
            policy_body: body,
            max_connections: usize::try_from(connections).unwrap_or(usize::MAX),
            ..default
        }
    }
}

/// Range of `profile`, in bytes.
const PROFILES: std::ops::RangeInclusive<u64> = 256 * MIB..=256 * 1024 * MIB;

/// Maximum number of connections of a profile: more need a higher limit of open files than systems have.
const MAX_CONNECTIONS: u64 = 256 * 1024;

/// Maximum length of a request target, in bytes (RFC 9110 §4.1 recommends 8,000 octets or more).
pub const TARGET_BYTES: usize = 8 * 1024;
/// Maximum length of a token to compare, in bytes. No valid token is longer, and a long one must
/// cost nothing.
pub const TOKEN_BYTES: usize = 512;
/// Maximum number of hops of `X-Forwarded-For`; real chains have 2 or 3.
pub const FORWARDED_HOPS: usize = 32;
/// Maximum number of concurrent streams of one agent connection. Two connections carry as many
/// requests as the relay has connections. QUIC's default of 100 queues at 256 requests.
pub const TUNNEL_STREAMS: u32 = 4096;
/// Default time without received data after which a tunnel connection is dead.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after the start of a request in which the relay may send it again over another connection.
/// The agent remembers started requests for longer.
pub const RETRY_WINDOW: Duration = Duration::from_secs(60);
/// Divisor of the body memory: one client address may hold an eighth.
pub const BODY_MEMORY_SHARES: u64 = 8;
/// Memory of the agent for bodies that its own checks read: eight of the largest.
pub const AGENT_BODY_MEMORY: u64 = 8 * 25 * MIB;
/// Maximum idle time of a connection to the application: below the 5 s of Node's servers.
pub const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Maximum number of idle connections to the application.
pub const UPSTREAM_IDLE_CONNECTIONS: usize = 256;
/// Timeout of a TCP connection to the application, which is near the agent.
pub const UPSTREAM_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Default timeout for the head of the application's response.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum `answer_timeout` of a route.
pub const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// Size up to which a body precedes larger ones in the tunnel, and is sent in one piece.
pub const SMALL_BODY: usize = 64 * 1024;
/// Time in which the relay gathers the first bytes of a streamed body, so that a small or aborted
/// body is complete before the application gets the request.
pub const GATHER_TIMEOUT: Duration = Duration::from_millis(100);
/// Maximum size of an agent's greeting, in bytes: a credential and some names.
pub const GREETING_BYTES: usize = 16 * 1024;
/// Maximum size of a control message of an authenticated agent, in bytes: a policy with 100,000
/// addresses has 3 MiB.
pub const CONTROL_BYTES: usize = 8 * 1024 * 1024;
/// Maximum size of an exchange's head, in bytes: the edge's maximum, and what the relay adds.
pub const HEAD_FRAME_BYTES: usize = 96 * 1024;
/// Maximum size of an exchange's trailers, in bytes: the edge accepts 32 KiB over HTTP/2
/// (`max_head_bytes`), and the encoding adds some.
pub const TRAILERS_FRAME_BYTES: usize = 48 * 1024;
/// Maximum number of routes of a policy; each is tried for every request.
pub const ROUTES: usize = 64;
/// Maximum number of paths, methods or accept rules of one route.
pub const ITEMS_PER_ROUTE: usize = 32;
/// Maximum length of a path pattern, in bytes.
pub const PATTERN_BYTES: usize = 1024;
/// Maximum number of valid secrets or tokens of a check: the old and the new one, and spare ones.
pub const ACTIVE_SECRETS: usize = 8;
/// Maximum number of unauthenticated agent connections of one client address.
pub const UNAUTHENTICATED_PER_CLIENT: usize = 16;
/// Maximum number of bytes hashed for one request: the largest body under 40 keys. One core needs
/// 0.5 s for that. A policy that could need more is refused when it is loaded.
pub const GATE_HASHED_BYTES: u64 = 1024 * MIB;
/// Maximum number of bytes that the gate parses as JSON or a form for one request: the largest body
/// five times.
pub const GATE_PARSED_BYTES: u64 = 128 * MIB;
/// Maximum number of bytes of signed texts that the gate renders for one request, beside parts of
/// the body used in place.
pub const GATE_RENDERED_BYTES: u64 = 128 * MIB;
/// Maximum size of one signed text as a multiple of the body, because JSON in a JSON string doubles
/// every quote.
pub const MESSAGE_FACTOR: usize = 2;
/// Maximum size of one signed text beyond that, in bytes: the head of a request with all its
/// fields.
pub const MESSAGE_BYTES: usize = 128 * 1024;
/// Maximum number of header fields in a list of signed fields.
pub const SIGNED_FIELDS: usize = 32;
/// Maximum number of bytes of each kind of work for one diagnosis of a wrong signature.
pub const DOCTOR_BYTES: u64 = 2 * MIB;
/// Maximum number of bytes a second for all diagnoses of one program: a hundredth of a core.
pub const DOCTOR_BYTES_PER_SECOND: u64 = 8 * MIB;
/// Maximum duration of a route's observation, in days.
pub const OBSERVE_DAYS: i64 = 30;
/// Lifetime of a join token, in milliseconds.
pub const JOIN_TOKEN_LIFE_MS: u64 = 24 * 3600 * 1000;
