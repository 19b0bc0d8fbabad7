//! `hookward-relay audit …` checks the audit log.

use hookward_observe::audit::verify;

use hookward_cli::OutputFormat;

use crate::cli::{AuditCommand, VerifyArgs};
use crate::commands::{CommandError, say};

/// The log is not as it was written.
#[derive(Debug, thiserror::Error)]
#[error("the audit log is not intact: {flaws} {}", if *.flaws == 1 { "flaw" } else { "flaws" })]
pub struct FlawedLog {
    flaws: u64,
}

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) fn run(command: AuditCommand) -> Result<(), CommandError> {
    let AuditCommand::Verify(args) = command;
    let VerifyArgs {
        files,
        last,
        from,
        format,
    } = args;
    let report = verify(&files, &last, from)?;
    match format {
        OutputFormat::Text => say(&report.to_string())?,
        OutputFormat::Json => say(&serde_json::json!(report).to_string())?,
    }
    match report.flaw_count {
        0 => Ok(()),
        flaws => Err(FlawedLog { flaws }.into()),
    }
}
