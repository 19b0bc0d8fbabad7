//! Connections through an HTTP proxy: `CONNECT` (RFC 9110 §9.3.6), as configured by `HTTPS_PROXY`,
//! `ALL_PROXY` and `NO_PROXY`, with basic authentication if the proxy's URL has credentials.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tokio_util::task::TaskTracker;

use crate::relay_link::ConnectionError;
use hookward_tunnel::transport::identity::crypto_provider;

/// Proxies between the agent and relays.
#[derive(Clone, Default)]
pub struct Proxies(Option<Arc<Matcher>>);

/// Connection to a relay: direct, or through a proxy.
pub(crate) type RelayStream = Either<TcpStream, TokioIo<hyper::upgrade::Upgraded>>;

/// Connection to a proxy, in clear text or over TLS.
type ProxyStream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Proxies {
    /// Reads the environment.
    #[must_use]
    pub fn from_env() -> Self {
        Self(Some(Arc::new(Matcher::from_env())))
    }

    /// Returns this proxy for all hosts except those in `no`, in the syntax of the environment
    /// variables.
    #[must_use]
    pub fn all(proxy: &str, no: &str) -> Self {
        Self(Some(Arc::new(Matcher::builder().all(proxy).no(no).build())))
    }

    /// Returns the proxy for this host and port, if there is one.
    #[must_use]
    pub fn of(&self, address: &str) -> Option<Proxy> {
        let uri = Uri::builder()
            .scheme("https")
            .authority(address)
            .path_and_query("/")
            .build()
            .ok()?;

        self.0
            .as_ref()?
            .intercept(&uri)
            .map(|intercept| Proxy { intercept })
    }
}

pub struct Proxy {
    intercept: Intercept,
}

impl Proxy {
    /// Returns the address of the proxy, without a password.
    #[must_use]
    pub fn address(&self) -> String {
        let uri = self.intercept.uri();
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        format!("{}:{port}", uri.host().unwrap_or_default())
    }

    /// Requests a connection to this host and port. Also returns its local address. The caller sets the
    /// deadline; `tasks` owns the connection driver.
    ///
    /// # Errors
    /// [`ConnectionError::Proxy`].
    pub async fn connect(
        &self,
        target: &str,
        tasks: &TaskTracker,
    ) -> Result<(RelayStream, Option<SocketAddr>), ConnectionError> {
        let failed = |error: &dyn std::fmt::Display| ConnectionError::Proxy {
            proxy: self.address(),
            what: error.to_string(),
        };
        let stream = TcpStream::connect(self.address())
            .await
            .map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;

        let local = stream.local_addr().ok();
        let stream = match self.intercept.uri().scheme_str() {
            Some("https") => self.secure(stream).await?,
            Some("http") | None => Either::Left(stream),
            Some(other) => {
                return Err(failed(&format!(
                    "{other} is not a supported kind of proxy; write http://"
                )));
            }
        };
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;

        tasks.spawn(async move {
            // The user of the connection observes its end.
            let _ = driver.with_upgrades().await;
        });

        let request = self.request(target).map_err(|error| failed(&error))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| failed(&error))?;
        if !answer.status().is_success() {
            return Err(failed(&format!(
                "it answered {} to CONNECT {target}",
                answer.status()
            )));
        }

        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(|error| failed(&error))?;

        Ok((Either::Right(TokioIo::new(upgraded)), local))
    }

    /// Builds the CONNECT request (RFC 9110 §9.3.6).
    fn request(&self, target: &str) -> http::Result<Request<Empty<Bytes>>> {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(Uri::builder().authority(target).build()?)
            .header(header::HOST, target);
        if let Some(basic) = self.intercept.basic_auth() {
            request = request.header(header::PROXY_AUTHORIZATION, basic.clone());
        }

        request.body(Empty::new())
    }

    async fn secure(&self, stream: TcpStream) -> Result<ProxyStream, ConnectionError> {
        let failed = |error: &dyn std::fmt::Display| ConnectionError::Proxy {
            proxy: self.address(),
            what: error.to_string(),
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);

        let config = ClientConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let host = self
            .intercept
            .uri()
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let name = ServerName::try_from(host).map_err(|error| failed(&error))?;

        let tls = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| failed(&error))?;

        Ok(Either::Right(Box::new(tls)))
    }
}
