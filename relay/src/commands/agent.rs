//! `hookward-relay agent …` manages agents. It works on the data directory, also beside a running
//! relay.

use std::path::Path;
use std::time::{Duration, Instant};

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::names::{AgentName, HostName};
use hookward_core::secret::Secret;
use hookward_observe::audit::Actor;
use hookward_tunnel::join_token::JoinToken;

use crate::admin::status::AgentStatus;
use crate::certs::TunnelIdentity;
use hookward_cli::OutputFormat;

use crate::cli::{AgentArgs, AgentCommand, ListArgs, RotateArgs, ScopeArgs, ScopedAgentArgs};
use crate::commands::CommandError;
use crate::commands::{say, status};
use crate::storage::STATE_FILE;
use crate::storage::Store;
use crate::storage::agents::{AgentScope, ScopeChange, TakenHost};

/// Error of the command line.
#[derive(Debug, thiserror::Error)]
pub enum AgentCommandError {
    #[error("{0:?} is not an agent's name: letters, digits and hyphens, at most 63")]
    Name(String),
    #[error(
        "{0} holds no relay's data; start the relay once with `hookward-relay serve`, or name its --data-dir"
    )]
    NoRelay(String),
    /// There is no agent of this name.
    #[error("there is no agent {0}; hookward-relay agent list shows all")]
    Unknown(AgentName),
    /// The agent has no credential to rotate.
    #[error("the agent {0} has not joined; hookward-relay agent add {0} makes a join token")]
    NotJoined(AgentName),
    /// No limit was given.
    #[error(
        "name what the agent {0} may open, such as --host, --path or --expires; --unlimited removes the limits"
    )]
    NoLimit(AgentName),
    /// The limits of another agent name the host.
    #[error(
        "{host} is given to the agent {agent}; take it from that agent first: hookward-relay agent set {agent} with \
         other hosts, or --unlimited"
    )]
    HostGiven {
        /// The host.
        host: HostName,
        /// Name of the other agent.
        agent: String,
    },
    /// The agent owns more hosts than the new maximum.
    #[error(
        "the agent {name} owns more hosts already: {hosts}; name those that it keeps with --host"
    )]
    OwnsMore {
        /// The agent.
        name: AgentName,
        /// Its hosts.
        hosts: String,
    },
    /// More hosts than the agent may own.
    #[error("an agent may own {0} hosts here")]
    TooManyHosts(i64),
}

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) async fn run(command: AgentCommand) -> Result<(), CommandError> {
    match command {
        AgentCommand::Add(args) => add(&args),
        AgentCommand::Set(args) => set(&args),
        AgentCommand::Rotate(args) => rotate(&args),
        AgentCommand::Revoke(args) => {
            let (name, store) = open(&args)?;
            if !store.revoke_agent(&name, Clock::System.now())? {
                return Err(AgentCommandError::Unknown(name).into());
            }
            say(&format!(
                "agent {name} is revoked; its sessions end within a second. It keeps its hosts, and may join again: \
                 hookward-relay agent add {name}"
            ))
        }
        AgentCommand::Remove(args) => {
            let (name, store) = open(&args)?;
            if !store.remove_agent(&name, Clock::System.now())? {
                return Err(AgentCommandError::Unknown(name).into());
            }
            say(&format!(
                "agent {name} is removed; its sessions end within a second"
            ))
        }
        AgentCommand::List(args) => list(&args).await,
    }
}

fn add(args: &ScopedAgentArgs) -> Result<(), CommandError> {
    let (name, store) = open(&args.agent)?;
    let dir = &args.agent.data_dir.data_dir;
    let relay = store.tunnel_address()?.ok_or_else(|| no_relay(dir))?;
    let identity = TunnelIdentity::load(dir)?;
    let secret = Secret::generate()?;

    let scope = args
        .scope
        .changes_something()
        .then(|| args.scope.apply_to(&store, &name))
        .transpose()?;
    let change = store.add_agent_with(&name, scope, &secret, Clock::System.now())?;
    report(&name, change)?;

    say(&JoinToken {
        relay,
        pin: identity.pin,
        secret,
    }
    .to_text())
}

fn set(args: &ScopedAgentArgs) -> Result<(), CommandError> {
    let (name, store) = open(&args.agent)?;
    if !args.scope.changes_something() {
        return Err(AgentCommandError::NoLimit(name).into());
    }
    let scope = args.scope.apply_to(&store, &name)?;
    let lines = scope.lines();
    report(&name, store.set_scope(&name, scope, Clock::System.now())?)?;
    say(&match lines.is_empty() {
        true => format!("agent {name} has no limits of its own"),
        false => format!("agent {name} has: {}", lines.join("; ")),
    })
}

fn rotate(args: &RotateArgs) -> Result<(), CommandError> {
    let (name, store) = open(&args.agent)?;
    let now = Clock::System.now();
    let overlap = u64::try_from(args.overlap.as_millis()).unwrap_or(u64::MAX);
    match store.rotate_credentials(&name, overlap, now)? {
        None => Err(AgentCommandError::Unknown(name).into()),
        Some(0) => Err(AgentCommandError::NotJoined(name).into()),
        Some(_) => {
            let end = UnixMillis(now.0.saturating_add(overlap)).to_rfc3339();
            let since = Instant::now();
            while since.elapsed() < RENEWAL_WAIT {
                if store.has_fresh_credential(&name, Clock::System.now())? {
                    return say(&format!(
                        "agent {name} has replaced its credential; the old one ends at {end}"
                    ));
                }
                std::thread::sleep(RENEWAL_CHECK);
            }
            say(&format!(
                "agent {name} is not connected; if it does not return before {end}, it needs a new join token"
            ))
        }
    }
}

/// Time in which a connected agent replaces its credential.
const RENEWAL_WAIT: Duration = Duration::from_secs(5);

const RENEWAL_CHECK: Duration = Duration::from_millis(50);

/// Reports the hosts that moved to the agent. Standard output carries only the token, for scripts.
fn report(name: &AgentName, change: ScopeChange) -> Result<(), AgentCommandError> {
    match change {
        ScopeChange::Done { taken, freed } => {
            for TakenHost { host, from } in taken {
                note(&format!(
                    "{host} belonged to the agent {from}, and is {name}'s now; {from} loses it within a second"
                ));
            }
            for host in freed {
                note(&format!(
                    "{host} is not {name}'s any more; its tunnel ends within a second"
                ));
            }
            Ok(())
        }
        ScopeChange::OwnsMore(hosts) => Err(AgentCommandError::OwnsMore {
            name: name.clone(),
            hosts: hosts.join(", "),
        }),
        ScopeChange::Unknown => Err(AgentCommandError::Unknown(name.clone())),
        ScopeChange::Conflict { host, agent } => Err(AgentCommandError::HostGiven { host, agent }),
    }
}

impl ScopeArgs {
    const fn changes_something(&self) -> bool {
        self.unlimited
            || !self.host.is_empty()
            || !self.path.is_empty()
            || !self.delivery.is_empty()
            || self.rate.is_some()
            || self.max_body.is_some()
            || self.max_hosts.is_some()
            || self.expires.is_some()
    }

    /// Returns the scope with these limits in place of those of the same kind. A host without a dot is
    /// a label below the relay's domain.
    fn apply_to(&self, store: &Store, name: &AgentName) -> Result<AgentScope, CommandError> {
        let domain = store.domain()?;
        let full = |host: &HostName| {
            let label = AgentName::parse(host.as_str());
            let below = label.zip(domain.as_ref());
            below.map_or_else(|| host.clone(), |(label, domain)| domain.child(&label))
        };
        let hosts: Vec<_> = self.host.iter().map(full).collect();

        let now = match self.unlimited {
            true => AgentScope::default(),
            false => store.scope_of(name)?.unwrap_or_default(),
        };
        let life = |life: Duration| u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let scope = AgentScope {
            hosts: replaced(&hosts, now.hosts),
            paths: replaced(&self.path, now.paths),
            delivery: replaced(&self.delivery, now.delivery),
            rate: self.rate.or(now.rate),
            max_body: self.max_body.or(now.max_body),
            max_hosts: self.max_hosts.or(now.max_hosts),
            credential_life_ms: self.expires.map(life).or(now.credential_life_ms),
        };
        match scope.hosts.len() as i64 > scope.host_limit() {
            true => Err(AgentCommandError::TooManyHosts(scope.host_limit()).into()),
            false => Ok(scope),
        }
    }
}

fn replaced<T: Clone>(given: &[T], now: Vec<T>) -> Vec<T> {
    match given.is_empty() {
        true => now,
        false => given.to_vec(),
    }
}

/// Lists the agents: as the running relay sees them, or as the store has them.
async fn list(args: &ListArgs) -> Result<(), CommandError> {
    let dir = &args.data_dir.data_dir;
    let store = open_store(dir)?;
    let agents: Vec<AgentStatus> = match status::get(dir, "/api/v1/agents").await {
        Ok(agents) => agents,
        Err(CommandError::Unreachable { .. }) => {
            let rows = store.list_agents()?;
            rows.into_iter().map(AgentStatus::offline).collect()
        }
        Err(error) => return Err(error),
    };
    match args.format {
        OutputFormat::Json => say(&serde_json::json!(agents).to_string()),
        OutputFormat::Text => say(&status::agents(&agents, Clock::System.now())),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "what the administrator should know beside the answer"
)]
fn note(text: &str) {
    eprintln!("hookward-relay: {text}");
}

fn open(args: &AgentArgs) -> Result<(AgentName, Store), CommandError> {
    let name =
        AgentName::parse(&args.name).ok_or_else(|| AgentCommandError::Name(args.name.clone()))?;
    let store = open_store(&args.data_dir.data_dir)?;
    Ok((name, store.acting_as(Actor::current_user())))
}

fn open_store(dir: &Path) -> Result<Store, CommandError> {
    let path = dir.join(STATE_FILE);
    if !path.exists() {
        return Err(no_relay(dir).into());
    }
    Ok(Store::open(&path)?)
}

fn no_relay(dir: &Path) -> AgentCommandError {
    AgentCommandError::NoRelay(dir.display().to_string())
}
