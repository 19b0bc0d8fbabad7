//! `hookward audit …` checks the audit log.

use hookward_observe::audit::{KeptHead, verify};

use crate::cli::{AuditCommand, LogFormat, VerifyArgs};
use crate::commands::{CommandError, print, print_error};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) fn run(command: AuditCommand) -> Result<Exit, CommandError> {
    let AuditCommand::Verify(VerifyArgs {
        files,
        last,
        format,
    }) = command;
    let mut heads = Vec::new();
    for text in last {
        let Some(head) = KeptHead::parse(&text) else {
            print_error(
                format,
                &format!(
                    "--last {text:?} is not SEQ:HASH, as the log line audit_head and the status show it"
                ),
            );
            return Ok(Exit::Usage);
        };
        heads.push(head);
    }

    let report = verify(&files, &heads)?;
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
