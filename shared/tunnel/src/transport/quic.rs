//! QUIC endpoints of relay and agent, with their limits.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig,
    TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::protocol::ALPN;
use crate::transport::identity::{PinnedVerifier, Pins, crypto_provider};
use crate::transport::liveness::Liveness;

/// Server name in the tunnel's TLS handshake. It has no meaning, because the key is pinned.
pub const SERVER_NAME: &str = "relay.hookward.invalid";
/// Receive window of one stream, in bytes: 40 MB/s on a path of 50 ms (measured: 18 MB/s with half
/// of it, and as much as `ssh -R`). More gains nothing in quinn.
pub const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Receive window of one connection, in bytes, for data that the program has not read. It has room
/// for half as many slow readers as streams. When it fills up, the relay's `overload::slow_readers`
/// evicts the slowest. An agent has two connections, and quinn needs up to twice the memory, so a
/// relay of 1 GiB cannot have more.
pub const CONNECTION_WINDOW: u32 = 32 * STREAM_WINDOW;
/// Receive window of a peer that has not authenticated: several times its first messages.
pub(crate) const UNAUTHENTICATED_WINDOW: u32 = 64 * 1024;

/// Number of handshakes in progress above which an unknown address must prove itself first (RFC
/// 9000 §8.1.2).
pub const RETRY_FROM: usize = 64;

/// Failure to create an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The UDP socket failed.
    #[error("UDP {address}: {source}")]
    Socket {
        /// Address to bind.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
    /// The TLS settings are invalid.
    #[error("the tunnel's TLS settings: {0}")]
    Tls(String),
}

/// Returns `true` if the agent ended the handshake because the relay's key is not the pinned one.
/// rustls then sends the alert `access_denied` (RFC 8446 §6.2), which QUIC carries (RFC 9001 §4.8).
#[must_use]
pub fn is_wrong_key(error: &quinn::ConnectionError) -> bool {
    const ACCESS_DENIED: u8 = 49;
    let code = quinn::TransportErrorCode::crypto(ACCESS_DENIED);
    matches!(error, quinn::ConnectionError::TransportError(error) if error.code == code)
}

/// Creates the relay's endpoint, which accepts agents.
///
/// # Errors
/// [`EndpointError`].
pub fn server(
    address: SocketAddr,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    liveness: Liveness,
) -> Result<Endpoint, EndpointError> {
    let endpoint_config = restartable(&key);
    let mut tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(tls_error)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];

    let crypto = QuicServerConfig::try_from(tls).map_err(tls_error)?;
    let mut transport = transport(liveness);
    // The agent opens one stream, the control stream.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1));

    // Until it is authenticated; see `Session::trust`.
    transport.receive_window(VarInt::from_u32(UNAUTHENTICATED_WINDOW));
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport))
        .max_incoming(RETRY_FROM * 16)
        .incoming_buffer_size(64 * 1024)
        .incoming_buffer_size_total(INCOMING_BUFFER);

    endpoint(address, Some(config), endpoint_config)
}

/// Maximum size of first packets of handshakes that wait to be accepted, in bytes.
const INCOMING_BUFFER: u64 = 4 * 1024 * 1024;

/// Derives connection ids and reset tokens from the relay's key. So a restarted relay can tell its
/// agents at once that their sessions are gone (RFC 9000 §10.3), instead of after the idle timeout
/// ([`Liveness`]).
fn restartable(key: &PrivateKeyDer<'_>) -> EndpointConfig {
    let derived = |purpose: &[u8]| {
        let mut mac = StatelessKey::of(key.secret_der());
        mac.0.update(purpose);
        mac.0.finalize().into_bytes()
    };
    let mut config = EndpointConfig::new(Arc::new(StatelessKey::of(&derived(
        b"hookward stateless reset",
    ))));
    let cid_key = derived(b"hookward connection ids")
        .first_chunk()
        .map_or(0, |bytes| u64::from_be_bytes(*bytes));
    config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(cid_key)));

    config
}

/// HMAC-SHA256 for quinn's stateless reset tokens.
#[derive(Clone)]
struct StatelessKey(Hmac<Sha256>);

impl StatelessKey {
    fn of(key: &[u8]) -> Self {
        let mut block = [0; 64]; // HMAC's key is one block of the hash, padded with zeros
        for (to, from) in block.iter_mut().zip(Sha256::digest(key)) {
            *to = from;
        }
        Self(Hmac::new(&block.into()))
    }
}

impl HmacKey for StatelessKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let mut mac = self.0.clone();
        mac.update(data);
        for (to, from) in signature_out.iter_mut().zip(mac.finalize().into_bytes()) {
            *to = from;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut mac = self.0.clone();
        mac.update(data);
        mac.verify_slice(signature).map_err(|_| CryptoError)
    }
}

/// Creates the agent's endpoint, which dials the one relay with these pins.
///
/// # Errors
/// [`EndpointError`].
pub fn client(
    address: SocketAddr,
    pins: Pins,
    liveness: Liveness,
) -> Result<Endpoint, EndpointError> {
    let provider = crypto_provider();
    let verifier = PinnedVerifier {
        pins,
        provider: Arc::clone(&provider),
    };

    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .dangerous() // which only means: not the web's authorities, but the pin
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];

    let crypto = QuicClientConfig::try_from(tls).map_err(tls_error)?;
    let mut transport = transport(liveness);
    // Until it is a session; see `Session::serve`. Each stream costs memory from the start, and
    // most connections that an agent dials during an outage never become sessions.
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));

    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let mut endpoint = endpoint(address, None, EndpointConfig::default())?;
    endpoint.set_default_client_config(config);

    Ok(endpoint)
}

fn transport(liveness: Liveness) -> TransportConfig {
    let mut ack = AckFrequencyConfig::default();
    ack.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD));
    // quinn's CUBIC, not its BBR: on a link of 20 Mbit/s and 50 ms, BBR loses 9 to 12 % of its own
    // packets, CUBIC 0.3 to 1.3 % (`scripts/bench-wan slow`), at the same rate. BBR is faster where
    // packets are lost for other reasons (20 MB/s instead of 1, with 1 % lost each way on 50 ms,
    // `scripts/bench-wan both`). There `--transport tcp` helps, with the kernel's congestion
    // control.
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .ack_frequency_config(Some(ack))
        // Both sides send pings, because the shorter idle timeout applies.
        .keep_alive_interval(Some(liveness.ping_interval()))
        .max_idle_timeout(IdleTimeout::try_from(liveness.idle_timeout()).ok());

    transport
}

/// Maximum number of unacknowledged bytes of one connection, in memory: 160 MB/s on a path of 50
/// ms, where quinn reaches 18 to 36 (measured). Four stream windows, so that one slow stream leaves
/// room for others.
const SEND_WINDOW: u64 = 8 * 1024 * 1024;

/// Number of packets per acknowledgement (draft-ietf-quic-ack-frequency); saves 3 % of CPU
/// (measured).
const ACK_THRESHOLD: u32 = 10;

fn endpoint(
    address: SocketAddr,
    config: Option<ServerConfig>,
    endpoint_config: EndpointConfig,
) -> Result<Endpoint, EndpointError> {
    let socket = udp_socket(address).map_err(|source| EndpointError::Socket { address, source })?;
    let runtime = Arc::new(quinn::TokioRuntime);
    Endpoint::new(endpoint_config, config, socket, runtime)
        .map_err(|source| EndpointError::Socket { address, source })
}

fn udp_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;

    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }

    socket.bind(&address.into())?;
    let socket = UdpSocket::from(socket);
    let reference = SockRef::from(&socket);
    reference.set_recv_buffer_size(SOCKET_BUFFER)?;
    reference.set_send_buffer_size(SOCKET_BUFFER)?;

    // Linux reports twice the granted size, for its own bookkeeping.
    let granted = reference.recv_buffer_size()? / 2;
    if granted < SOCKET_BUFFER {
        tracing::info!(
            granted,
            wanted = SOCKET_BUFFER,
            "the kernel gave a smaller UDP buffer; under load raise net.core.rmem_max and wmem_max"
        );
    }

    Ok(socket)
}

/// Size of the socket buffers, in bytes, which absorb local bursts; Debian's default maximum is 208
/// KiB.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

fn tls_error(error: impl std::fmt::Display) -> EndpointError {
    EndpointError::Tls(error.to_string())
}
