//! HTTPS client for what providers publish: public keys, address lists, confirmations. It speaks
//! only https, follows no redirects, and has a deadline and a maximum size. It resolves the host
//! itself and refuses private, loopback and link-local addresses, so that no name leads into this
//! network.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::url::{HostPattern, HttpsUrl};
use hookward_tunnel::transport::identity::crypto_provider;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Operator's settings for fetching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchSettings {
    /// Hosts allowed for keys of schemes in policies. Providers of the catalog have their own.
    pub hosts: Vec<HostPattern>,
    /// Addresses of names that are not resolved: a mirror, or an inspecting proxy.
    pub resolve: BTreeMap<String, SocketAddr>,
    /// Certificates (PEM) to trust, in addition to the system's.
    pub ca: Option<PathBuf>,
}

/// Failure to fetch a URL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name has no address.
    #[error("{0} can't be found: {1}")]
    Resolve(String, io::Error),
    /// The name resolves to a private address.
    #[error("{0} has the address {1}, which is not on the public internet")]
    Private(String, IpAddr),
    /// The host could not be reached.
    #[error("{0}: {1}")]
    Connect(String, io::Error),
    /// The response is not HTTP.
    #[error("{0}: {1}")]
    Http(String, String),
    /// A status other than 200; redirects are not followed.
    #[error("{0} answered {1}")]
    Status(String, StatusCode),
    /// The fetch timed out.
    #[error("{url} took longer than {} s", .patience.as_secs())]
    Slow {
        /// URL that was fetched.
        url: String,
        /// Timeout of the fetch.
        patience: Duration,
    },
    /// The trusted certificates are unreadable.
    #[error("the certificates to trust: {0}")]
    Trust(String),
}

/// Client for fetching; clones share it.
#[derive(Clone)]
pub struct Fetcher {
    settings: Arc<FetchSettings>,
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

impl Fetcher {
    /// Creates a client that trusts the system's certificates and those of the settings.
    ///
    /// # Errors
    /// [`FetchError::Trust`] if the certificates of the settings are unreadable.
    pub fn new(settings: FetchSettings, patience: Duration) -> Result<Self, FetchError> {
        let tls = client_tls(settings.ca.as_deref())?;
        Ok(Self {
            settings: Arc::new(settings),
            tls,
            timeout: patience,
        })
    }

    /// Returns `true` if the operator allows this host for keys of schemes in policies.
    #[must_use]
    pub fn allows(&self, host: &str) -> bool {
        self.settings
            .hosts
            .iter()
            .any(|pattern| pattern.matches(host))
    }

    /// Gets the content of a URL, up to `most` bytes.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn get(&self, url: &HttpsUrl, most: usize) -> Result<Bytes, FetchError> {
        let getting = self.get_with_timeout(url, most);
        timeout(self.timeout, getting).await.unwrap_or_else(|_| {
            Err(FetchError::Slow {
                url: url.to_string(),
                patience: self.timeout,
            })
        })
    }

    async fn get_with_timeout(&self, url: &HttpsUrl, most: usize) -> Result<Bytes, FetchError> {
        let address = self.address_of(url).await?;
        let connect = |error| FetchError::Connect(url.to_string(), error);
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;

        let name = ServerName::try_from(url.host().to_owned())
            .map_err(|error| connect(io::Error::other(error)))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .map_err(connect)?;
        let http =
            |error: &dyn std::fmt::Display| FetchError::Http(url.to_string(), error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| http(&error))?;

        let request = get(url).map_err(|error| http(&error))?;

        let asking = async {
            let answer = sender
                .send_request(request)
                .await
                .map_err(|error| http(&error))?;
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(url.to_string(), answer.status()));
            }

            let body = Limited::new(answer.into_body(), most)
                .collect()
                .await
                .map_err(|error| http(&error))?;

            Ok(body.to_bytes())
        };

        // The connection is polled here and dropped with the response, so nothing outlives this
        // call. Its end does not end the response, which may still be buffered.
        let driving = async {
            if let Err(error) = connection.await {
                tracing::debug!(%url, %error, "connection to a provider failed");
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = asking => answer,
            () = driving => Err(http(&"the connection ended")),
        }
    }

    /// Resolves the host. All its addresses must be public.
    async fn address_of(&self, url: &HttpsUrl) -> Result<SocketAddr, FetchError> {
        if let Some(address) = self.settings.resolve.get(url.host()) {
            return Ok(*address);
        }

        let unknown = |error| FetchError::Resolve(url.host().to_owned(), error);
        let found: Vec<_> = tokio::net::lookup_host((url.host(), url.port()))
            .await
            .map_err(unknown)?
            .collect();
        if let Some(private) = found.iter().find(|address| !is_public(address.ip())) {
            return Err(FetchError::Private(url.host().to_owned(), private.ip()));
        }

        found
            .first()
            .copied()
            .ok_or_else(|| unknown(io::ErrorKind::NotFound.into()))
    }
}

/// Returns the TLS settings of a client that trusts the system's certificates, and those of a file.
///
/// # Errors
/// [`FetchError::Trust`] if the file is unreadable.
pub(crate) fn client_tls(ca: Option<&Path>) -> Result<Arc<ClientConfig>, FetchError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!(%error, "a root certificate of this system is unusable");
    }

    roots.add_parsable_certificates(system.certs);
    if let Some(path) = ca {
        let wrong = |error: &dyn std::fmt::Display| {
            FetchError::Trust(format!("{}: {error}", path.display()))
        };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
    }

    let tls = ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Trust(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(tls))
}

/// Builds the request for a URL.
fn get(url: &HttpsUrl) -> http::Result<Request<Empty<Bytes>>> {
    let host = match url.port() {
        443 => url.host().to_owned(),
        port => format!("{}:{port}", url.host()),
    };

    Request::get(url.target())
        .header(header::HOST, host)
        .header(
            header::USER_AGENT,
            concat!("hookward-relay/", env!("CARGO_PKG_VERSION")),
        )
        .header(header::ACCEPT, "*/*")
        .body(Empty::new())
}

/// Returns `true` if an address is on the public internet (RFC 6890 and the registries of
/// special-purpose addresses).
#[must_use]
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b));

    !(special
        || v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_documentation()
        || v4.is_broadcast())
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };

    match v6.segments() {
        // NAT64 and 6to4 lead to the IPv4 address inside.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        // All other addresses outside of 2000::/3 are not global unicast addresses.
        _ => {
            first & 0xe000 == 0x2000
                && !(first == 0x2001 && (second < 0x200 || second == 0xdb8))
                && first != 0x3fff
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet() {
        for public in [
            "1.1.1.1",
            "52.94.0.1",
            "2606:4700::1111",
            "2a01:4f8::1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }

        for other in [
            "127.0.0.1",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "64:ff9b:1::1",
            "fec0::1",
            "::127.0.0.1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
