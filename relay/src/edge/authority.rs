//! Determines the host of a request. `Host`, `:authority`, the target and the TLS handshake may all
//! name one. The relay refuses a request in which they differ, because another server may trust a
//! different one.

use hookward_core::names::HostName;
use hookward_core::reason::{Check, Code, Refusal};
use http::{HeaderMap, Uri, Version, header};

/// Ports that `Host` may contain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// Port of the listener.
    pub listener: u16,
    /// Port in public URLs.
    pub public: u16,
}

/// Returns the host of a request. Sets `named` to a host that was named with a wrong port: its owner
/// is notified of the refusal.
///
/// # Errors
/// 400 if it is missing, malformed or ambiguous; 421 if the connection was opened for another.
pub(crate) fn host(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    sni: Option<&str>,
    ports: Ports,
    named: &mut Option<HostName>,
) -> Result<HostName, Refusal> {
    let scheme = uri.scheme().map(http::uri::Scheme::as_str);
    if scheme.is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(bad("the target has a scheme other than http and https"));
    }

    // Over HTTP/2 every request names its scheme, and this port serves only https (RFC 9113
    // §8.3.1).
    if version == Version::HTTP_2 && scheme == Some("http") {
        return Err(bad("the request is for http, and came over TLS"));
    }

    let from_field = host_field(headers, ports, named)?;
    let from_target = match uri.authority() {
        Some(authority) => Some(parse(
            authority.as_str(),
            "target's authority",
            ports,
            named,
        )?),
        None => None,
    };
    let host = match (from_field, from_target) {
        (Some(field), Some(target)) if field != target => {
            return Err(bad("Host and target name different hosts"));
        }
        // HTTP/1.1 requires Host even beside an absolute target (RFC 9112 §3.2).
        (None, Some(_)) if version < Version::HTTP_2 => return Err(bad("there is no Host")),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(bad("there is no Host")),
    };

    // Without SNI (or with an IP address, which SNI cannot carry), Host alone decides.
    match sni {
        Some(name) if !name.eq_ignore_ascii_case(host.as_str()) => Err(Refusal::new(
            Check::Host,
            Code::HostMismatch,
            "Host differs from the server name of the TLS handshake",
        )),
        _ => Ok(host),
    }
}

/// Returns the host of the field `Host`, if there is one.
fn host_field(
    headers: &HeaderMap,
    ports: Ports,
    named: &mut Option<HostName>,
) -> Result<Option<HostName>, Refusal> {
    let mut fields = headers.get_all(header::HOST).iter();
    let Some(field) = fields.next() else {
        return Ok(None);
    };
    if fields.next().is_some() {
        return Err(bad("there is more than one Host"));
    }

    let text = field.to_str().map_err(|_| bad("the Host is malformed"))?;
    parse(text, "Host", ports, named).map(Some)
}

fn bad(reason: &str) -> Refusal {
    Refusal::new(Check::Host, Code::Malformed, reason)
}

/// Parses a host, alone or with one of the allowed ports.
fn parse(
    text: &str,
    what: &str,
    ports: Ports,
    named: &mut Option<HostName>,
) -> Result<HostName, Refusal> {
    let malformed = || bad(&format!("the {what} is malformed"));
    let (host, port) = HostName::parse_authority(text).ok_or_else(malformed)?;
    let Some(port) = port.filter(|port| *port != ports.listener && *port != ports.public) else {
        return Ok(host);
    };
    let reason = format!(
        "the {what} has the port {port}, and this relay's public port is {}; where senders reach it at {port}, start it with \
         --public-port {port}",
        ports.public
    );

    *named = Some(host);
    Err(bad(&reason))
}
