//! `hookward-relay audit …` checks the audit log.

use hookward_observe::audit::{KeptHead, verify};

use crate::cli::{AuditCommand, OutputFormat, VerifyArgs};
use crate::commands::{CommandError, say};

/// Failure to verify an audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditCommandError {
    /// A head on the command line is malformed.
    #[error("--last {0:?} is not SEQ:HASH, as the log line audit_head and the status show it")]
    Head(String),
    /// The log is not as it was written.
    #[error("the audit log is not intact: {0} flaws")]
    Flawed(u64),
}

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) fn run(command: AuditCommand) -> Result<(), CommandError> {
    let AuditCommand::Verify(VerifyArgs {
        files,
        last,
        format,
    }) = command;
    let heads = last
        .iter()
        .map(|text| KeptHead::parse(text).ok_or_else(|| AuditCommandError::Head(text.clone())))
        .collect::<Result<Vec<_>, _>>()?;

    let report = verify(&files, &heads)?;
    match format {
        OutputFormat::Text => say(&report.to_string())?,
        OutputFormat::Json => say(&serde_json::json!(report).to_string())?,
    }
    match report.flaw_count {
        0 => Ok(()),
        flaws => Err(AuditCommandError::Flawed(flaws).into()),
    }
}
