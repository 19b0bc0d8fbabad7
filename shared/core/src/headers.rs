//! Rules for header fields between sender and application.
//!
//! Both sides apply the same rules: the relay to senders' requests, the agent again to the relay's
//! requests, because a relay may be compromised, and to the application's responses.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// Id of a request, for the application and the sender.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("hookward-request-id");
/// Id of a stored delivery, the same for every attempt, for the application and the sender.
pub const DELIVERY_ID: HeaderName = HeaderName::from_static("hookward-delivery-id");
/// Number of the attempt of a delivery, from 1, for the application.
pub const ATTEMPT: HeaderName = HeaderName::from_static("hookward-attempt");
/// Reason why a request of a route that stores webhooks was not storable, for the sender.
pub const NOT_STORABLE: HeaderName = HeaderName::from_static("hookward-not-storable");
/// Stable error code of a response of the relay itself.
pub const ERROR_CODE: HeaderName = HeaderName::from_static("hookward-error");
/// Trace of the sender (www.w3.org/TR/trace-context), forwarded as sent.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Client address, replaced by the relay.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Public port, replaced by the relay.
pub const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// Always `https`, replaced by the relay.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// Public host, replaced by the relay.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Returns `true` if a request's field is forwarded to the application.
#[must_use]
pub fn passes_to_application(name: &HeaderName) -> bool {
    !is_hop_by_hop(name) && *name != header::EXPECT && !is_claim(name.as_str())
}

/// Returns `true` if a field of the application's response is forwarded to the sender.
#[must_use]
pub fn passes_to_sender(name: &HeaderName) -> bool {
    !is_hop_by_hop(name) && !is_ours(name.as_str())
}

/// Returns `true` for fields of a single connection (RFC 9110 §7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION | header::TE | header::TRANSFER_ENCODING | header::UPGRADE
    ) || matches!(name.as_str(), "keep-alive" | "http2-settings")
        || name.as_str().starts_with("proxy-")
}

/// Returns `true` for a field whose value is a secret, or may be one: credentials, cookies, tokens and
/// signatures.
#[must_use]
pub fn is_secret(name: &HeaderName) -> bool {
    const PARTS: [&str; 10] = [
        "auth",
        "hmac",
        "apikey",
        "verification",
        "cookie",
        "token",
        "secret",
        "signature",
        "password",
        "api-key",
    ];
    PARTS.iter().any(|part| name.as_str().contains(part))
}

/// Returns `true` for names of only letters, digits and `-`, which no other such name can be
/// confused with.
#[must_use]
pub fn is_usual_name(name: &HeaderName) -> bool {
    name.as_str()
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns `true` if CGI servers read both names alike (RFC 3875 §4.1.18).
#[must_use]
pub fn are_twins(one: &HeaderName, other: &HeaderName) -> bool {
    let folded = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            byte
        } else {
            b'-'
        }
    };

    let (one, other) = (one.as_str(), other.as_str());
    one.len() == other.len() && one.bytes().map(folded).eq(other.bytes().map(folded))
}

/// Returns `true` for a field that states a client address, identity, certificate, URL, method or
/// file other than the checked ones, or that belongs to Hookward or to one connection. Like CGI,
/// reads every character other than a letter or digit as `-`.
fn is_claim(name: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "x-forwarded",
        "ssl-client-",
        "x-ssl-client-",
        "x-client-cert-",
        "x-webauth-",
        "x-accel-",
        "x-ms-client-principal",
        "proxy-",
        "wl-proxy-",
    ];

    let folded: String;
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let name = if name.bytes().all(usual) {
        name
    } else {
        folded = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        folded.as_str()
    };

    is_claimed_name(name) || is_ours(name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns `true` for those names that have none of the prefixes.
fn is_claimed_name(name: &str) -> bool {
    matches!(
        name,
        "base-url"
            | "cf-connecting-ip"
            | "cf-connecting-ipv6"
            | "client-ip"
            | "destination"
            | "fastly-client-ip"
            | "fly-client-ip"
            | "forwarded"
            | "keep-alive"
            | "proxy"
            | "remote-user"
            | "request-uri"
            | "true-client-ip"
            | "x-authenticated-user"
            | "x-auth-request-user"
            | "x-auth-request-email"
            | "x-appengine-user-ip"
            | "x-arr-clientcert"
            | "x-azure-clientip"
            | "x-azure-socketip"
            | "x-client-cert"
            | "x-client-ip"
            | "x-cluster-client-ip"
            | "x-custom-ip-authorization"
            | "x-envoy-decorator-operation"
            | "x-envoy-external-address"
            | "x-envoy-original-host"
            | "x-envoy-original-path"
            | "x-host"
            | "x-http-destinationurl"
            | "x-http-host-override"
            | "x-http-method"
            | "x-http-method-override"
            | "x-method-override"
            | "x-middleware-subrequest"
            | "x-original-forwarded-for"
            | "x-original-host"
            | "x-original-method"
            | "x-original-uri"
            | "x-original-url"
            | "x-originating-ip"
            | "x-proxyuser-ip"
            | "x-real-ip"
            | "x-remote-addr"
            | "x-remote-group"
            | "x-remote-groups"
            | "x-remote-ip"
            | "x-remote-user"
            | "x-rewrite-uri"
            | "x-rewrite-url"
            | "x-sendfile"
            | "x-sendfile-type"
            | "x-ssl-cert"
    )
}

/// Returns `true` for a name that begins with `hookward-`; reads `_` as `-`.
fn is_ours(name: &str) -> bool {
    name.strip_prefix("hookward")
        .is_some_and(|rest| rest.starts_with(['-', '_']))
}

/// Members of a `Connection` field that concern this request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionOptions {
    /// `true` if `upgrade` is listed.
    pub upgrade: bool,
    /// `true` if `te` is listed.
    pub te: bool,
}

/// A `Connection` field that lists the name of another field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Connection names another field to be removed on the way")]
pub struct UnknownOption;

/// Reads all `Connection` fields.
///
/// # Errors
/// [`UnknownOption`].
pub fn connection_options(headers: &HeaderMap) -> Result<ConnectionOptions, UnknownOption> {
    let mut found = ConnectionOptions::default();
    for value in headers.get_all(header::CONNECTION) {
        let text = value.to_str().map_err(|_| UnknownOption)?;
        for option in text
            .split(',')
            .map(str::trim)
            .filter(|option| !option.is_empty())
        {
            let Some(known) = CONNECTION_OPTIONS
                .iter()
                .find(|known| known.eq_ignore_ascii_case(option))
            else {
                return Err(UnknownOption);
            };
            found.upgrade |= *known == "upgrade";
            found.te |= *known == "te";
        }
    }

    Ok(found)
}

/// Known options of a `Connection` field. Any other names a field that proxies must remove, so the
/// request is refused.
const CONNECTION_OPTIONS: [&str; 5] = ["close", "keep-alive", "upgrade", "te", "http2-settings"];

/// Returns `true` if a list-valued field has this member, ignoring case.
#[must_use]
pub fn lists(headers: &HeaderMap, name: &HeaderName, member: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(member))
}

/// Returns `true` if a trailer field may be forwarded: announced in `Trailer`, not used for
/// framing, routing or authentication (RFC 9110 §6.5.1), and not removed from heads.
#[must_use]
pub fn trailer_passes(announced: &HeaderMap, name: &HeaderName) -> bool {
    let forbidden = matches!(
        *name,
        header::AUTHORIZATION
            | header::CONTENT_ENCODING
            | header::CONTENT_LENGTH
            | header::CONTENT_RANGE
            | header::CONTENT_TYPE
            | header::COOKIE
            | header::HOST
            | header::MAX_FORWARDS
            | header::SET_COOKIE
            | header::TRAILER
    );

    !forbidden && passes_to_application(name) && lists(announced, &header::TRAILER, name.as_str())
}

/// Joins the `cookie` fields of an HTTP/2 request (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }

    let mut joined = Vec::new();
    for value in headers.get_all(header::COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
    }

    if let Ok(value) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reaches_the_application() {
        for (name, passes) in [
            ("x-hub-signature-256", true),
            ("content-type", true),
            ("trailer", true),
            ("host", true),
            ("x-forwarded-for", false),
            ("x_forwarded_for", false),
            ("forwarded", false),
            ("te", false),
            ("proxy-connection", false),
            ("hookward-request-id", false),
            ("hookward_attempt", false),
            ("hookwardian", true),
            ("x-original-url", false),
            ("ssl-client-cert", false),
            ("expect", false),
            ("transfer-encoding", false),
            ("proxy", false),
            ("proxy_connection", false),
            ("client-ip", false),
            ("x-accel-redirect", false),
            ("x-sendfile", false),
            ("x.real.ip", false),
            ("x-http-destinationurl", false),
            ("destination", false),
            ("base-url", false),
            ("x-webauth-user", false),
            ("x-remote-user", false),
            ("x-envoy-original-path", false),
            ("x-user-agent", true),
        ] {
            assert_eq!(
                passes_to_application(&name.parse().unwrap()),
                passes,
                "{name}"
            );
        }
    }

    #[test]
    fn a_connection_field_names_no_other_field() {
        let mut headers = HeaderMap::new();
        headers.append("connection", "Keep-Alive, Upgrade".parse().unwrap());
        assert!(connection_options(&headers).unwrap().upgrade);
        headers.append("connection", "x-hub-signature-256".parse().unwrap());
        assert!(connection_options(&headers).is_err());
    }
}
