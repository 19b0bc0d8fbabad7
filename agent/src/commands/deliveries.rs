//! `hookward deliveries …` lists and changes the stored webhooks of this agent's tunnels. A running
//! agent calls its relay.

use hookward_cli::deliveries::DeliveriesCommand;
use hookward_observe::api::client;
use hyper::Method;

use crate::api::status::ProcessStatus;
use crate::cli::Common;
use crate::commands::CommandError;
use crate::config::state_dir::StateDir;
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) async fn run(command: DeliveriesCommand<Common>) -> Result<Exit, CommandError> {
    let state = StateDir::open(command.location().state_dir.as_deref())?;
    for state in [state.clone(), state.local()?] {
        for (socket, _) in state.sockets() {
            // All agents of a state directory have the same identity.
            let status =
                client::call::<ProcessStatus>(&socket, Method::GET, "/api/v1/status").await;
            if status.is_ok_and(|status| status.is_ready) {
                command.run(&socket, "hookward").await?;
                return Ok(Exit::Done);
            }
        }
    }
    Err(CommandError::NoAgent)
}
