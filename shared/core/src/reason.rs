//! One vocabulary for what is refused or fails: answers, logs, metrics and screens use these words.

mod refusal;

use std::fmt;

pub use self::refusal::Refusal;
use http::StatusCode;
use serde::{Deserialize, Serialize};

/// Reason in words: why a value is invalid, or why a check fails. For the author of a policy, or the
/// tunnel's owner. Contains no secret.
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

/// Declares [`Check`] or [`Code`]: variants with the stable text that stands for each.
macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[$doc:meta])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])+ #[serde(rename = $text)] $variant,)+
        }

        impl $name {
            /// The stable text of this word.
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
    /// Check that refused a request, as the tunnel's owner sees it.
    Check {
        /// The request could be read in two ways, or breaks a size limit.
        Syntax = "syntax",
        /// The client address could not be established behind a trusted proxy.
        ClientAddress = "client-address",
        /// The `Host` names no tunnel.
        Host = "host",
        /// No route has this path.
        Path = "path",
        /// A route has this path, but not this method.
        Method = "method",
        /// The client address failed too often a moment ago.
        Lockout = "lockout",
        /// The client address sends too much.
        ClientRate = "client-rate",
        /// The client address is not allowed, or denied.
        Address = "address",
        /// The token is missing or wrong.
        Token = "token",
        /// The body has another media type than the route takes.
        ContentType = "content-type",
        /// A header field is missing, or has none of the values that are allowed.
        Header = "header",
        /// The body is larger than the route allows.
        BodySize = "body-size",
        /// The body came too slowly, or there was no room for it.
        Body = "body",
        /// The signature is missing, malformed, stale or wrong.
        Signature = "signature",
        /// A value of the body is none of those that are allowed.
        BodyRule = "body-rule",
        /// The delivery came before.
        Replay = "replay",
        /// The route or the tunnel gets more than its rate.
        Rate = "rate",
        /// The request was let through, and failed in the tunnel.
        Tunnel = "tunnel",
    }
}

words! {
    /// The stable error code of an answer that the relay makes itself (`hookward-error`).
    Code {
        /// Malformed or ambiguous request.
        Malformed = "malformed_request",
        /// A request in clear text on the port of HTTPS.
        HttpsOnly = "https_only",
        /// Unknown host, or no route: the same answer for both.
        NotFound = "not_found",
        /// The path has a route, the method doesn't.
        MethodNotAllowed = "method_not_allowed",
        /// A check failed; the sender is not told which.
        Refused = "refused",
        /// Too many requests, or too many failed ones.
        RateLimited = "rate_limited",
        /// The request came too slowly.
        RequestTimeout = "request_timeout",
        /// The body is larger than the route allows.
        BodyTooLarge = "body_too_large",
        /// The request target is longer than 8 KiB.
        TargetTooLong = "target_too_long",
        /// An `Expect` other than `100-continue`.
        ExpectationFailed = "expectation_failed",
        /// The host of the request is not the one of the TLS handshake.
        HostMismatch = "host_mismatch",
        /// The request head is larger than allowed.
        HeadTooLarge = "head_too_large",
        /// The application refused the connection or could not be reached.
        UpstreamUnreachable = "upstream_unreachable",
        /// The application broke off, or answered something that is not HTTP.
        UpstreamError = "upstream_error",
        /// The agent broke off in the middle of an exchange.
        TunnelError = "tunnel_error",
        /// No agent is connected for this host.
        AgentOffline = "agent_offline",
        /// Too many bodies, or requests, are held at this time.
        Overloaded = "overloaded",
        /// The application took too long for the head of its answer.
        UpstreamTimeout = "upstream_timeout",
    }
}

impl Check {
    /// Returns `true` if the connection can't be used after this check failed, because the start of
    /// the next request is unknown.
    #[must_use]
    pub const fn breaks_framing(self) -> bool {
        matches!(self, Self::Syntax | Self::BodySize | Self::Body)
    }
}

impl Code {
    /// The status of an answer with this code. Senders tear a webhook down on 4xx, so an outage
    /// is never a 4xx.
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
            Self::AgentOffline | Self::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The title of an answer with this code: all that a sender is told.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Malformed => "The request is malformed or ambiguous",
            Self::HttpsOnly => "Use https: this port does not serve http",
            Self::NotFound => "Nothing is here",
            Self::MethodNotAllowed => "This resource does not take this method",
            Self::Refused => "The request was refused",
            Self::RateLimited => "Too many requests",
            Self::RequestTimeout => "The request came too slowly",
            Self::BodyTooLarge => "The body is too large",
            Self::TargetTooLong => "The request target is too long",
            Self::ExpectationFailed => "Only the expectation 100-continue is known",
            Self::HostMismatch => "This connection was opened for another host",
            Self::HeadTooLarge => "The request head is too large",
            Self::UpstreamUnreachable => "The application can't be reached",
            Self::UpstreamError => "The application aborted its response",
            Self::TunnelError => "The tunnel or the agent aborted the exchange",
            Self::AgentOffline => "The agent is not connected",
            Self::Overloaded => "Too much is going on",
            Self::UpstreamTimeout => "The application took too long",
        }
    }
}
