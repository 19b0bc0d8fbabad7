//! The application's address (a local port, a host, a Unix socket), TLS settings, HTTP version, and
//! `Host` value.

mod parse;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;

use hookward_core::diagnostics::Diagnostic;
use http::HeaderValue;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

pub(crate) use self::parse::ApplicationAddress;
use super::tls::{self, Trust};

/// The application, as configured by the user.
#[derive(Clone)]
pub struct Application {
    /// Address of the application.
    pub address: Address,
    /// TLS settings; `None` for clear text.
    pub tls: Option<Arc<ClientConfig>>,
    /// `true` if it speaks only HTTP/2, from the first byte (over TLS by ALPN).
    pub http2: bool,
    /// Value of the field `Host`.
    pub host: HostField,
}

/// Address of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A port of this machine, over IPv4 or IPv6.
    Port(u16),
    /// A host and a port.
    Host(String),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

/// Value of the field `Host` for the application.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HostField {
    /// The public host, as the sender wrote it.
    #[default]
    Preserve,
    /// The application's own address.
    Rewrite,
    /// This value.
    Value(HeaderValue),
}

/// Connection to the application: TCP or a Unix socket, or TLS over TCP.
pub(crate) type Stream = Either<Either<TcpStream, UnixStream>, Box<TlsStream<TcpStream>>>;

/// Returns the socket below a connection.
pub(crate) fn socket(stream: &Stream) -> BorrowedFd<'_> {
    match stream {
        Either::Left(Either::Left(stream)) => stream.as_fd(),
        Either::Left(Either::Right(stream)) => stream.as_fd(),
        Either::Right(stream) => stream.get_ref().0.as_fd(),
    }
}

impl Address {
    /// Returns `true` if the address is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Port(_) | Self::Unix(_) => true,
            Self::Host(host) => host.starts_with("127.") || host.starts_with("[::1]"),
        }
    }

    /// Returns host and port in URL syntax.
    #[must_use]
    pub fn authority(&self) -> String {
        match self {
            Self::Port(port) => format!("localhost:{port}"),
            Self::Host(host) => host.clone(),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl Application {
    /// Creates an application over HTTP/1.1 in clear text, with `Host` as the sender wrote it.
    #[must_use]
    pub const fn plain(address: Address) -> Self {
        Self {
            address,
            tls: None,
            http2: false,
            host: HostField::Preserve,
        }
    }

    /// Creates an application with all settings.
    ///
    /// # Errors
    /// Fault of the certificates.
    pub fn new(
        place: ApplicationAddress,
        trust: &Trust,
        http2: bool,
        host: HostField,
    ) -> Result<Self, Diagnostic> {
        let tls = place.https.then(|| tls::config(trust, http2)).transpose()?;
        Ok(Self {
            address: place.address,
            tls,
            http2,
            host,
        })
    }

    /// Returns the value of `Host`, if it differs from the sender's.
    #[must_use]
    pub fn own_host(&self) -> Option<HeaderValue> {
        match &self.host {
            HostField::Preserve => None,
            HostField::Rewrite => HeaderValue::from_str(&self.address.authority()).ok(),
            HostField::Value(value) => Some(value.clone()),
        }
    }

    /// Connects. The caller sets the deadline.
    ///
    /// # Errors
    /// Error of the system or of TLS.
    pub async fn connect(&self) -> io::Result<Stream> {
        let socket = match &self.address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                return Ok(Either::Left(Either::Right(stream)));
            }
            Address::Port(port) => {
                let both = [
                    SocketAddr::from(([127, 0, 0, 1], *port)),
                    SocketAddr::from(([0_u16, 0, 0, 0, 0, 0, 0, 1], *port)),
                ];
                TcpStream::connect(both.as_slice()).await?
            }
            Address::Host(host) => TcpStream::connect(host.as_str()).await?,
        };
        // Nagle's algorithm would delay a request above 8 KiB by 40 ms.
        socket.set_nodelay(true)?;

        let Some(tls) = &self.tls else {
            return Ok(Either::Left(Either::Left(socket)));
        };
        let authority = self.address.authority();
        let host = authority
            .rsplit_once(':')
            .map_or(authority.as_str(), |(host, _)| host)
            .trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;

        let stream = TlsConnector::from(Arc::clone(tls))
            .connect(name, socket)
            .await
            .map_err(tls::explain)?;

        Ok(Either::Right(Box::new(stream)))
    }
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tls.is_some() {
            f.write_str("https://")?;
        }
        match &self.address {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            other => f.write_str(&other.authority()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applications_as_they_are_written() {
        for (good, https) in [
            ("8000", false),
            ("localhost:8000", false),
            ("app:1", false),
            ("[::1]:8000", false),
            ("127.0.0.1:65535", false),
            ("http://localhost:8000", false),
            ("http://app/", false),
            ("https://app:8443", true),
            ("https://app", true),
            ("unix:/run/app.sock", false),
        ] {
            assert_eq!(
                ApplicationAddress::parse(good).map(|place| place.https),
                Ok(https),
                "{good}"
            );
        }

        for bad in [
            "",
            "0",
            "65536",
            "+80",
            "app",
            ":80",
            "app:",
            "::1:80",
            "ftp://a:1",
            "http://a:1/x",
            "unix:app.sock",
        ] {
            assert!(ApplicationAddress::parse(bad).is_err(), "{bad}");
        }
    }
}
