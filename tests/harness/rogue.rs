//! A relay without a gate: it speaks the tunnel's protocol, welcomes the agent, and sends the
//! test's requests. What the agent then permits is within reach of an attacker who controls the
//! relay.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hookward_agent::events;
use hookward_agent::{Address, Application as Upstream};
use hookward_agent::{Agent, AgentSettings, Capture, TunnelSettings};
use hookward_agent::{Credential, StateDir};
use hookward_agent::{LinkSettings, RelayEndpoint as RelayAddress, TransportMode};
use hookward_core::clock::Clock;
use hookward_core::limits::{GREETING_BYTES, Limits};
use hookward_core::secret::Secret;
use hookward_gate::policy::Policy;
use hookward_relay::TunnelIdentity;
use hookward_tunnel::protocol::control::{Deadlines, RefusedReason, RelayMessage};
use hookward_tunnel::protocol::frame::Frame;
use hookward_tunnel::protocol::head::{
    ExchangeReply, ExchangeRequest, HeaderCase, RequestId, RequestMeta,
};
use hookward_tunnel::transport::liveness::Liveness;
use hookward_tunnel::transport::{MessageReader, MessageWriter, Session, Transport, quic};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use quinn::Endpoint;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::stage::HOST;
use crate::wait::within;

/// Message of an agent to the relay, with its policy.
pub type AgentMessage =
    hookward_tunnel::protocol::control::AgentMessage<hookward_gate::policy::Policy>;

/// A rogue relay with a connected agent.
pub struct Rogue {
    pub session: Session,
    /// Its connection, for what a session would not send.
    pub connection: quinn::Connection,
    pub agent: Agent,
    _control: JoinHandle<()>,
    _endpoint: Endpoint,
    _dir: TempDir,
}

impl Rogue {
    /// Starts a rogue relay, and an agent with this policy and application.
    pub async fn start(application: SocketAddr, policy: Policy, clock: Clock) -> Self {
        let dir = TempDir::new().unwrap();
        let identity = TunnelIdentity::load_or_make(dir.path()).unwrap();
        let pin = identity.pin;
        let endpoint = endpoint(identity);
        let address = endpoint.local_addr().unwrap();
        let of_task = endpoint.clone();

        let accepting = tokio::spawn(async move {
            let connection = of_task.accept().await.unwrap().await.unwrap();
            let session = Session::over_quic(connection.clone());
            let mut control = session.accept_control().await.unwrap();
            let AgentMessage::Hello { .. } = control.receive(GREETING_BYTES).await.unwrap() else {
                panic!("no hello")
            };

            control.send(&welcome()).await.unwrap();
            session.trust();
            let AgentMessage::Open { .. } = control.receive(1 << 20).await.unwrap() else {
                panic!("no open")
            };

            control
                .send(&RelayMessage::Opened {
                    digest: None,
                    stored_for_ms: None,
                    host: HOST.into(),
                    port: 443,
                })
                .await
                .unwrap();

            (session, control, connection)
        });

        let (reporter, _) = events::channel();
        let (application, transport) = (
            Upstream::plain(Address::Host(application.to_string())),
            TransportMode::Only(Transport::Quic),
        );

        let settings = AgentSettings {
            relays: vec![RelayAddress::new(
                address.to_string(),
                pin,
                Secret::generate().unwrap(),
            )],
            link: LinkSettings {
                transport,
                connections: Some(1),
                ..LinkSettings::default()
            },
            tunnels: vec![TunnelSettings {
                host: None,
                policy,
                application,
                pairing: None,
            }],
            drain: Limits::default().drain,
            state: None,
            delivery_log: None,
            capture: Capture::default(),
        };
        let agent = Agent::start(settings, clock, reporter, |_| {}, |_| {});

        let agent = agent.unwrap_or_else(|problems| panic!("{problems}"));
        let (session, control, connection) = within("the agent connects", accepting).await.unwrap();
        let control = tokio::spawn(async move {
            let _kept_open = control;
            std::future::pending().await
        });

        Self {
            session,
            connection,
            agent,
            _control: control,
            _endpoint: endpoint,
            _dir: dir,
        }
    }

    /// Sends a request as if every check had passed. Returns the agent's response: status and body,
    /// or `Err` if the agent aborted the exchange.
    pub async fn send(&self, request: ExchangeRequest, body: &[u8]) -> Result<(u16, Vec<u8>), ()> {
        let (mut writer, reader) = self.session.open().await.unwrap();
        writer.head(&request.encode(|_| true)).await.map_err(drop)?;
        // An agent that refuses after the head may stop reading.
        let _ = writer.data(Bytes::copy_from_slice(body)).await;
        let _ = writer.finish().await;
        answer(reader).await
    }

    /// Opens an exchange, and leaves its body to the test.
    pub async fn begin(&self, request: ExchangeRequest) -> (MessageWriter, MessageReader) {
        let (mut writer, reader) = self.session.open().await.unwrap();
        writer.head(&request.encode(|_| true)).await.unwrap();
        (writer, reader)
    }
}

/// Starts a relay that accepts every agent and refuses whatever it opens, for this reason. Returns
/// the state directory of an agent that has joined it.
pub async fn refusing(reason: RefusedReason) -> (TempDir, JoinHandle<()>) {
    let dir = TempDir::new().unwrap();
    let identity = TunnelIdentity::load_or_make(dir.path()).unwrap();
    let pin = identity.pin;
    let endpoint = endpoint(identity);
    let address = endpoint.local_addr().unwrap().to_string();
    let credential = Credential::new(address, pin, "x".into(), Secret::generate().unwrap());

    StateDir::open(Some(dir.path()))
        .unwrap()
        .keep_credential(credential, true)
        .unwrap();

    let refusing = tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            // A client that expects another key ends the handshake.
            let Ok(connection) = incoming.await else {
                continue;
            };
            let session = Session::over_quic(connection);
            let Ok(mut control) = session.accept_control().await else {
                continue;
            };
            let Ok(AgentMessage::Hello { .. }) = control.receive(GREETING_BYTES).await else {
                continue;
            };

            control.send(&welcome()).await.unwrap();
            let refused = RelayMessage::Refused {
                reason,
                message: "refused by the test".into(),
            };
            control.send(&refused).await.unwrap();
            control.finish().await;
        }
    });
    (dir, refusing)
}

fn endpoint(identity: TunnelIdentity) -> Endpoint {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    quic::server(any, identity.certificate, identity.key, Liveness::default()).unwrap()
}

fn welcome() -> RelayMessage {
    let deadlines = Deadlines::of(&Limits::default());
    RelayMessage::Welcome {
        agent: "x".into(),
        version: "0".into(),
        deadlines,
        time_ms: 0,
        outlives_refused_hosts: true,
    }
}

/// Reads a response to its end.
pub async fn answer(mut reader: MessageReader) -> Result<(u16, Vec<u8>), ()> {
    within("the agent's answer", async {
        let head = ExchangeReply::decode(reader.head().await.map_err(drop)?).unwrap();
        let status = match head {
            ExchangeReply::Response(response) => response.status,
            ExchangeReply::Failure(failure) => failure.status,
        };
        let mut body = Vec::new();

        loop {
            match reader.next().await.map_err(drop)? {
                Frame::Data(data) => body.extend_from_slice(&data),
                Frame::End => return Ok((status.as_u16(), body)),
                Frame::Head(_) | Frame::Trailers(_) => {}
            }
        }
    })
    .await
}

/// Returns a request as a relay writes it.
pub fn request(
    method: &str,
    target: &[u8],
    headers: &[(String, String)],
    length: Option<usize>,
) -> ExchangeRequest {
    let mut map = HeaderMap::new();
    map.append("host", HeaderValue::from_static(HOST));

    for (name, value) in headers {
        // A value that is not a valid header cannot be sent through the tunnel either.
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value.as_bytes()),
        ) else {
            continue;
        };
        map.append(name, value);
    }

    // An agent accepts no request twice.
    static NEXT: AtomicU64 = AtomicU64::new(1);

    ExchangeRequest {
        meta: RequestMeta {
            id: RequestId(
                NEXT.fetch_add(1, Ordering::Relaxed)
                    .to_be_bytes()
                    .repeat(2)
                    .try_into()
                    .unwrap(),
            ),
            host: Bytes::from_static(HOST.as_bytes()),
            client: IpAddr::from([192, 0, 2, 1]),
            keys: Default::default(),
            delivery: None,
            timing: None,
        },
        method: Method::from_bytes(method.as_bytes()).unwrap(),
        target: Bytes::copy_from_slice(target),
        length: length.map(|length| length as u64),
        trailers: false,
        upgrade: false,
        headers: map,
        header_case: HeaderCase::default(),
    }
}
