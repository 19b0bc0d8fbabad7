//! Applications that are not a local port in clear text: over TLS, on a Unix socket, over HTTP/2.
//! They respond with the received request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hookward_tunnel::transport::identity::crypto_provider;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

/// A server with its own certificate.
pub struct Secure {
    pub address: SocketAddr,
    /// Certificate to trust.
    pub ca: PathBuf,
    _dir: TempDir,
}

/// Serves over TLS, as `localhost`.
pub async fn over_tls(http2: bool) -> Secure {
    over_tls_by(http2, IsCa::NoCa).await
}

/// Serves over TLS, with a certificate with this CA flag.
pub async fn over_tls_by(http2: bool, is_ca: IsCa) -> Secure {
    let (acceptor, ca, dir) = certified_by(if http2 { b"h2" } else { b"http/1.1" }, is_ca);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                serve(stream, http2).await;
            });
        }
    });

    Secure {
        address,
        ca,
        _dir: dir,
    }
}

/// Returns TLS settings with a new certificate for `localhost`, which has its own file.
pub(crate) fn certified(alpn: &[u8]) -> (TlsAcceptor, PathBuf, TempDir) {
    certified_by(alpn, IsCa::NoCa)
}

fn certified_by(alpn: &[u8], is_ca: IsCa) -> (TlsAcceptor, PathBuf, TempDir) {
    let dir = TempDir::new().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = is_ca;

    let certificate = params.self_signed(&key).unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).unwrap();

    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();

    if !alpn.is_empty() {
        config.alpn_protocols = vec![alpn.to_vec()];
    }

    (TlsAcceptor::from(Arc::new(config)), ca, dir)
}

/// Serves HTTP/2 in clear text, from the first byte.
pub async fn http2_in_clear_text() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, true));
        }
    });

    address
}

/// Serves on a Unix socket.
pub fn on_unix_socket(path: &Path) {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, false));
        }
    });
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, http2: bool) {
    let service = service_fn(answer);
    if http2 {
        let _ = http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    } else {
        let _ = http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let host = request.uri().authority().map(ToString::to_string);
    let host = host.or_else(|| {
        Some(String::from_utf8_lossy(request.headers().get("host")?.as_bytes()).into_owned())
    });
    let (version, path) = (request.version(), request.uri().path().to_owned());
    let body = match request.into_body().collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(error) => format!("broken: {error}"),
    };
    let text = format!("{version:?} {} {path} {body}", host.unwrap_or_default());
    Ok(Response::new(Full::new(text.into())))
}
