//! An HTTP proxy with `CONNECT` and basic authentication, as companies have one.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::upstream::certified;

/// Kind of a proxy.
#[derive(Default)]
pub struct Kind {
    /// Required `user:password`, if any.
    pub password: Option<String>,
    /// `true` for a proxy that clients reach over TLS, with a certificate for `localhost`.
    pub tls: bool,
    /// Set if it terminates TLS with its own certificate for every host, with the only protocol
    /// that it knows (empty for any).
    pub intercepts: Option<&'static [u8]>,
    /// Host and port that only the proxy can resolve, with their address.
    pub knows: Option<(String, SocketAddr)>,
}

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    /// Certificate of a proxy that clients reach over TLS.
    pub ca: PathBuf,
    /// Received request lines.
    pub asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
    _dir: TempDir,
}

/// State of all connections.
struct Proxying {
    kind: Kind,
    tls: TlsAcceptor,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Starts a proxy that requires this `user:password`.
    pub async fn start(password: &str) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, password).await
    }

    /// Starts a proxy at another local address.
    pub async fn start_at(address: Ipv4Addr, password: &str) -> Self {
        Self::of_kind(
            address,
            Kind {
                password: Some(password.to_owned()),
                ..Kind::default()
            },
        )
        .await
    }

    /// Starts a proxy of this kind.
    pub async fn of_kind(address: Ipv4Addr, kind: Kind) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tls, ca, dir) = certified(b"http/1.1");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let proxying = Arc::new(Proxying {
            kind,
            tls,
            asked: Arc::clone(&asked),
        });

        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let proxying = Arc::clone(&proxying);

                tokio::spawn(async move {
                    if !proxying.kind.tls {
                        return proxying.serve(stream).await;
                    }
                    if let Ok(stream) = proxying.tls.accept(stream).await {
                        proxying.serve(stream).await;
                    }
                });
            }
        });

        Self {
            address,
            ca,
            asked,
            task,
            _dir: dir,
        }
    }
}

impl Proxying {
    async fn serve(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else {
                return;
            };
            head.push(byte);
        }

        let head = String::from_utf8_lossy(&head).into_owned();
        let line = head.lines().next().unwrap_or_default().to_owned();
        self.asked.lock().unwrap().push(line.clone());

        if let Some(password) = &self.kind.password {
            let wanted = format!(
                "proxy-authorization: basic {}",
                BASE64.encode(password.as_bytes()).to_lowercase()
            );
            if !head.to_lowercase().contains(&wanted) {
                let no = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(no).await;
                return;
            }
        }

        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let known = self
            .kind
            .knows
            .as_ref()
            .filter(|(name, _)| *name == target)
            .map(|(_, address)| *address);
        let there = match known {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect(target).await,
        };
        let Ok(mut there) = there else {
            let _ = stream
                .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                .await;
            return;
        };

        let _ = stream
            .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            .await;

        if let Some(alpn) = self.kind.intercepts {
            // Its data for the other side does not matter here.
            let (tls, ..) = certified(alpn);
            let _ = tls.accept(stream).await;
            return;
        }

        let _ = copy_bidirectional(&mut stream, &mut there).await;
    }
}
