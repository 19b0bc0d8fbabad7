//! Facts about a request, and their recipients: the log, and the tunnel's owner if the request does
//! not reach the application.

use std::net::IpAddr;
use std::time::Instant;

use bytes::Bytes;
use hookward_core::clock::Moment;
use hookward_core::names::HostName;
use hookward_core::reason::{Check, Refusal};
use hookward_core::text::{Escaped, shown_path};
use hookward_gate::request::RequestHead;
use hookward_tunnel::protocol::control::RefusedRequest;
use hookward_tunnel::protocol::head::RequestId;
use http::request::Parts;
use http::{Method, StatusCode};

use crate::observe::audit::Seen;
use crate::sessions::registry::TunnelEndpoint;

/// Facts about a request, as far as they are known.
pub(crate) struct RequestContext {
    pub(crate) id: RequestId,
    /// Time at which the head was complete.
    pub(crate) received: Moment,
    /// Host of the request.
    pub(crate) host: Option<HostName>,
    /// Client address.
    pub(crate) client: IpAddr,
    /// Path and query.
    pub(crate) target: Bytes,
    pub(crate) tunnel: TunnelEndpoint,
}

impl RequestContext {
    /// Returns the facts for the log.
    pub(crate) fn seen<'r>(&'r self, method: &'r Method) -> Seen<'r> {
        Seen {
            id: self.id,
            host: self.host.as_ref().map_or("-", HostName::as_str),
            method,
            target: &self.target,
            client: self.client,
        }
    }

    /// Returns the facts for the gate.
    pub(crate) fn head<'r>(&'r self, parts: &'r Parts) -> RequestHead<'r> {
        let origin = &self.tunnel.origin;
        RequestHead {
            method: &parts.method,
            target: &self.target,
            headers: &parts.headers,
            origin,
        }
    }

    /// Reports a refusal with its reason to the tunnel's owner, and to no one else.
    pub(crate) fn notify_refused(
        &self,
        method: &Method,
        refusal: &Refusal,
        since: Instant,
        observed: bool,
    ) {
        let Some(live) = self.tunnel.owner() else {
            return;
        };
        live.owner_events.push(refusal.check, || RefusedRequest {
            status: if observed {
                StatusCode::OK
            } else {
                refusal.status
            }
            .as_u16(),
            reason: refusal.reason.clone(),
            observed,
            ..self.event(method, refusal.check, since)
        });
    }

    /// Reports a request that the relay answered itself to the tunnel's owner.
    pub(crate) fn notify_answered(
        &self,
        method: &Method,
        (check, reason): (Check, &str),
        status: StatusCode,
        since: Instant,
    ) {
        let Some(live) = self.tunnel.owner() else {
            return;
        };
        live.owner_events.push(check, || RefusedRequest {
            status: status.as_u16(),
            reason: reason.to_owned(),
            answered: true,
            ..self.event(method, check, since)
        });
    }

    /// Reports a note about a forwarded request to the tunnel's owner.
    pub(crate) fn notify_note(&self, method: &Method, reason: &str) {
        let Some(live) = self.tunnel.owner() else {
            return;
        };
        live.owner_events.push(Check::Syntax, || RefusedRequest {
            reason: reason.to_owned(),
            note: true,
            ..self.event(method, Check::Syntax, Instant::now())
        });
    }

    /// Returns the fields that all events of the owner have.
    fn event(&self, method: &Method, check: Check, since: Instant) -> RefusedRequest {
        RefusedRequest {
            id: self.id.to_string(),
            host: self
                .host
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
            method: Escaped(method.as_str().as_bytes()).to_string(),
            path: shown_path(&self.target),
            client: self.client.to_string(),
            status: 0,
            check,
            reason: String::new(),
            ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            observed: false,
            answered: false,
            note: false,
            age_ms: 0,
        }
    }
}
