//! `--local`: a relay inside the agent's process, to try everything on one machine. It is the same
//! code as the real relay; its tunnel listens on loopback only, and its certificate is self-signed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use hookward_relay::settings::Settings;
use hookward_relay::store::StoreError;
use hookward_relay::{Relay, StartError};
use hookward_shared::clock::Clock;
use hookward_shared::limits::Limits;
use hookward_shared::names::{AgentName, HostName};
use hookward_shared::secret::Secret;

use crate::connection;
use crate::state::StateDir;

/// Why there is no relay in this process.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The host that was asked for.
    #[error("--host {0:?} is no host name")]
    Host(String),
    /// The relay did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The relay's state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The relay did not take its own agent.
    #[error("the relay in this process did not take its own agent")]
    Agent,
    /// The system has no randomness to give.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// A relay in this process, and how to reach it.
pub struct Local {
    /// The relay.
    pub relay: Relay,
    /// Who the agent is to it.
    pub connection: connection::Relay,
}

/// Starts a relay at this address, with an agent admitted to it. A whole host name that the agent
/// asks for is given to it: who runs the relay may say so.
///
/// # Errors
/// What failed.
pub fn start(edge: SocketAddr, host: Option<&str>, state: &StateDir, clock: &Clock) -> Result<Local, LocalError> {
    let name = AgentName::preset();
    let domain = HostName::local();
    let host = match host {
        None => domain.child(&name),
        Some(host) => {
            let whole = if host.contains('.') { host.to_owned() } else { format!("{host}.{domain}") };
            HostName::parse(&whole).ok_or_else(|| LocalError::Host(host.to_owned()))?
        }
    };
    let settings = Settings {
        domain,
        listen: edge,
        tunnel_listen: (Ipv4Addr::LOCALHOST, 0).into(),
        public_port: None,
        tunnel_address: None,
        data_dir: state.path().to_owned(),
        certificate: None,
        trusted_proxies: Vec::new(),
        hosts: BTreeMap::from([(host, name.clone())]),
        limits: Limits::default(),
    };
    let relay = Relay::start(settings, clock.clone())?;
    let join = relay.add_agent(&name)?;
    let credential = Secret::mint()?;
    relay.store().join(&join.secret, &credential.digest(), clock.now())?.ok_or(LocalError::Agent)?;
    let connection = connection::Relay { address: relay.tunnel_address().to_string(), pin: relay.pin(), credential };
    Ok(Local { relay, connection })
}
