//! Which host a request is for. `Host`, `:authority`, the target and the TLS handshake may all name
//! one; where they differ, nobody can tell which of them another server would believe.

use hookward_shared::names::HostName;
use hookward_shared::refusal::{Check, Code, Refusal};
use http::{HeaderMap, Uri, Version, header};

/// The ports that a host may carry: the listener's and the public one.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Where the listener is bound.
    pub listener: u16,
    /// What stands in public URLs.
    pub public: u16,
}

/// The one host of a request.
///
/// # Errors
/// 400 when it is missing, malformed or ambiguous; 421 when the connection was opened for another.
pub fn host(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
    sni: Option<&str>,
    ports: Ports,
) -> Result<HostName, Refusal> {
    let bad = |why: &str| Refusal::new(Check::Host, Code::Malformed, why);
    if uri.scheme().is_some_and(|scheme| !matches!(scheme.as_str(), "http" | "https")) {
        return Err(bad("the target has a scheme other than http and https"));
    }
    let mut fields = headers.get_all(header::HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(bad("there is more than one Host"));
    }
    let from_field = match field {
        Some(value) => {
            Some(value.to_str().ok().and_then(|text| parse(text, ports)).ok_or_else(|| bad("the Host is malformed"))?)
        }
        None => None,
    };
    let from_target = match uri.authority() {
        Some(authority) => {
            Some(parse(authority.as_str(), ports).ok_or_else(|| bad("the target's authority is malformed"))?)
        }
        None => None,
    };
    let host = match (from_field, from_target) {
        (Some(field), Some(target)) if field != target => return Err(bad("Host and target name different hosts")),
        // HTTP/1.1 asks for Host even beside an absolute target (RFC 9112 §3.2).
        (None, Some(_)) if version < Version::HTTP_2 => return Err(bad("there is no Host")),
        (Some(host), _) | (None, Some(host)) => host,
        (None, None) => return Err(bad("there is no Host")),
    };
    // A sender without SNI (or with an address, which SNI can't carry) is told apart by Host alone.
    match sni {
        Some(name) if !name.eq_ignore_ascii_case(host.as_str()) => {
            Err(Refusal::new(Check::Host, Code::HostMismatch, "the TLS handshake was for another host"))
        }
        _ => Ok(host),
    }
}

/// A host, alone or with one of the known ports.
fn parse(text: &str, ports: Ports) -> Option<HostName> {
    let name = match text.split_once(':') {
        None => text,
        Some((name, port)) => {
            let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let port: u16 = port.parse().ok().filter(|_| plain)?;
            (port == ports.listener || port == ports.public).then_some(name)?
        }
    };
    HostName::parse(name)
}
