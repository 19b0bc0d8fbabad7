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
            /// Sets what the `[limits]` table names; mistakes go to the reader's list.
            pub fn read(reader: &mut crate::diagnostics::TableReader<'_>) -> Self {
                let mut limits = Self::default();
                $(limits!(@read reader, limits, $name, $kind);)+
                limits
            }
        }
    };
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
    /// From `accept` to the end of the TLS handshake. A round trip across the world takes 0.3 s; a
    /// silent peer is gone within the 10 s that every kind of holder gets, its last answer
    /// included.
    tls_handshake_timeout: time = Duration::from_secs(9);
    /// For a whole request head, and so also for an idle kept-alive HTTP/1.1 connection.
    request_head_timeout: time = Duration::from_secs(9);
    /// Idle HTTP/2 connections, without an open stream, are closed after this if they have brought
    /// a request that passed the gate; others have `request_head_timeout`.
    http2_idle_timeout: time = Duration::from_secs(60);
    /// A connection that has brought no request which passed the gate ends after this, however
    /// often it is refused.
    unverified_lifetime: time = Duration::from_secs(60);
    /// A body must bring `body_rate` bytes for every second of such a window.
    body_rate_window: time = Duration::from_secs(9);
    /// Bytes a second that a request body must bring: the slowest modem is faster than 1 KiB/s.
    min_body_rate: size = KIB;
    /// A body that a check must read whole has this long in all: senders give up after 10 to 30 s.
    body_read_timeout: time = Duration::from_secs(30);
    /// A peer that takes nothing of an answer for this long is cut off.
    write_timeout: time = Duration::from_secs(9);
    /// For the agent to take a new stream: it does at once unless all its streams are in use.
    open_stream_timeout: time = Duration::from_secs(5);
    /// Beyond the route's own wait for the application's head, for the agent's 504 to arrive first.
    response_margin: time = Duration::from_secs(5);
    /// Between two pieces of an answer's body: event streams send a comment every 15 to 60 s.
    response_idle_timeout: time = Duration::from_secs(120);
    /// An upgraded connection (WebSocket) on which nothing moves in either direction.
    upgrade_idle_timeout: time = Duration::from_secs(600);
    /// For running requests to end after SIGTERM.
    drain: time = Duration::from_secs(10);

    /// Bytes of a whole request head. Webhooks need 2 to 4 KiB; a hardened edge has 32 to 60.
    max_head_bytes: size = 32 * KIB;
    /// Header fields of a request; more than 100 is a header bomb, not a webhook.
    max_head_fields: count = 128;
    /// One body that a check must read whole: GitHub's cap, the largest of the large senders.
    max_body_bytes: size = 25 * MIB;
    /// All bodies that are held in memory at one time, on a VM of 1 GiB. One client address gets an
    /// eighth of it, which is one of the largest bodies.
    body_memory: size = 8 * 25 * MIB;

    /// TCP connections of one client address (IPv6: its /64). Trusted proxies are exempt.
    max_connections_per_client: count = 512;
    /// TCP connections in all: each costs up to 100 KiB. Beyond it one goes on which nothing
    /// happens, or the one that has been there longest and has brought no request which passed the
    /// gate.
    max_connections: count = 8192;
    /// Requests of one client address that are being answered: each costs some 20 KiB beside its
    /// body.
    max_requests_per_client: count = 512;
    /// Streams of one HTTP/2 connection: what RFC 9113 §6.5.2 asks for at least, and the large
    /// reverse proxies allow. A connection of which no request has passed the gate may have some
    /// thirty that wait for their bodies.
    max_streams_per_connection: count = 100;
    /// QUIC connections whose peer has not yet said who it is.
    max_unauthenticated_agents: count = 256;
    /// From an agent's QUIC handshake to its complete greeting.
    agent_handshake_timeout: time = Duration::from_secs(9);
    /// An agent's connection on which nothing was heard for so long is dead. The agent asks for a
    /// sign of life ten times within it; of the two sides' times the shorter one holds over QUIC.
    tunnel_idle_timeout: time = TUNNEL_IDLE_TIMEOUT;
    /// A request waits so long for an agent that was there a moment ago, or whose relay has just
    /// begun: it dials again every second. Senders of webhooks wait for 10 s and more.
    reconnect_wait: time = Duration::from_secs(3);
    /// Routes that a tunnel's policy may have: each is tried for every request.
    policy_routes: count = 64;
    /// Address ranges that a tunnel's policy may have, in all: 40 bytes each, and 3 MiB on the
    /// wire.
    policy_ranges: count = 100_000;
    /// Most that a route's `max_body` may be.
    policy_body: size = 25 * MIB;
    /// Most that a route's `answer_timeout` may be.
    policy_answer_timeout: time = Duration::from_secs(3600);
    /// Requests a second that a tunnel may have: more than a relay of two cores can serve. A lower
    /// one also holds for tunnels that ask for none.
    policy_rate: count = 1_000_000;
    /// Deliveries that are remembered for each tunnel: 100 bytes each on disk. Beyond it new ones
    /// of this tunnel are refused for now, and nothing is forgotten before its time.
    max_tracked_deliveries: count = 2_000_000;
    /// A key, or a list of addresses, must be there within this time: a webhook waits for it.
    fetch_timeout: time = Duration::from_secs(5);
    /// Refusals a second that are told one by one to a tunnel's owner; the rest as counts.
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
/// What the agent holds of bodies that its own checks must read: eight of the largest.
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
/// How long the first bytes of a streamed body are gathered, so that a small body, or a broken
/// one, is known whole before the application hears of the request.
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
