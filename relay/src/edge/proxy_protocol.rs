//! The PROXY protocol, versions 1 and 2 (HAProxy, `doc/proxy-protocol.txt`): a load balancer that
//! does not speak HTTP names the client address in the first bytes of a connection. Only trusted
//! proxies may send it, and they must send it on every connection.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads the header and returns its address, or `None` if the proxy connects for itself.
///
/// # Errors
/// If the connection does not begin with a valid header.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<IpAddr>> {
    // Reads not a byte beyond the header, because TLS begins behind it.
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;

    if header == SIGNATURE {
        let mut rest = [0; 4];
        stream.read_exact(&mut rest).await?;
        let [_, _, high, low] = rest;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > HEADER_BYTES {
            return Err(malformed("the header is too long"));
        }

        header.extend(rest);
        let start = header.len();
        header.resize(start + length, 0);
        stream
            .read_exact(header.get_mut(start..).unwrap_or_default())
            .await?;
    } else {
        while !header.ends_with(b"\r\n") {
            if header.len() >= LINE_BYTES || !header.starts_with(b"PROXY ") {
                return Err(malformed("it is not the PROXY protocol"));
            }
            header.push(stream.read_u8().await?);
        }
    }

    source(&header)
}

/// First bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Maximum length of a line of version 1 (`doc/proxy-protocol.txt` §2.1).
const LINE_BYTES: usize = 107;

/// Maximum length of a header of version 2: addresses and some extensions need a few hundred bytes.
const HEADER_BYTES: usize = 4096;

/// Returns the address in a complete header.
///
/// # Errors
/// If the header is malformed.
pub fn source(header: &[u8]) -> io::Result<Option<IpAddr>> {
    if header.starts_with(SIGNATURE) {
        let header =
            ppp::v2::Header::try_from(header).map_err(|error| malformed(&error.to_string()))?;
        if header.command == ppp::v2::Command::Local {
            return Ok(None);
        }

        return Ok(match header.addresses {
            ppp::v2::Addresses::IPv4(addresses) => Some(addresses.source_address.into()),
            ppp::v2::Addresses::IPv6(addresses) => Some(addresses.source_address.into()),
            _ => None,
        });
    }

    let header =
        ppp::v1::Header::try_from(header).map_err(|error| malformed(&error.to_string()))?;
    Ok(match header.addresses {
        ppp::v1::Addresses::Tcp4(addresses) => Some(addresses.source_address.into()),
        ppp::v1::Addresses::Tcp6(addresses) => Some(addresses.source_address.into()),
        ppp::v1::Addresses::Unknown => None,
    })
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("PROXY protocol: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn judge(bytes: &[u8]) -> io::Result<(Option<IpAddr>, Vec<u8>)> {
        let mut stream = bytes;
        let address = read(&mut stream).await?;
        Ok((address, stream.to_vec()))
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, payload, b"TLS"].concat()
    }

    #[tokio::test]
    async fn both_versions_and_not_a_byte_more() {
        let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let (found, rest) = judge(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\nTLS")
            .await
            .unwrap();
        assert_eq!(
            (found, rest.as_slice()),
            (address("192.0.2.1"), &b"TLS"[..])
        );

        let (found, rest) = judge(b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\nTLS")
            .await
            .unwrap();
        assert_eq!(
            (found, rest.as_slice()),
            (address("2001:db8::1"), &b"TLS"[..])
        );

        let (found, rest) = judge(b"PROXY UNKNOWN\r\nTLS").await.unwrap();
        assert_eq!((found, rest.as_slice()), (None, &b"TLS"[..]));
        let four = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 187];
        let (found, rest) = judge(&v2(0x21, 0x11, &four)).await.unwrap();
        assert_eq!(
            (found, rest.as_slice()),
            (address("192.0.2.1"), &b"TLS"[..])
        );

        let (found, _) = judge(&v2(0x21, 0x11, &[&four[..], &[4, 0, 1, 0]].concat()))
            .await
            .unwrap();
        assert_eq!(found, address("192.0.2.1"), "with an extension");

        let (found, rest) = judge(&v2(0x20, 0, &[])).await.unwrap();
        assert_eq!((found, rest.as_slice()), (None, &b"TLS"[..]));
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        for bad in [
            &b""[..],
            b"PROXY",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03TLS",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 2001:db8::1 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 010.0.0.1 198.51.100.1 56324 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n\n\n",
            b"proxy tcp4 192.0.2.1 198.51.100.1 56324 443\r\n",
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 3]),
            &[&b"PROXY "[..], &[b'x'; 200], b"\r\n"].concat(),
        ] {
            assert!(
                judge(bad).await.is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }
}
