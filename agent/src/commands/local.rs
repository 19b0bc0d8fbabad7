//! `--local`: a relay inside the agent's process, to try everything on one machine. It runs the code
//! of the real relay; its tunnel listens on loopback only, and its certificate is self-signed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use hookward_core::clock::Clock;
use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName};
use hookward_core::secret::Secret;
use hookward_observe::audit::AuditSettings;
use hookward_relay::DeliverySettings;
use hookward_relay::FetchSettings;
use hookward_relay::ForwardedField;
use hookward_relay::Settings;
use hookward_relay::StorageError;
use hookward_relay::{AdminSettings, Relay, StartError};

use super::CommandError;
use crate::config::state_dir::StateDir;
use crate::relay_link;

/// Failure of the relay in this process.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The requested host is invalid.
    #[error("--host {0:?} is not a host name")]
    Host(String),
    /// The relay did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The relay's state file failed.
    #[error(transparent)]
    Store(#[from] StorageError),
    /// The relay refused its own agent.
    #[error("the relay in this process refused its own agent")]
    Agent,
    /// The system's random number generator failed.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// Error of an agent that has not joined, which names the alternative without a relay.
pub(super) const NOT_JOINED: &str = "this agent has not joined a relay; run `hookward join -` with a join token first, \
                              set HOOKWARD_JOIN_TOKEN, or add --local to try it on this machine";

/// A relay in this process, and the agent's credential there.
pub(super) struct Local {
    relay: Relay,
    credential: Secret,
}

/// Starts a relay if the command line requests one, and adds the agent to it. Reserves a full host
/// name for the agent, because the user also runs the relay.
///
/// # Errors
/// Failure to start.
pub(super) fn start(
    edge: Option<SocketAddr>,
    hosts: &[Option<&str>],
    state: &StateDir,
    clock: &Clock,
) -> Result<Option<Local>, CommandError> {
    let Some(edge) = edge else { return Ok(None) };
    Ok(Some(Local::start(edge, hosts, state, clock)?))
}

impl Local {
    fn start(
        edge: SocketAddr,
        hosts: &[Option<&str>],
        state: &StateDir,
        clock: &Clock,
    ) -> Result<Self, LocalError> {
        let (name, domain) = (AgentName::preset(), HostName::local());
        let mut given = BTreeMap::new();

        for host in hosts {
            let host = match host {
                None => domain.child(&name),
                Some(host) => {
                    let whole = if host.contains('.') {
                        (*host).to_owned()
                    } else {
                        format!("{host}.{domain}")
                    };
                    HostName::parse(&whole).ok_or(LocalError::Host(whole))?
                }
            };
            given.insert(host, name.clone());
        }

        let settings = Settings {
            admin: AdminSettings::off(),
            audit: AuditSettings::off(),
            delivery: DeliverySettings::default(),
            domain,
            listen: edge,
            tunnel_listen: (Ipv4Addr::LOCALHOST, 0).into(), // the edge's number
            public_port: None,
            tunnel_address: None,
            data_dir: state.path().to_owned(),
            certificate: None,
            acme: None,
            trusted_proxies: Vec::new(),
            forwarded: ForwardedField::default(),
            proxy_protocol: false,
            baseline_policy: None,
            fetch: FetchSettings::default(),
            hosts: given,
            // Only its certificate outlives the program.
            reset: true,
            limits: Limits::default(),
        };
        let relay = Relay::start(settings, clock.clone())?;

        let join = relay.add_agent(&name)?;
        let credential = Secret::generate()?;
        relay
            .store()
            .join(&join.secret, &credential.digest(), clock.now())?
            .ok_or(LocalError::Agent)?;

        Ok(Self { relay, credential })
    }

    /// Returns the endpoint by which the agent reaches it.
    #[must_use]
    pub(super) fn connection(&self) -> relay_link::RelayEndpoint {
        let address = self.relay.tunnel_address().to_string();
        relay_link::RelayEndpoint::new(address, self.relay.pin(), self.credential.clone())
    }

    /// Returns address and port of its HTTPS listener.
    #[must_use]
    pub(super) fn edge(&self) -> String {
        self.relay.edge_address().to_string()
    }

    /// Returns the path of the certificate that clients must trust.
    #[must_use]
    pub(super) fn ca(&self) -> Option<String> {
        self.relay
            .self_signed()
            .map(|path| path.display().to_string())
    }

    /// Drains and stops the relay.
    pub(super) async fn shutdown(self) {
        self.relay.shutdown(Limits::default().drain).await;
    }
}
