//! TLS on the edge's port. Senders get the edge's certificate, and HTTP/2 or HTTP/1.1 by ALPN.
//! Agents have their own ALPN name, and get the relay's identity.

use std::io;
use std::sync::Arc;

use hookward_tunnel::protocol::ALPN;
use hookward_tunnel::transport::identity::crypto_provider;
use hookward_tunnel::transport::tcp;
use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::certs::acme::challenges::Challenges;
use crate::certs::resolver::CertificateResolver;

/// ALPN name of HTTP/2 (RFC 9113 §3.1).
pub(crate) const H2: &[u8] = b"h2";

/// Acceptors of TLS connections.
#[derive(Clone)]
pub(crate) struct TlsAcceptors {
    senders: Arc<ServerConfig>,
    agents: Arc<ServerConfig>,
    /// Gives the certificates of challenges to an ACME server.
    challenges: Arc<ServerConfig>,
}

pub(crate) enum AcceptedTls<S> {
    /// A client that speaks HTTP.
    Sender(TlsStream<S>),
    /// A client that speaks the tunnel's protocol, not yet authenticated.
    Agent(TlsStream<S>),
    /// An ACME server that has seen the certificate of a challenge, and needs nothing more.
    Challenge,
}

impl TlsAcceptors {
    /// Creates acceptors with the edge's certificate for senders, and the relay's identity for agents.
    ///
    /// # Errors
    /// If a key does not match its certificate.
    pub(crate) fn new(
        edge: Arc<CertificateResolver>,
        challenges: Challenges,
        identity: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let mut senders = ServerConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(edge);
        senders.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
        senders.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;

        let mut challenges = ServerConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(challenges));
        challenges.alpn_protocols = vec![ACME_TLS.to_vec()];
        // A resumed connection would show no certificate.
        challenges.session_storage = Arc::new(NoServerSessionStorage {});
        challenges.send_tls13_tickets = 0;

        Ok(Self {
            senders: Arc::new(senders),
            challenges: Arc::new(challenges),
            agents: tcp::server_tls(identity, key)?,
        })
    }

    /// Performs the handshake. The caller sets the deadline.
    ///
    /// # Errors
    /// Fault of the peer.
    pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> io::Result<AcceptedTls<S>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        match ClientKind::of(&hello.client_hello()) {
            ClientKind::Agent => hello
                .into_stream(Arc::clone(&self.agents))
                .await
                .map(AcceptedTls::Agent),
            ClientKind::Sender => hello
                .into_stream(Arc::clone(&self.senders))
                .await
                .map(AcceptedTls::Sender),
            ClientKind::AcmeServer => {
                let mut stream = hello.into_stream(Arc::clone(&self.challenges)).await?;
                // The server may have closed the connection already.
                let _ = stream.shutdown().await;
                Ok(AcceptedTls::Challenge)
            }
        }
    }
}

/// Kind of a TLS client, by the protocol that it offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientKind {
    Sender,
    Agent,
    /// Validates the domain by a challenge certificate (RFC 8737).
    AcmeServer,
}

impl ClientKind {
    fn of(hello: &ClientHello<'_>) -> Self {
        let offers = |wanted: &[u8]| {
            let mut offered = hello.alpn().into_iter().flatten();
            offered.any(|protocol| protocol == wanted)
        };

        if offers(ALPN) {
            Self::Agent
        } else if offers(ACME_TLS) {
            Self::AcmeServer
        } else {
            Self::Sender
        }
    }
}

/// ALPN name of an ACME challenge (RFC 8737 §6.2). A client that offers it gets no other
/// certificate than that of a challenge.
const ACME_TLS: &[u8] = b"acme-tls/1";

const HTTP_1_1: &[u8] = b"http/1.1";
