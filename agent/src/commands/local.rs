//! `--local`: a relay inside the agent's process, to try everything on one machine. It is the same
//! code as the real relay; its tunnel listens on loopback only, and its certificate is self-signed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, anyhow};
use hookward_relay::Relay;
use hookward_relay::settings::Settings;
use hookward_shared::clock::Clock;
use hookward_shared::limits::Limits;
use hookward_shared::names::{AgentName, HostName};
use hookward_shared::policy::PRESET_NAME;
use hookward_shared::secret::Secret;

use crate::connection;
use crate::state::StateDir;

/// The domain of a local relay: every name below `localhost` is this machine (RFC 6761 §6.3), and
/// curl and browsers know that without any configuration.
const DOMAIN: &str = "localhost";

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
pub fn start(edge: SocketAddr, host: Option<&str>, state: &StateDir, clock: &Clock) -> anyhow::Result<Local> {
    let name = AgentName::parse(PRESET_NAME).context("the preset's name")?;
    let domain = HostName::parse(DOMAIN).context("the local domain")?;
    let host = match host {
        None => domain.child(&name),
        Some(host) => {
            let whole = if host.contains('.') { host.to_owned() } else { format!("{host}.{domain}") };
            HostName::parse(&whole).ok_or_else(|| anyhow!("--host {host:?} is no host name"))?
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
    let credential = Secret::mint().context("no random numbers")?;
    relay
        .store()
        .join(&join.secret, &credential.digest(), clock.now())?
        .context("the relay did not take its own agent")?;
    let connection = connection::Relay { address: relay.tunnel_address().to_string(), pin: relay.pin(), credential };
    Ok(Local { relay, connection })
}
