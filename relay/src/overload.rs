//! Overload control: bounds on what senders may use, and what the relay closes when a bound is
//! reached. A connection is *unverified* until one of its requests has passed the gate, and
//! *verified* from then on.
//!
//! | resource | bound | when it is reached | module |
//! |---|---|---|---|
//! | connections | `max_connections` | closes the oldest unverified one, else a verified one idle for 5 s | [`connections`] |
//! | connections of one client | `max_connections_per_client` | refuses the connection | [`per_client`] |
//! | requests of one client | `max_requests_per_client` | answers 503 | [`per_client`] |
//! | request heads in memory | 320 KiB per unverified connection, 16 MiB in total | refuses the request; above 12 MiB closes those that held the most for the longest | [`connections`] |
//! | request bodies in memory | `body_memory` | evicts the slowest body | `hookward_runtime::body_memory` |
//! | idle or unverified connections | `request_head_timeout`, `http2_idle_timeout`, `unverified_lifetime` | closes the connection | [`activity`] |
//! | unread response bytes of a session | half of its receive window | evicts the response whose reader stalled for the longest | [`slow_readers`] |
//! | pending writes to a sender | `write_timeout` | closes the connection | [`write_timeout`] |
//! | HTTP/2 control frames | 1,000 in 10 s without progress | closes the connection | [`h2_flood`] |
//! | requests of a session | none; the relay prefers the least loaded session | | [`load`] |

pub(crate) mod activity;
pub(crate) mod connections;
pub(crate) mod h2_flood;
pub(crate) mod load;
pub(crate) mod per_client;
pub(crate) mod slow_readers;
pub(crate) mod write_timeout;
