//! DNS-01 by a command of the administrator (RFC 8555 §8.4).

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::AcmeError;

/// Command that adds and removes TXT records. It is called as `COMMAND… add NAME VALUE` and
/// `COMMAND… remove NAME VALUE`, and ends once the record is visible or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DnsHook(Arc<[String]>);

/// A record that the hook has added.
pub(super) struct DnsRecord {
    hook: DnsHook,
    name: String,
    value: String,
}

impl DnsHook {
    /// Returns `None` for an empty command line.
    pub(crate) fn new(command: Vec<String>) -> Option<Self> {
        let has_program = command.first().is_some_and(|program| !program.is_empty());
        has_program.then(|| Self(command.into()))
    }

    /// Adds the record that proves a name.
    ///
    /// # Errors
    /// [`AcmeError::Hook`].
    pub(super) async fn add(&self, name: &str, value: &str) -> Result<DnsRecord, AcmeError> {
        let record = DnsRecord {
            hook: self.clone(),
            name: format!("_acme-challenge.{name}"),
            value: value.to_owned(),
        };
        match self.run("add", &record).await {
            Ok(()) => Ok(record),
            Err(error) => {
                // It may have ended half-way.
                record.remove().await;
                Err(error)
            }
        }
    }

    async fn run(&self, verb: &str, record: &DnsRecord) -> Result<(), AcmeError> {
        let Some((program, args)) = self.0.split_first() else {
            return Ok(());
        };
        let failed = |what: String| AcmeError::Hook {
            command: format!("{program} {verb} {}", record.name),
            what,
        };
        let running = Command::new(program)
            .args(args)
            .args([verb, &record.name, &record.value])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .output();
        let ended = timeout(HOOK_TIMEOUT, running).await;
        let ended = ended
            .map_err(|_| failed(format!("took longer than {} s", HOOK_TIMEOUT.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        if ended.status.success() {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&ended.stderr);
        let line: String = output
            .lines()
            .next_back()
            .unwrap_or_default()
            .chars()
            .take(OUTPUT_CHARS)
            .collect();
        Err(failed(format!("{}: {line}", ended.status)))
    }
}

impl DnsRecord {
    /// Removes the record. A failure leaves a record without effect.
    pub(super) async fn remove(self) {
        if let Err(error) = self.hook.run("remove", &self).await {
            tracing::warn!(%error, "the record of a DNS challenge stays");
        }
    }
}

/// Maximum time of the command: some DNS providers take minutes.
const HOOK_TIMEOUT: Duration = Duration::from_secs(300);

/// Maximum length of the shown output, in characters.
const OUTPUT_CHARS: usize = 300;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_record_whose_addition_failed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (script, calls) = (dir.path().join("hook"), dir.path().join("calls"));
        let text = format!(
            "#!/bin/sh\necho \"$@\" >> {}\necho 'no such zone' >&2\nexit 1\n",
            calls.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();

        let hook = DnsHook::new(vec![script.display().to_string()]).unwrap();
        let error = hook.add("a.test", "value").await.err().unwrap().to_string();
        assert!(error.contains("no such zone"), "{error}");
        let calls = fs::read_to_string(calls).unwrap();
        let expected = ["add", "remove"].map(|verb| format!("{verb} _acme-challenge.a.test value"));
        assert_eq!(calls.lines().collect::<Vec<_>>(), expected);
    }
}
