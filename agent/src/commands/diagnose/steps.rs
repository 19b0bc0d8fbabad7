//! The steps of a diagnosis.

use super::findings::{Findings, HandshakeResult, ProbeStep, Reachability, StepOutcome};
use super::{CLOCK, DATAGRAMS, QUIC, STEP_TIMEOUT};
use crate::relay_link::AgentMessage;
use crate::relay_link::dialer::Dialer;
use crate::relay_link::{ConnectionError, RelayEndpoint};
use hookward_core::clock::Clock;
use hookward_core::limits::GREETING_BYTES;
use hookward_core::text::printable;
use hookward_tunnel::protocol::control::{ConnectionId, RelayMessage};
use hookward_tunnel::transport::{Session, Transport};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

impl Findings {
    /// Tests if datagrams reach the relay and return. A server answers an unknown QUIC version with
    /// the versions that it supports (RFC 9000 §6.1), before any handshake.
    pub(super) async fn udp(
        &mut self,
        relay: &RelayEndpoint,
        addresses: &[SocketAddr],
    ) -> Reachability {
        let Some(target) = addresses.first() else {
            self.add(relay, "UDP", StepOutcome::Skipped, "no address");
            return Reachability::Lost;
        };
        let since = Instant::now();

        let (outcome, detail, reach) = match probe(*target).await {
            Ok(true) => {
                let detail = format!(
                    "{target} answers in {:.0} ms",
                    since.elapsed().as_secs_f64() * 1000.0
                );
                (StepOutcome::Ok, detail, Reachability::Answered)
            }
            Ok(false) => (
                StepOutcome::Warning,
                format!("{target}: no datagram comes back"),
                Reachability::Lost,
            ),
            Err(error) => (
                StepOutcome::Warning,
                format!("{target}: {error}"),
                reach(&error),
            ),
        };
        self.add(relay, "UDP", outcome, detail);

        reach
    }

    /// Tests a direct TCP connection. It may be closed if `another` path exists.
    pub(super) async fn tcp(
        &mut self,
        relay: &RelayEndpoint,
        addresses: &[SocketAddr],
        another: bool,
    ) -> Reachability {
        let Some(target) = addresses.first() else {
            self.add(relay, "TCP", StepOutcome::Skipped, "no address");
            return Reachability::Lost;
        };
        let closed = if another {
            StepOutcome::Warning
        } else {
            StepOutcome::Failed
        };

        let (outcome, detail, reach) = match timeout(STEP_TIMEOUT, TcpStream::connect(target)).await
        {
            Ok(Ok(_)) => (
                StepOutcome::Ok,
                format!("{target} accepts connections"),
                Reachability::Answered,
            ),
            Ok(Err(error)) => (closed, format!("{target}: {error}"), reach(&error)),
            Err(_) => (closed, format!("{target}: no response"), Reachability::Lost),
        };
        self.add(relay, "TCP", outcome, detail);

        reach
    }

    /// Performs the handshake, in which the relay proves that it has the pinned key.
    pub(super) async fn handshake(
        &mut self,
        relay: &RelayEndpoint,
        dialer: &Dialer,
        transport: Transport,
        joined: bool,
    ) -> HandshakeResult {
        let step = if transport == Transport::Quic {
            QUIC
        } else {
            "TLS handshake, key"
        };

        let since = Instant::now();
        match dialer.try_over(transport).await {
            Ok(found) => {
                let mtu = found
                    .session
                    .path_mtu()
                    .map(|mtu| format!(", datagrams of {mtu} bytes"))
                    .unwrap_or_default();
                let detail = format!(
                    "the relay that was joined, in {:.0} ms{mtu}",
                    since.elapsed().as_secs_f64() * 1000.0
                );
                self.add(relay, step, StepOutcome::Ok, detail);

                HandshakeResult::Done(found.session)
            }
            // Without a pinned key, every key differs.
            Err(ConnectionError::WrongKey { .. }) if !joined => {
                let detail = format!(
                    "something answers in {:.0} ms; `hookward join` checks that it is your relay",
                    since.elapsed().as_secs_f64() * 1000.0
                );
                self.add(relay, step, StepOutcome::Ok, detail);
                HandshakeResult::Unchecked
            }
            Err(error) => {
                let somebody_else = matches!(
                    error,
                    ConnectionError::WrongKey { .. } | ConnectionError::NoRelay(_)
                );
                let outcome = if somebody_else {
                    StepOutcome::Failed
                } else {
                    StepOutcome::Warning
                };
                self.add(relay, step, outcome, error.to_string());

                if matches!(error, ConnectionError::WrongKey { .. }) {
                    HandshakeResult::WrongKey
                } else {
                    HandshakeResult::Failed
                }
            }
        }
    }

    /// Tests if the relay knows this agent, and compares the clocks.
    pub(super) async fn credential(
        &mut self,
        relay: &RelayEndpoint,
        session: &Session,
    ) -> Vec<ProbeStep> {
        let asked = async {
            let mut control = session.open_control().await?;
            let hello = AgentMessage::Hello {
                credential: relay.credential.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                connection: ConnectionId {
                    instance: "diagnose".to_owned(),
                    index: 0,
                    generation: 0,
                },
                pool: false,
                lost: false,
                time_ms: Clock::System.now().0,
                captures_refused: false,
            };
            control.send(&hello).await?;

            control.receive::<RelayMessage>(GREETING_BYTES).await
        };
        let answer = timeout(STEP_TIMEOUT, asked).await;

        session.close("diagnosed");
        let step = |step, outcome, detail| ProbeStep {
            relay: Some(relay.address.clone()),
            step,
            outcome,
            reason: detail,
        };

        let failed = match answer {
            Ok(Ok(RelayMessage::Welcome {
                agent,
                version,
                time_ms,
                ..
            })) => {
                let detail = format!(
                    "known as {}; the relay is version {}",
                    printable(&agent),
                    printable(&version)
                );
                let (outcome, apart) = compare_clocks(time_ms);
                return vec![
                    step("credential", StepOutcome::Ok, detail),
                    step("clock", outcome, apart),
                ];
            }
            Ok(Ok(RelayMessage::Refused { message, .. })) => printable(&message),
            Ok(Ok(_)) | Err(_) => "the relay does not respond".to_owned(),
            Ok(Err(error)) => error.to_string(),
        };
        vec![step("credential", StepOutcome::Failed, failed)]
    }
}

pub(super) fn reach(error: &std::io::Error) -> Reachability {
    if error.kind() == std::io::ErrorKind::ConnectionRefused {
        Reachability::Refused
    } else {
        Reachability::Lost
    }
}

/// Sends a first packet with an unsupported version, and waits for the relay's list of versions.
pub(super) async fn probe(target: SocketAddr) -> std::io::Result<bool> {
    /// A version reserved for this purpose (RFC 9000 §15), and two connection ids.
    const HEAD: [u8; 23] = [
        0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1,
    ];
    /// Minimum size of a first packet, in bytes (RFC 9000 §14.1).
    const FIRST_PACKET: usize = 1200;

    let local: SocketAddr = if target.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(target).await?;

    let mut packet = HEAD.to_vec();
    packet.resize(FIRST_PACKET, 0);

    for _ in 0..DATAGRAMS {
        socket.send(&packet).await?;
        let mut answer = [0; 1500];
        if let Ok(received) = timeout(STEP_TIMEOUT / DATAGRAMS, socket.recv(&mut answer)).await {
            return received.map(|length| length > 0);
        }
    }

    Ok(false)
}

/// Compares this machine's clock with the relay's.
fn compare_clocks(relay_ms: u64) -> (StepOutcome, String) {
    let apart = Clock::System.now().0.abs_diff(relay_ms) / 1000;
    let outcome = match apart {
        0..=CLOCK => StepOutcome::Ok,
        // One side would refuse signatures with a timestamp.
        _ => StepOutcome::Warning,
    };

    (outcome, format!("{apart} s apart from the relay's"))
}
