//! `hookward check`: all mistakes of a policy in one run, and warnings for its owner.

use hookward_core::clock::Clock;
use hookward_core::secret::SecretDigest;
use hookward_gate::policy::TokenCheck;
use hookward_gate::policy::summary::Summary;
use hookward_runtime::secrets::VettedSecrets;

use crate::cli::{CheckArgs, LogFormat, PolicyFlags};
use crate::commands::{CommandError, print, print_error};
use crate::config::policy_args;
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// If standard output fails.
pub(super) fn run(args: CheckArgs) -> Result<Exit, CommandError> {
    let gate = PolicyFlags {
        policy: args.file.or(args.policy.policy),
        ..args.policy
    };
    let now = Clock::System.now();
    match policy_args::policy(&gate, &VettedSecrets, now) {
        Ok(built) => {
            let mut text = String::new();
            for note in built.notes {
                text.push_str(&format!("note: {note}\n"));
            }

            let mut policy = built.policy;
            if built.create_token {
                text.push_str(
                    "note: `hookward http` will create a token, because no other check refuses unknown senders\n",
                );
                policy = policy.with_token(&TokenCheck::created(&SecretDigest::of(b"")));
            }

            text.extend(
                policy
                    .warnings(now)
                    .iter()
                    .map(|warning| format!("warning: {warning}\n")),
            );
            let summary = Summary::of(&policy);
            text.push_str("it lets in:\n");
            text.extend(summary.lines.iter().map(|line| format!("  {line}\n")));
            text.push_str(&format!(
                "digest, as in the relay's log: {}\n",
                summary.digest
            ));

            let routes = policy.routes.len();
            text.push_str(&format!(
                "the policy can be used: {routes} {}\n",
                if routes == 1 { "route" } else { "routes" }
            ));
            print(&text)?;

            Ok(Exit::Done)
        }
        Err(problems) => {
            print_error(LogFormat::Text, &problems.to_string());
            Ok(Exit::Usage)
        }
    }
}
