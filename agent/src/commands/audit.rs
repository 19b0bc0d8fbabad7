//! `hookward audit …` checks the audit log.

use hookward_observe::audit::verify;

use crate::cli::{AuditCommand, LogFormat, VerifyArgs};
use crate::commands::{CommandError, print};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) fn run(command: AuditCommand) -> Result<Exit, CommandError> {
    let AuditCommand::Verify(args) = command;
    let VerifyArgs {
        files,
        last,
        from,
        format,
    } = args;
    let report = verify(&files, &last, from)?;
    let text = match format {
        LogFormat::Text => report.to_string(),
        LogFormat::Json => serde_json::json!(report).to_string(),
    };
    print(&format!("{text}\n"))?;
    Ok(match report.flaw_count {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}
