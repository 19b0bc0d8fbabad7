//! Senders of webhooks: real TLS with raw bytes above it, so that a test can send what no HTTP
//! client would.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use hookward_core::clock::Clock;
use hookward_tunnel::transport::identity::crypto_provider;
use rustls::RootCertStore;
use rustls::time_provider::TimeProvider;
use rustls_pki_types::{ServerName, UnixTime};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::wait::within;

/// Address of the relay, and the certificate to trust.
#[derive(Clone)]
pub struct Edge {
    pub address: SocketAddr,
    pub host: String,
    pub roots: RootCertStore,
    /// Clock with which the relay's certificate was made and is verified.
    pub clock: Clock,
}

/// TLS clients use the stage's clock, too.
#[derive(Debug)]
struct StageTime(Clock);

impl TimeProvider for StageTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(
            self.0.now().0,
        )))
    }
}

/// A response over HTTP/1.1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// `true` if the body ended by its framing.
    pub complete: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the relay's error code, if the relay made this response.
    pub fn code(&self) -> Option<&str> {
        self.header("hookward-error")
    }
}

impl Edge {
    /// Opens a TLS connection with this ALPN and SNI (`None`: no SNI).
    pub async fn tls(&self, alpn: &[u8], sni: Option<&str>) -> io::Result<TlsStream<TcpStream>> {
        self.tls_behind(b"", alpn, sni).await
    }

    /// Opens a TLS connection after bytes in clear text, as a load balancer sends them.
    pub async fn tls_behind(
        &self,
        before: &[u8],
        alpn: &[u8],
        sni: Option<&str>,
    ) -> io::Result<TlsStream<TcpStream>> {
        let mut config = rustls::ClientConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.time_provider = Arc::new(StageTime(self.clock.clone()));
        config.alpn_protocols = vec![alpn.to_vec()];
        config.enable_sni = sni.is_some();

        let name = ServerName::try_from(sni.unwrap_or(&self.host).to_owned()).unwrap();
        let mut stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(before).await?;

        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    /// Opens a connection for HTTP/1.1.
    pub async fn http1(&self) -> Http1 {
        let stream = within("TLS handshake", self.tls(b"http/1.1", Some(&self.host)))
            .await
            .unwrap();
        Http1::new(stream)
    }

    /// Sends a request on its own connection and reads the response.
    pub async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut connection = self.http1().await;
        connection
            .send(method, target, &self.host, headers, body)
            .await;
        connection.answer(method).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.request("GET", target, &[], b"").await
    }

    pub async fn post(&self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.request("POST", target, headers, body).await
    }

    /// Opens a connection for HTTP/2, with the `h2` crate.
    pub async fn http2(&self) -> h2::client::SendRequest<bytes::Bytes> {
        let stream = within("TLS handshake", self.tls(b"h2", Some(&self.host)))
            .await
            .unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();

        tokio::spawn(async move {
            let _ = connection.await;
        });

        client
    }
}

/// A kept HTTP/1.1 connection.
pub struct Http1 {
    pub stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Http1 {
    /// Uses this stream.
    pub fn new(stream: TlsStream<TcpStream>) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Returns the number of buffered bytes.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Writes bytes unchanged.
    pub async fn raw(&mut self, bytes: &[u8]) {
        // A relay that has responded and closed does not read the rest.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Writes a request, with a Content-Length if there is a body.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        host: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }

        if !body.is_empty() || method == "POST" {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }

        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend(body);
        self.raw(&bytes).await;
    }

    async fn fill(&mut self) -> bool {
        matches!(within("an answer", self.stream.read_buf(&mut self.buffer)).await, Ok(count) if count > 0)
    }

    pub async fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(mark.len())
                .position(|window| window == mark)
            {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }

            if !self.fill().await {
                return None;
            }
        }
    }

    /// Returns the next response to a request of this method. Skips interim responses.
    ///
    /// # Panics
    /// If the connection ends without one.
    pub async fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method)
            .await
            .expect("the connection ended without an answer")
    }

    /// Returns the next response, or `None` if the connection ends without one.
    pub async fn try_answer(&mut self, method: &str) -> Option<Answer> {
        loop {
            let mut answer = self.head().await?;
            if answer.status == 101 || answer.status >= 200 {
                self.body(method, &mut answer).await;
                return Some(answer);
            }
        }
    }

    /// Returns the head of a response, also of an interim one.
    pub async fn head(&mut self) -> Option<Answer> {
        let head = self.until(b"\r\n\r\n").await?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();

        Some(Answer {
            status,
            headers,
            ..Answer::default()
        })
    }

    async fn body(&mut self, method: &str, answer: &mut Answer) {
        if method == "HEAD" || matches!(answer.status, 101 | 204 | 304) {
            answer.complete = true;
        } else if let Some(length) = answer
            .header("content-length")
            .and_then(|text| text.parse::<usize>().ok())
        {
            while self.buffer.len() < length && self.fill().await {}
            answer.complete = self.buffer.len() >= length;
            answer.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        } else if answer.header("transfer-encoding").is_some() {
            answer.complete = self.chunks(answer).await.is_some();
        } else {
            while self.fill().await {}
            answer.body = std::mem::take(&mut self.buffer);
            answer.complete = true;
        }
    }

    async fn chunks(&mut self, answer: &mut Answer) -> Option<()> {
        loop {
            let line = self.until(b"\r\n").await?;
            let size = usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
            if size == 0 {
                loop {
                    let line = String::from_utf8_lossy(&self.until(b"\r\n").await?)
                        .trim_end()
                        .to_owned();
                    match line.split_once(':') {
                        Some((name, value)) => answer
                            .trailers
                            .push((name.to_owned(), value.trim().to_owned())),
                        None => return Some(()),
                    }
                }
            }

            while self.buffer.len() < size + 2 {
                if !self.fill().await {
                    answer.body.append(&mut self.buffer);
                    return None;
                }
            }

            answer.body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    /// Reads exactly this number of bytes after an upgrade.
    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.fill().await, "the connection ended");
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads until the connection ends.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.buffer)
    }
}

/// Returns a token as any issuer makes it.
pub fn hs256(payload: &str, key: &[u8]) -> String {
    let encode = |bytes: &[u8]| data_encoding::BASE64URL_NOPAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"HS256","typ":"JWT"}"#),
        encode(payload.as_bytes())
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(signed.as_bytes());

    format!("{signed}.{}", encode(&mac.finalize().into_bytes()))
}

/// Returns GitHub's signature of a body.
pub fn github_signature(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body);
    format!(
        "sha256={}",
        data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes())
    )
}
