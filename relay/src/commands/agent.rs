//! `hookward-relay agent …` manages agents. It works on the data directory, also beside a running
//! relay.

use std::path::Path;

use hookward_core::clock::Clock;
use hookward_core::names::AgentName;
use hookward_core::secret::Secret;
use hookward_observe::audit::Actor;
use hookward_tunnel::join_token::JoinToken;

use crate::admin::status::AgentStatus;
use crate::certs::TunnelIdentity;
use hookward_cli::OutputFormat;

use crate::cli::{AgentArgs, AgentCommand, ListArgs};
use crate::commands::CommandError;
use crate::commands::{say, status};
use crate::storage::STATE_FILE;
use crate::storage::Store;
use crate::storage::agents::TakenHost;

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
    #[error("there is no agent {0}")]
    Unknown(AgentName),
}

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) async fn run(command: AgentCommand) -> Result<(), CommandError> {
    match command {
        AgentCommand::Add(args) => {
            let (name, store) = open(&args)?;
            let relay = store
                .tunnel_address()?
                .ok_or_else(|| no_relay(&args.data_dir.data_dir))?;
            let identity = TunnelIdentity::load(&args.data_dir.data_dir)?;
            let secret = Secret::generate()?;

            if let Some(TakenHost { host, from }) =
                store.add_agent(&name, &secret, Clock::System.now())?
            {
                // Standard output carries only the token, for scripts.
                note(&format!(
                    "{host} was opened by the agent {from}, and is {name}'s own now; {from} loses it within seconds"
                ));
            }

            say(&JoinToken {
                relay,
                pin: identity.pin,
                secret,
            }
            .to_text())
        }
        AgentCommand::Remove(args) => {
            let (name, store) = open(&args)?;
            if !store.remove_agent(&name, Clock::System.now())? {
                return Err(AgentCommandError::Unknown(name).into());
            }
            say(&format!(
                "agent {name} is removed; its session ends within seconds"
            ))
        }
        AgentCommand::List(args) => list(&args).await,
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
