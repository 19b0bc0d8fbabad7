//! `hookward http`: opens one tunnel and shows its requests.

pub(super) mod plan;

use std::sync::Arc;

use hookward_core::clock::Clock;
use hookward_runtime::reload::Reloads;
use tokio_util::sync::CancellationToken;

use super::{CommandError, print_error};
use crate::cli::{HttpArgs, PolicyFlags};
use crate::commands::runner::{PlannedTunnel, TunnelRunner};
use crate::config::state_dir::StateDir;
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) async fn run(args: HttpArgs) -> Result<Exit, CommandError> {
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let state = if args.public.local.address.is_some() {
        state.local()?
    } else {
        state
    };

    let plan = match plan::plan(&args, &state, &Clock::System)? {
        Ok(plan) => plan,
        Err(problems) => {
            print_error(args.output.log_format, &problems.to_string());
            return Ok(Exit::Usage);
        }
    };

    let (local, link, output) = (
        args.public.local.address,
        args.link.clone(),
        args.output.clone(),
    );
    let tunnel = again(args, plan, &state)?;
    TunnelRunner {
        tunnels: vec![tunnel],
        local,
        link,
        output,
        state,
    }
    .run(CancellationToken::new())
    .await
}

/// Prepares a tunnel whose policy can be reloaded as at startup, with the same created token.
///
/// # Errors
/// If SIGHUP cannot be awaited.
pub(super) fn again(
    args: HttpArgs,
    plan: plan::Plan,
    state: &StateDir,
) -> Result<PlannedTunnel, CommandError> {
    let reloads = Reloads::new(args.policy.policy.as_deref().as_slice())
        .map_err(CommandError::system("SIGHUP"))?;
    let host = args.public.host.clone();
    let args = HttpArgs {
        policy: PolicyFlags {
            new_token: false,
            ..args.policy
        },
        ..args
    };

    let state = state.clone();
    let again = Arc::new(move || plan::plan(&args, &state, &Clock::System));
    Ok(PlannedTunnel {
        host,
        plan,
        reloads,
        reload: again,
        pairing: None,
    })
}
