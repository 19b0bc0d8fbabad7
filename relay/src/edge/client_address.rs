//! Where a request comes from: the socket's peer, unless the peer is a trusted proxy; then the last
//! address of `X-Forwarded-For` that is not one itself. No other field is ever believed.

use std::net::{IpAddr, SocketAddr};

use hookward_shared::gate::address::{AddressSet, canonical};
use hookward_shared::headers::FORWARDED_FOR;
use hookward_shared::limits::FORWARDED_HOPS;
use http::HeaderMap;

/// The client address of a request.
///
/// # Errors
/// Why it can't be told: a trusted proxy sent a field that can't be read.
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &AddressSet) -> Result<IpAddr, &'static str> {
    let peer = canonical(peer);
    if !trusted.contains(peer) {
        return Ok(peer);
    }
    let mut hops: Vec<&str> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        let text = value.to_str().map_err(|_| "X-Forwarded-For is no text")?;
        hops.extend(text.split(','));
    }
    if hops.len() > FORWARDED_HOPS {
        return Err("X-Forwarded-For has too many hops");
    }
    let mut client = peer;
    for hop in hops.iter().rev() {
        client =
            parse_hop(hop.trim_matches([' ', '\t'])).ok_or("X-Forwarded-For has something else than an address")?;
        if !trusted.contains(client) {
            break;
        }
    }
    Ok(client)
}

/// An address, also with a port, also in brackets. Octal, decimal and ranges are none.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    address.or_else(bracketed).or_else(with_port).map(canonical)
}
