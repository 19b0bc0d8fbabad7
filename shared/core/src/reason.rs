//! Vocabulary of refusals and failures: responses, logs, metrics and screens use these names.

mod refusal;

use std::fmt;

pub use self::refusal::Refusal;
use http::StatusCode;
use serde::{Deserialize, Serialize};

/// Reason in words: why a value is invalid, or why a check failed. For the author of a policy, or
/// the tunnel's owner. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Reason(String);

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

/// Declares [`Check`] or [`Code`]: variants with the stable name of each.
macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// All values, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Check that refused a request, for the tunnel's owner.
    Check {
        /// The request is ambiguous, or exceeds a size limit.
        Syntax = "syntax",
        /// The client address behind a trusted proxy is unknown.
        ClientAddress = "client-address",
        /// The `Host` has no tunnel.
        Host = "host",
        /// No route has this path.
        Path = "path",
        /// A route has this path, but not this method.
        Method = "method",
        /// The client address failed too often recently.
        Lockout = "lockout",
        /// The client address exceeds its rate.
        ClientRate = "client-rate",
        /// The client address is denied, or not allowed.
        Address = "address",
        /// The token is missing or wrong.
        Token = "token",
        /// The body has a media type that the route does not allow.
        ContentType = "content-type",
        /// A header field is missing or has a value that is not allowed.
        Header = "header",
        /// The body is larger than the route allows.
        BodySize = "body-size",
        /// The body was too slow, or memory was full.
        Body = "body",
        /// The signature is missing, malformed, stale or wrong.
        Signature = "signature",
        /// A value in the body is not allowed.
        BodyRule = "body-rule",
        /// The delivery is a duplicate.
        Replay = "replay",
        /// The route or the tunnel exceeds its rate.
        Rate = "rate",
        /// The request was permitted, and failed in the tunnel.
        Tunnel = "tunnel",
    }
}

words! {
    /// Stable error code of a response of the relay itself (`hookward-error`).
    Code {
        /// Malformed or ambiguous request.
        Malformed = "malformed_request",
        /// A request in clear text on the HTTPS port.
        HttpsOnly = "https_only",
        /// Unknown host or no route, with the same response for both.
        NotFound = "not_found",
        /// The path has a route, but not for this method.
        MethodNotAllowed = "method_not_allowed",
        /// A check failed; the sender does not learn which.
        Refused = "refused",
        /// Too many requests, or too many failed ones.
        RateLimited = "rate_limited",
        /// The request was too slow.
        RequestTimeout = "request_timeout",
        /// The body is larger than the route allows.
        BodyTooLarge = "body_too_large",
        /// The request target is longer than 8 KiB.
        TargetTooLong = "target_too_long",
        /// An `Expect` other than `100-continue`.
        ExpectationFailed = "expectation_failed",
        /// The host of the request differs from the TLS handshake's.
        HostMismatch = "host_mismatch",
        /// The request head is larger than allowed.
        HeadTooLarge = "head_too_large",
        /// The application refused the connection or could not be reached.
        UpstreamUnreachable = "upstream_unreachable",
        /// The application aborted, or its response is not HTTP.
        UpstreamError = "upstream_error",
        /// The tunnel or the agent aborted the exchange.
        TunnelError = "tunnel_error",
        /// No agent is connected for this host.
        AgentOffline = "agent_offline",
        /// Too many bodies or requests are in memory.
        Overloaded = "overloaded",
        /// The audit log fails, and the relay's settings refuse requests then.
        AuditFailing = "audit_failing",
        /// The relay cannot store the webhook now.
        StorageUnavailable = "storage_unavailable",
        /// The application did not respond in time.
        UpstreamTimeout = "upstream_timeout",
    }
}

impl Check {
    /// Returns `true` if the connection is unusable after this check failed, because the start of
    /// the next request is unknown.
    #[must_use]
    pub const fn breaks_framing(self) -> bool {
        matches!(self, Self::Syntax | Self::BodySize | Self::Body)
    }
}

impl Code {
    /// Returns the status of a response with this code. Providers disable webhooks after 4xx
    /// responses, so an outage is never one.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Malformed | Self::HttpsOnly => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Refused => StatusCode::FORBIDDEN,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::HostMismatch => StatusCode::MISDIRECTED_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UpstreamUnreachable | Self::UpstreamError | Self::TunnelError => {
                StatusCode::BAD_GATEWAY
            }
            Self::AgentOffline
            | Self::Overloaded
            | Self::AuditFailing
            | Self::StorageUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns the title of a response with this code, which is all that a sender learns.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request is malformed or ambiguous",
            Self::HttpsOnly => "Use https: this port does not serve http",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "This resource does not allow this method",
            Self::Refused => "The request was refused",
            Self::RateLimited => "Too many requests",
            Self::RequestTimeout => "The request was too slow",
            Self::BodyTooLarge => "The body is too large",
            Self::TargetTooLong => "The request target is too long",
            Self::ExpectationFailed => "Only the expectation 100-continue is supported",
            Self::HostMismatch => "This connection was opened for another host",
            Self::HeadTooLarge => "The request head is too large",
            Self::UpstreamUnreachable => "The application can't be reached",
            Self::UpstreamError => "The application aborted its response",
            Self::TunnelError => "The tunnel or the agent aborted the exchange",
            Self::AgentOffline => "The agent is not connected",
            Self::Overloaded | Self::AuditFailing | Self::StorageUnavailable => {
                "Cannot be processed now; try again later"
            }
            Self::UpstreamTimeout => "The application took too long",
        }
    }
}
