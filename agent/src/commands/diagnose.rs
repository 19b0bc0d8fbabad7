//! `hookward diagnose`: tries every step between this machine and its relays, and says what can be
//! mended and what to ask the network team for (`findings`).

mod findings;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::relay_link::AgentMessage;
use hookward_core::clock::Clock;
use hookward_core::limits::{GREETING_BYTES, UPSTREAM_CONNECT_TIMEOUT};
use hookward_core::secret::Secret;
use hookward_core::text::printable;
use hookward_tunnel::protocol::control::RelayMessage;
use hookward_tunnel::transport::identity::Pin;
use hookward_tunnel::transport::{Session, Transport};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::findings::{
    Findings, HandshakeResult, PathResults, ProbeStep, Reachability, StepOutcome,
};
use super::{CommandError, NOT_JOINED, print, print_error};
use crate::cli::{DiagnoseArgs, LogFormat};
use crate::config::policy_args;
use crate::config::state_dir::StateDir;
use crate::exit::Exit;
use crate::relay_link::dialer::Dialer;
use crate::relay_link::proxy::Proxies;
use crate::relay_link::{ConnectionError, LinkSettings, RelayEndpoint};

/// For one step that does not bring its own deadline.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);
/// Number of datagrams that are sent until one is answered: some are lost.
const DATAGRAMS: u32 = 3;
/// Seconds by which clocks may differ: the tolerance of most providers' signatures is 300.
const CLOCK: u64 = 30;

/// The step in which the relay is reached over QUIC.
const QUIC: &str = "QUIC handshake, key";

/// Runs the command.
///
/// # Errors
/// What failed, for [`Exit::Failed`].
pub(super) async fn run(args: DiagnoseArgs) -> Result<Exit, CommandError> {
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let application = match args
        .application
        .as_deref()
        .map(|text| policy_args::application(text, &args.upstream))
        .transpose()
    {
        Ok(application) => application,
        Err(problems) => {
            print_error(
                LogFormat::Text,
                &hookward_core::diagnostics::Diagnostics(problems).to_string(),
            );
            return Ok(Exit::Usage);
        }
    };

    let kept = state.credentials()?;
    if kept.is_empty() && args.relay.is_none() {
        print_error(
            LogFormat::Text,
            &format!(
                "{NOT_JOINED}, or try the way to a relay: hookward diagnose --relay HOST:PORT"
            ),
        );
        return Ok(Exit::Usage);
    }

    let mut findings = Findings {
        live: args.format == LogFormat::Text,
        ..Findings::default()
    };

    if let Some(address) = args.relay {
        let relay = RelayEndpoint {
            address,
            pin: Pin::of_no_key(),
            credential: Secret::mint()?,
        };
        findings.relay(&relay, false).await?;
    } else {
        for kept in kept {
            let relay = RelayEndpoint {
                address: kept.relay,
                pin: kept.pin,
                credential: kept.secret,
            };
            findings.relay(&relay, true).await?;
        }
    }

    if let Some(application) = application {
        let (outcome, detail) = match timeout(UPSTREAM_CONNECT_TIMEOUT, application.connect()).await
        {
            Ok(Ok(_)) => (StepOutcome::Ok, format!("{application} takes connections")),
            Ok(Err(error)) => (StepOutcome::Failed, format!("{application}: {error}")),
            Err(_) => (StepOutcome::Failed, format!("{application}: no answer")),
        };
        findings.blocked |= outcome == StepOutcome::Failed;

        findings.push(ProbeStep {
            relay: None,
            step: "application",
            outcome,
            reason: detail,
        });
    }

    match args.format {
        LogFormat::Text => print(&findings.conclusion())?,
        LogFormat::Json => print(&format!(
            "{}\n",
            serde_json::to_string(&findings).unwrap_or_default()
        ))?,
    }

    let all = findings.unreached.is_empty() && !findings.blocked;
    Ok(if all { Exit::Done } else { Exit::Failed })
}

impl Findings {
    /// All steps on the way to this relay.
    async fn relay(&mut self, relay: &RelayEndpoint, joined: bool) -> Result<(), ConnectionError> {
        let proxies = Proxies::from_env();
        let tasks = TaskTracker::new();
        let link = LinkSettings {
            proxies: proxies.clone(),
            ..LinkSettings::default()
        };
        let dialler = Dialer::new(relay, &link, tasks.clone())?;
        let proxied = proxies.of(&relay.address).is_some();

        let addresses = match dialler.addresses().await {
            Ok(addresses) => {
                let list = addresses
                    .iter()
                    .map(|address| address.ip().to_string())
                    .collect::<Vec<_>>();
                self.add(relay, "DNS", StepOutcome::Ok, list.join(", "));
                addresses
            }
            Err(error) if proxied => {
                let detail =
                    format!("{error}; the proxy may find it, and TLS over TCP goes through that");
                self.add(relay, "DNS", StepOutcome::Warning, detail);
                Vec::new()
            }
            Err(error) => {
                self.add(relay, "DNS", StepOutcome::Failed, error.to_string());
                Vec::new()
            }
        };
        let udp = self.udp(relay, &addresses).await;

        let quic = match udp {
            Reachability::Refused => {
                self.add(
                    relay,
                    QUIC,
                    StepOutcome::Warning,
                    "nobody listens there for UDP",
                );
                HandshakeResult::Failed
            }
            _ => {
                self.handshake(relay, &dialler, Transport::Quic, joined)
                    .await
            }
        };

        // Asked at once: the relay waits only so long for a greeting.
        let mut greeted = Vec::new();

        if let Some(session) = quic.session() {
            greeted = self.credential(relay, session).await;
        }

        let straight = self.tcp(relay, &addresses, proxied || quic.is_done()).await;
        let proxy = proxies.of(&relay.address);
        let mut let_through = false;

        if let Some(proxy) = &proxy {
            let connected = timeout(STEP_TIMEOUT, proxy.connect(&relay.address, &tasks)).await;
            let reason = match connected {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("{}: no answer", proxy.address())),
            };
            let_through = reason.is_none();

            let outcome = match (let_through, quic.is_done()) {
                (true, _) => StepOutcome::Ok,
                (false, true) => StepOutcome::Warning,
                (false, false) => StepOutcome::Failed,
            };

            self.add(
                relay,
                "proxy",
                outcome,
                reason.unwrap_or_else(|| format!("{} lets us through", proxy.address())),
            );
        } else {
            let detail = "none (HTTPS_PROXY and ALL_PROXY name none for this host)";
            self.add(relay, "proxy", StepOutcome::Skipped, detail);
        }

        let tls = self
            .handshake(relay, &dialler, Transport::Tcp, joined)
            .await;
        let answered = greeted.iter().any(|step| step.outcome == StepOutcome::Ok);
        if let (Some(session), false) = (tls.session(), answered) {
            greeted = self.credential(relay, session).await;
        }

        let known = greeted.iter().any(|step| step.outcome == StepOutcome::Ok);
        let is_way = quic.is_done() || tls.is_done();
        if known || !joined && is_way {
            &mut self.reached
        } else {
            &mut self.unreached
        }
        .push(relay.address.clone());

        if greeted.is_empty() {
            let reason = if is_way {
                "after `hookward join`"
            } else {
                "nothing reaches the relay"
            };
            self.add(relay, "credential", StepOutcome::Skipped, reason);
            self.add(relay, "clock", StepOutcome::Skipped, reason);
        }

        greeted.into_iter().for_each(|step| self.push(step));
        let proxy = proxy.map(|proxy| (proxy.address(), let_through));
        self.conclude(&PathResults {
            relay,
            addresses: &addresses,
            udp,
            quic,
            tcp: straight,
            proxy,
            tls,
        });

        Ok(())
    }

    /// Tests if datagrams reach the relay and return. An unknown version of QUIC is answered with
    /// the versions that the relay knows (RFC 9000 §6.1), before any handshake.
    async fn udp(&mut self, relay: &RelayEndpoint, addresses: &[SocketAddr]) -> Reachability {
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

    /// The straight way. With `another` way out it need not be open.
    async fn tcp(
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
                format!("{target} takes connections"),
                Reachability::Answered,
            ),
            Ok(Err(error)) => (closed, format!("{target}: {error}"), reach(&error)),
            Err(_) => (closed, format!("{target}: no answer"), Reachability::Lost),
        };
        self.add(relay, "TCP", outcome, detail);

        reach
    }

    /// The handshake, in which the relay shows that it has the key that this agent pins.
    async fn handshake(
        &mut self,
        relay: &RelayEndpoint,
        dialler: &Dialer,
        transport: Transport,
        joined: bool,
    ) -> HandshakeResult {
        let step = if transport == Transport::Quic {
            QUIC
        } else {
            "TLS handshake, key"
        };

        let since = Instant::now();
        match dialler.try_over(transport).await {
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
            // With no key to compare, every key is another.
            Err(ConnectionError::WrongKey(_)) if !joined => {
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
                    ConnectionError::WrongKey(_) | ConnectionError::NoRelay(_)
                );
                let outcome = if somebody_else {
                    StepOutcome::Failed
                } else {
                    StepOutcome::Warning
                };
                self.add(relay, step, outcome, error.to_string());

                if matches!(error, ConnectionError::WrongKey(_)) {
                    HandshakeResult::WrongKey
                } else {
                    HandshakeResult::Failed
                }
            }
        }
    }

    /// Tests if the relay knows this agent, and compares the clocks.
    async fn credential(&mut self, relay: &RelayEndpoint, session: &Session) -> Vec<ProbeStep> {
        let asked = async {
            let mut control = session.open_control().await?;
            let hello = AgentMessage::Hello {
                credential: relay.credential.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                instance: "diagnose".to_owned(),
                pool: false,
                line: None,
                lost: false,
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
                let apart = Clock::System.now().0.abs_diff(time_ms) / 1000;
                let outcome = match apart {
                    0..=CLOCK => StepOutcome::Ok,
                    // Signatures with a time would be refused on one side.
                    _ => StepOutcome::Warning,
                };

                let clock = step(
                    "clock",
                    outcome,
                    format!("{apart} s apart from the relay's"),
                );
                return vec![step("credential", StepOutcome::Ok, detail), clock];
            }
            Ok(Ok(RelayMessage::Refused { message, .. })) => printable(&message),
            Ok(Ok(_)) | Err(_) => "the relay does not answer".to_owned(),
            Ok(Err(error)) => error.to_string(),
        };
        vec![step("credential", StepOutcome::Failed, failed)]
    }
}

fn reach(error: &std::io::Error) -> Reachability {
    if error.kind() == std::io::ErrorKind::ConnectionRefused {
        Reachability::Refused
    } else {
        Reachability::Lost
    }
}

/// Sends a first packet of a version that nobody has, and waits for the list of those that the
/// relay knows.
async fn probe(target: SocketAddr) -> std::io::Result<bool> {
    /// A version that is reserved for this (RFC 9000 §15), and two connection ids.
    const HEAD: [u8; 23] = [
        0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 7, 6, 5, 4, 3, 2, 1,
    ];
    /// A first packet is no smaller (RFC 9000 §14.1).
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
