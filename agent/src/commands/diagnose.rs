//! `hookward diagnose`: tests every step between this machine and its relays, and lists the remedies
//! and the requests for the network team (`findings`).

mod findings;
mod steps;

use std::time::Duration;

use hookward_core::limits::UPSTREAM_CONNECT_TIMEOUT;
use hookward_core::secret::Secret;
use hookward_tunnel::transport::Transport;
use hookward_tunnel::transport::identity::Pin;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use self::findings::{
    Findings, HandshakeResult, PathResults, ProbeStep, Reachability, StepOutcome,
};
use super::{CommandError, NOT_JOINED, print, print_error};
use crate::cli::{DiagnoseArgs, LogFormat};
use crate::config::policy_args;
use crate::config::state_dir::{Credential, StateDir};
use crate::exit::Exit;
use crate::relay_link::dialer::Dialer;
use crate::relay_link::proxy::Proxies;
use crate::relay_link::{ConnectionError, LinkSettings, RelayEndpoint};
use crate::upstream::application::Application;

/// Number of datagrams to send until a reply arrives, because some are lost.
const DATAGRAMS: u32 = 3;
/// Maximum clock difference in seconds; most providers' signatures tolerate 300.
const CLOCK: u64 = 30;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
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

    let joined = args.relay.is_none();
    for relay in relays(args.relay, kept)? {
        findings.relay(&relay, joined).await?;
    }

    if let Some(application) = application {
        findings.application(&application).await;
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

/// Returns the relays to test: the given one, or those that the agent has joined.
fn relays(
    given: Option<String>,
    kept: Vec<Credential>,
) -> Result<Vec<RelayEndpoint>, CommandError> {
    if let Some(address) = given {
        let unknown = Secret::generate()?;
        let relay = RelayEndpoint::new(address, Pin::of_no_key(), unknown);
        return Ok(vec![relay]);
    }

    Ok(kept.into_iter().map(RelayEndpoint::from).collect())
}

impl Findings {
    /// Tests the connection to the application.
    async fn application(&mut self, application: &Application) {
        let connecting = timeout(UPSTREAM_CONNECT_TIMEOUT, application.connect());
        let (outcome, reason) = match connecting.await {
            Ok(Ok(_)) => (
                StepOutcome::Ok,
                format!("{application} accepts connections"),
            ),
            Ok(Err(error)) => (StepOutcome::Failed, format!("{application}: {error}")),
            Err(_) => (StepOutcome::Failed, format!("{application}: no response")),
        };

        self.blocked |= outcome == StepOutcome::Failed;
        self.push(ProbeStep {
            relay: None,
            step: "application",
            outcome,
            reason,
        });
    }

    /// Tests all steps to this relay.
    async fn relay(&mut self, relay: &RelayEndpoint, joined: bool) -> Result<(), ConnectionError> {
        let proxies = Proxies::from_env();
        let tasks = TaskTracker::new();
        let link = LinkSettings {
            proxies: proxies.clone(),
            ..LinkSettings::default()
        };
        let dialer = Dialer::new(relay, &link, tasks.clone())?;
        let proxied = proxies.of(&relay.address).is_some();

        let addresses = match dialer.addresses().await {
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
                    "the port is closed for UDP",
                );
                HandshakeResult::Failed
            }
            _ => {
                self.handshake(relay, &dialer, Transport::Quic, joined)
                    .await
            }
        };

        // Requested at once, because the relay's wait for a greeting is short.
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
                Err(_) => Some(format!("{}: no response", proxy.address())),
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

        let tls = self.handshake(relay, &dialer, Transport::Tcp, joined).await;
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
}

/// Timeout of a step without its own deadline.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Title of the step that connects over QUIC.
const QUIC: &str = "QUIC handshake, key";
