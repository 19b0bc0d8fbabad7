//! Determines the client address of a request: the socket's peer, unless the peer is a trusted
//! proxy. Then it is the last address in the proxies' header field that is not a trusted proxy
//! itself. The relay ignores all other fields.

use std::net::{IpAddr, SocketAddr};

use hookward_core::address::{AddressSet, canonical};
use hookward_core::headers::FORWARDED_FOR;
use hookward_core::limits::FORWARDED_HOPS;
use http::{HeaderMap, header};

/// Header field that trusted proxies write. The relay ignores the other one, because proxies pass
/// it on as the sender wrote it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ForwardedField {
    /// The field `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// The field `Forwarded` (RFC 7239).
    Forwarded,
}

/// Returns the client address of a request.
///
/// # Errors
/// The reason, if a trusted proxy sent a malformed field.
pub fn client_address(
    peer: IpAddr,
    headers: &HeaderMap,
    trusted: &AddressSet,
    field: ForwardedField,
) -> Result<IpAddr, &'static str> {
    let peer = canonical(peer);
    if !trusted.contains(peer) {
        return Ok(peer);
    }

    let hops = match field {
        ForwardedField::XForwardedFor => x_forwarded_for(headers)?,
        ForwardedField::Forwarded => forwarded(headers)?,
    };
    if hops.len() > FORWARDED_HOPS {
        return Err("the field of the proxies has too many hops");
    }

    let mut client = peer;
    for hop in hops.iter().rev() {
        client =
            parse_hop(hop).ok_or("the field of the proxies has something else than an address")?;
        if !trusted.contains(client) {
            break;
        }
    }

    Ok(client)
}

fn x_forwarded_for(headers: &HeaderMap) -> Result<Vec<String>, &'static str> {
    let mut hops = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        let text = value
            .to_str()
            .map_err(|_| "X-Forwarded-For is not valid text")?;
        hops.extend(
            text.split(',')
                .map(|hop| hop.trim_matches([' ', '\t']).to_owned()),
        );
    }

    Ok(hops)
}

/// Returns the `for` of each element of `Forwarded`, in order. An element with none or with two is
/// an error: it could hide a hop.
fn forwarded(headers: &HeaderMap) -> Result<Vec<String>, &'static str> {
    let mut hops = Vec::new();
    for value in headers.get_all(header::FORWARDED) {
        let text = value.to_str().map_err(|_| "Forwarded is not valid text")?;
        for element in split_unquoted(text, ',')? {
            let mut node = None;
            for pair in split_unquoted(element, ';')? {
                let (name, value) = pair
                    .split_once('=')
                    .ok_or("Forwarded has something else than pairs")?;
                if name.trim_matches([' ', '\t']).eq_ignore_ascii_case("for")
                    && node.replace(unquoted(value)?).is_some()
                {
                    return Err("an element of Forwarded has two for");
                }
            }

            hops.push(node.ok_or("an element of Forwarded has no for")?);
        }
    }

    Ok(hops)
}

/// Splits at a separator outside of quotes.
fn split_unquoted(text: &str, separator: char) -> Result<Vec<&str>, &'static str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);

    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            c if c == separator && !quoted => {
                parts.push(text.get(start..at).unwrap_or_default());
                start = at + c.len_utf8();
            }
            _ => {}
        }
    }

    if quoted {
        return Err("Forwarded has a quote that is not closed");
    }

    parts.push(text.get(start..).unwrap_or_default());
    Ok(parts)
}

/// Returns a token, or the content of a quoted string (RFC 9110 §5.6.4).
fn unquoted(value: &str) -> Result<String, &'static str> {
    let value = value.trim_matches([' ', '\t']);
    let Some(inside) = value.strip_prefix('"') else {
        return if value.contains('"') {
            Err("Forwarded has a quote inside of a value")
        } else {
            Ok(value.to_owned())
        };
    };
    let inside = inside
        .strip_suffix('"')
        .ok_or("Forwarded has text behind a quote")?;

    // No address needs an escape, and two parsers could read an escape differently.
    if inside.contains(['"', '\\']) {
        Err("Forwarded has an escape")
    } else {
        Ok(inside.to_owned())
    }
}

/// Parses an address, with or without brackets and a port. Rejects octal, decimal and ranges.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok();
    let bracketed = || {
        text.strip_prefix('[')?
            .strip_suffix(']')?
            .parse()
            .ok()
            .map(IpAddr::V6)
    };

    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    address.or_else(bracketed).or_else(with_port).map(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::FORWARDED, value.parse().unwrap());
        }

        headers.append(FORWARDED_FOR, "203.0.113.99".parse().unwrap());
        let trusted = AddressSet::new(&["10.0.0.0/8".parse().unwrap()]);
        let peer = "10.0.0.1".parse().unwrap();
        client_address(peer, &headers, &trusted, ForwardedField::Forwarded)
            .map(|address| address.to_string())
    }

    #[test]
    fn the_last_hop_that_is_no_proxy() {
        for (values, client) in [
            (&["for=192.0.2.1"][..], "192.0.2.1"),
            (&["for=192.0.2.1, for=10.0.0.9"], "192.0.2.1"),
            (
                &["for=1.2.3.4, for=192.0.2.1;proto=https;by=10.0.0.2"],
                "192.0.2.1",
            ),
            (&["for=1.2.3.4", "For=\"192.0.2.1:4711\""], "192.0.2.1"),
            (&["proto=https;for=\"[2001:db8::1]:4711\""], "2001:db8::1"),
            (
                &["for=\"[2001:db8::1]\";by=\"a,for=1.2.3.4\""],
                "2001:db8::1",
            ),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(judge(values).as_deref(), Ok(client), "{values:?}");
        }
    }

    #[test]
    fn what_can_not_be_told_is_refused() {
        for value in [
            "for=unknown",
            "for=_hidden",
            "for=",
            "proto=https",
            "for=192.0.2.1;for=192.0.2.2",
            "for=\"192.0.2.1",
            "for=\"192.0.2.\\1\"",
            "for=\"192.0.2.1\"x",
            "for=192.0.2.1,",
            "for=0x7f.1",
            "192.0.2.1",
        ] {
            assert!(judge(&[value]).is_err(), "{value}");
        }

        assert!(judge(&[&vec!["for=10.0.0.1"; 40].join(",")]).is_err());
    }
}
