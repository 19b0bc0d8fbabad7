//! First packets of QUIC handshakes that never continue: real ones by quinn, which the recipient
//! can decrypt (RFC 9001 §5.2).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_tunnel::protocol::ALPN;
use hookward_tunnel::transport::quic::SERVER_NAME;
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;

/// Timeout of a reply, because the network may lose it.
const ANSWER: Duration = Duration::from_secs(1);
/// Number of handshakes after which an endpoint is replaced, with its memory of them.
const OF_ENDPOINT: usize = 1000;

/// Received replies.
#[derive(Debug, Default)]
pub struct Answers {
    pub sent: usize,
    /// Number of Retry packets (RFC 9000 §17.2.5), which ask the address to prove itself.
    pub retries: usize,
    /// Number of other replies: the handshake continues, or is refused.
    pub others: usize,
}

/// Sender of first packets, from many addresses.
pub struct Initials {
    to: SocketAddr,
    sockets: Vec<UdpSocket>,
    endpoint: Endpoint,
    begun: usize,
    config: ClientConfig,
}

impl Initials {
    /// Sends from this number of addresses of 127.30.0.0/16.
    pub fn new(to: SocketAddr, addresses: u16) -> Self {
        let socket = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, 30, high, low), 0)).unwrap();
            socket.set_read_timeout(Some(ANSWER)).unwrap();
            socket
        };

        // With the post-quantum key share, a ClientHello needs two packets.
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];

        let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];

        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        Self {
            to,
            sockets: (1..=addresses).map(socket).collect(),
            endpoint: endpoint(),
            begun: 0,
            config,
        }
    }

    fn packet(&mut self) -> Vec<u8> {
        self.begun += 1;
        if self.begun.is_multiple_of(OF_ENDPOINT) {
            self.endpoint = endpoint();
        }

        let now = Instant::now();
        let (_, mut connection) = self
            .endpoint
            .connect(now, self.config.clone(), self.to, SERVER_NAME)
            .unwrap();
        let mut packet = Vec::new();
        assert!(
            connection.poll_transmit(now, 1, &mut packet).is_some(),
            "a first packet"
        );

        packet
    }

    /// Sends one packet from each address, and waits for the replies.
    pub fn round(&mut self, answers: &mut Answers) {
        for number in 0..self.sockets.len() {
            let packet = self.packet();
            self.sockets[number].send_to(&packet, self.to).unwrap();
            answers.sent += 1;
        }

        let mut answer = [0; 2048];
        for socket in &self.sockets {
            match socket.recv(&mut answer) {
                Ok(_) if answer[0] & 0xf0 == 0xf0 => answers.retries += 1,
                Ok(_) => answers.others += 1,
                Err(_) => {}
            }
        }
    }
}

fn endpoint() -> Endpoint {
    Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None)
}
