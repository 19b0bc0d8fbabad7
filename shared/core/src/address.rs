//! Networks of client addresses: strict parsing, and sets with logarithmic lookup.

use crate::reason::Reason;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Returns the canonical form of an address. A dual-stack socket reports an IPv4 peer as
/// IPv4-mapped IPv6, which this function turns into IPv4.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Parses `192.0.2.0/24`, `192.0.2.7`, `2001:db8::/32` or `2001:db8::1`.
///
/// # Errors
/// A sentence with the correct syntax. Rejects what two parsers could read differently: octal or
/// hexadecimal numbers, fewer than four parts, set host bits, lists, names, and non-ASCII text.
pub fn parse_network(text: &str) -> Result<IpNet, Reason> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| {
        format!(
            "{text:?} is not an address range; write one such as 192.30.252.0/22 or 2001:db8::/32"
        )
    })?;
    let most: u8 = if address.is_ipv4() { 32 } else { 128 };

    let prefix = match prefix {
        None => most,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= most)
                .ok_or_else(|| format!("{text:?}: the prefix length is at most {most}"))?
        }
        Some(_) => {
            return Err(format!("{text:?}: the prefix length is a number up to {most}").into());
        }
    };
    let network = IpNet::new(address, prefix).map_err(|error| format!("{text:?}: {error}"))?;

    if network.network() != address {
        return Err(format!(
            "{text:?} has host bits set; did you mean {}?",
            network.trunc()
        )
        .into());
    }

    unmapped(network)
        .ok_or_else(|| {
            format!("{text:?} covers IPv4-mapped addresses and others; name the IPv4 range")
        })
        .map_err(Reason::from)
}

/// Returns the IPv4 range of an IPv4-mapped IPv6 range, or `None` if it covers other addresses,
/// too.
fn unmapped(network: IpNet) -> Option<IpNet> {
    let IpNet::V6(v6) = network else {
        return Some(network);
    };
    match v6.addr().to_ipv4_mapped() {
        Some(v4) if v6.prefix_len() >= MAPPED_PREFIX => {
            Ipv4Net::new(v4, v6.prefix_len() - MAPPED_PREFIX)
                .ok()
                .map(IpNet::V4)
        }
        Some(_) => None,
        None => Some(network),
    }
}

/// Prefix length of an IPv4-mapped IPv6 address (`::ffff:0:0/96`, RFC 4291 §2.5.5.2).
const MAPPED_PREFIX: u8 = 96;

/// Returns the address under which a client is counted: an IPv4 address, or an IPv6 /64 (one
/// customer).
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match canonical(address) {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Net::new(v6, 64).map_or(v6, |network| network.network())),
    }
}

/// A set of networks, merged and sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl AddressSet {
    /// Creates a set of these networks.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        let mut set = Self::default();
        for network in networks {
            match network {
                IpNet::V4(net) => set
                    .v4
                    .push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => set
                    .v6
                    .push((net.network().to_bits(), net.broadcast().to_bits())),
            }
        }

        set.v4 = merged(set.v4, |start| start.checked_sub(1));
        set.v6 = merged(set.v6, |start| start.checked_sub(1));
        set
    }

    /// Returns `true` if the set covers a whole address family, in one range or in parts. Such a
    /// set protects nothing.
    #[must_use]
    pub fn has_whole_family(&self) -> bool {
        self.v4 == [(0, u32::MAX)] || self.v6 == [(0, u128::MAX)]
    }

    /// Returns `true` if the set contains this address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match canonical(address) {
            IpAddr::V4(v4) => within(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => within(&self.v6, v6.to_bits()),
        }
    }

    /// Returns `true` if `other` contains every address of this set.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        let first = |start: u32| IpAddr::V4(Ipv4Addr::from_bits(start));
        let first6 = |start: u128| IpAddr::V6(Ipv6Addr::from_bits(start));
        self.v4.iter().all(|(start, end)| {
            other.contains(first(*start)) && range_of(&other.v4, *start) >= Some(*end)
        }) && self.v6.iter().all(|(start, end)| {
            other.contains(first6(*start)) && range_of(&other.v6, *start) >= Some(*end)
        })
    }
}

/// Sorts ranges and joins adjacent ones.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>, before: impl Fn(T) -> Option<T>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    let mut joined: Vec<(T, T)> = Vec::with_capacity(ranges.len());

    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if start <= last.1 || before(start) == Some(last.1) => {
                last.1 = last.1.max(end)
            }
            _ => joined.push((start, end)),
        }
    }

    joined
}

/// Returns the end of the last range that starts at or before `value`.
fn range_of<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> Option<T> {
    let after = ranges.partition_point(|(start, _)| *start <= value);
    ranges.get(after.checked_sub(1)?).map(|(_, end)| *end)
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    range_of(ranges, value).is_some_and(|end| value <= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(networks: &[&str]) -> AddressSet {
        AddressSet::new(
            &networks
                .iter()
                .map(|text| parse_network(text).unwrap())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn ambiguous_networks_are_refused() {
        for bad in [
            "",
            "any",
            "010.0.0.1",
            "0x7f.0.0.1",
            "2130706433",
            "192.0.2.7/24",
            "192.0.2.0/33",
            "192.0.2.0/+24",
            "192.0.2.0/24/24",
            "1.2.3.4,5.6.7.8",
            " 1.2.3.4",
            "fe80::1%1",
            "::ffff:0:0/95",
        ] {
            assert!(parse_network(bad).is_err(), "{bad}");
        }

        assert_eq!(
            parse_network("::ffff:192.0.2.0/120").unwrap(),
            "192.0.2.0/24".parse::<IpNet>().unwrap()
        );
    }

    #[test]
    fn membership_is_by_value_and_family() {
        let set = set(&["192.0.2.0/25", "192.0.2.128/25", "2001:db8::/32"]);
        for (address, inside) in [
            ("192.0.2.255", true),
            ("192.0.3.0", false),
            ("::ffff:192.0.2.5", true),
            ("64:ff9b::c000:205", false),
            ("2001:db8::1", true),
            ("2001:db9::", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), inside, "{address}");
        }
    }

    #[test]
    fn a_hundred_thousand_networks_are_no_burden() {
        let networks: Vec<_> = (0..100_000_u32)
            .map(|n| IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(0x0a00_0000 + n * 2), 32).unwrap()))
            .collect();
        let set = AddressSet::new(&networks);
        assert!(
            set.contains("10.0.0.2".parse().unwrap()) && !set.contains("10.0.0.3".parse().unwrap())
        );
    }

    #[test]
    fn one_set_within_another() {
        assert!(
            set(&["0.0.0.0/1", "128.0.0.0/1"]).has_whole_family()
                && !set(&["0.0.0.0/1"]).has_whole_family()
        );
        assert!(set(&["10.0.0.0/8"]).is_within(&set(&["10.0.0.0/9", "10.128.0.0/9"])));
        assert!(set(&["10.1.0.0/16"]).is_within(&set(&["10.0.0.0/8"])));
        assert!(!set(&["10.0.0.0/8"]).is_within(&set(&["10.1.0.0/16"])));
        assert!(!set(&["10.1.0.0/16", "::1"]).is_within(&set(&["10.0.0.0/8"])));
    }
}
