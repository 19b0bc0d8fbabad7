//! A provider that publishes keys, address lists or a confirmation page over HTTPS: a server with
//! real TLS on loopback, whose names are in the relay's settings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hookward_relay::FetchSettings;
use hookward_tunnel::transport::identity::crypto_provider;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

type Pages = Arc<Mutex<BTreeMap<String, (u16, Vec<u8>)>>>;

/// A running server.
pub struct Publisher {
    pub address: SocketAddr,
    names: Vec<String>,
    pages: Pages,
    asked: Arc<Mutex<Vec<String>>>,
    ca: PathBuf,
    _dir: TempDir,
}

impl Publisher {
    /// Serves these host names.
    pub async fn start(names: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names.clone())
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, certificate.pem()).unwrap();

        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();

        let (pages, asked): (Pages, Arc<Mutex<Vec<String>>>) = (Arc::default(), Arc::default());
        let (served, seen) = (Arc::clone(&pages), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, served, seen) =
                    (acceptor.clone(), Arc::clone(&served), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }

                    let head = String::from_utf8(head).unwrap();
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    seen.lock().unwrap().push(target.clone());

                    let (status, body) = served
                        .lock()
                        .unwrap()
                        .get(&target)
                        .cloned()
                        .unwrap_or((404, Vec::new()));
                    let location = if status == 302 {
                        "Location: /elsewhere\r\n"
                    } else {
                        ""
                    };
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\n{location}Content-Length: {}\r\n\r\n",
                        body.len()
                    );

                    let _ = stream.write_all(&[answer.as_bytes(), &body].concat()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });

        Self {
            address,
            names,
            pages,
            asked,
            ca,
            _dir: dir,
        }
    }

    /// Publishes a page, or replaces it.
    pub fn publish(&self, target: &str, status: u16, body: impl Into<Vec<u8>>) {
        self.pages
            .lock()
            .unwrap()
            .insert(target.to_owned(), (status, body.into()));
    }

    /// Returns the requests since the last call.
    pub fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Returns the settings of a relay that finds this server by its names.
    pub fn settings(&self) -> FetchSettings {
        FetchSettings {
            hosts: Vec::new(),
            resolve: self
                .names
                .iter()
                .map(|name| (name.clone(), self.address))
                .collect(),
            ca: Some(self.ca.clone()),
        }
    }

    /// Returns the certificate to trust.
    pub fn ca(&self) -> &Path {
        &self.ca
    }
}
