//! One event for every request, for the relay's log: who, what, and for a refusal the check.
//!
//! Paths are shown without the query, where tokens stand; texts of strangers are escaped.

use std::net::IpAddr;
use std::time::Duration;

use hookward_shared::protocol::head::RequestId;
use hookward_shared::refusal::{Code, Refusal};
use hookward_shared::text::{Escaped, shown_path};
use http::{Method, StatusCode};

/// What is known of a request when an event is written.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'r> {
    /// Its id.
    pub id: RequestId,
    /// Its host, as far as it is one.
    pub host: &'r str,
    /// Its method.
    pub method: &'r Method,
    /// Path and query; only the path is shown.
    pub target: &'r [u8],
    /// Where it comes from.
    pub client: IpAddr,
}

/// A request that a check refused.
pub fn refused(seen: Seen<'_>, refusal: &Refusal, observed: bool) {
    tracing::info!(
        target: "audit",
        event = if observed { "observed" } else { "refused" },
        id = %seen.id,
        host = seen.host,
        method = %Escaped(seen.method.as_str().as_bytes()),
        path = shown_path(seen.target),
        client = %seen.client,
        status = refusal.status.as_u16(),
        check = refusal.check.as_str(),
        why = refusal.why,
    );
}

/// A request that was let through and failed on its way.
pub fn failed(seen: Seen<'_>, code: Code, why: &str) {
    tracing::warn!(
        target: "audit",
        event = "failed",
        id = %seen.id,
        host = seen.host,
        method = %Escaped(seen.method.as_str().as_bytes()),
        path = shown_path(seen.target),
        client = %seen.client,
        code = code.as_str(),
        why,
    );
}

/// A request that was forwarded and answered. At level `debug`: the agent shows each of them.
pub fn forwarded(seen: Seen<'_>, status: StatusCode, took: Duration) {
    tracing::debug!(
        target: "audit",
        event = "forwarded",
        id = %seen.id,
        host = seen.host,
        method = %Escaped(seen.method.as_str().as_bytes()),
        path = shown_path(seen.target),
        client = %seen.client,
        status = status.as_u16(),
        ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    );
}

/// A request that the relay has answered itself, and not refused: a handshake, a delivery that came before.
pub fn answered(seen: Seen<'_>, what: &str, status: StatusCode) {
    tracing::info!(
        target: "audit",
        event = "answered",
        what,
        id = %seen.id,
        host = seen.host,
        method = %Escaped(seen.method.as_str().as_bytes()),
        path = shown_path(seen.target),
        client = %seen.client,
        status = status.as_u16(),
    );
}
