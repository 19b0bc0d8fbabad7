//! Output of a command that prints a secret.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use zeroize::Zeroizing;

/// Runs a command in the shell. Returns what it prints, or why that is no secret.
pub(super) fn output(line: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    output_within(line, TIMEOUT)
}

fn output_within(line: &str, time: Duration) -> Result<Zeroizing<Vec<u8>>, String> {
    // A group of its own, so that the shell's children end with it.
    let child = Command::new("/bin/sh")
        .args(["-c", line])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // It may contain the secret, and would be written over the screen.
        .stderr(Stdio::null())
        .spawn();
    let mut running = Running(child.map_err(|error| format!("did not start: {error}"))?);
    let Some(stdout) = running.0.stdout.take() else {
        return Err("has no output".to_owned());
    };

    // The thread ends with the group, which holds the other end of the pipe.
    let (sender, printed) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
        let read = stdout.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
        // The caller has given up.
        let _ = sender.send(read.map(|_| bytes));
    });
    let printed = printed.recv_timeout(time);
    let bytes = printed.map_err(|_| format!("did not end within {} s", time.as_secs()))?;
    let bytes = bytes.map_err(|error| format!("can't be read: {error}"))?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("printed more than {MAX_BYTES} bytes"));
    }

    let status = running.0.wait();
    let status = status.map_err(|error| format!("did not end: {error}"))?;
    match status.success() {
        true => Ok(bytes),
        false => Err(format!("failed ({status})")),
    }
}

/// Child with its process group, which end together.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Its status was read, so its id may be that of another process.
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        if let Ok(id) = i32::try_from(self.0.id())
            && let Some(group) = Pid::from_raw(id)
        {
            // It may have ended meanwhile.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Time for a command: a vault on another continent answers within.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of a secret, in bytes: a PEM file with several keys.
const MAX_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_command_prints_a_secret() {
        assert_eq!(output("printf 'a b' | tr a c").unwrap().as_slice(), b"c b");
    }

    #[test]
    fn a_failure_does_not_repeat_the_secret() {
        let failed = output("echo secret; echo secret >&2; exit 3").unwrap_err();
        assert!(
            failed.contains('3') && !failed.contains("secret"),
            "{failed}"
        );
        let endless = output("yes secret").unwrap_err();
        assert!(endless.contains("more than 65536"), "{endless}");
    }

    #[test]
    fn a_command_that_hangs_ends_with_its_children() {
        let (since, limit) = (Instant::now(), Duration::from_millis(100));
        let marker = tempfile::tempdir().unwrap();
        let path = marker.path().join("alive");
        let line = format!("(sleep 2; touch {}) & sleep 60", path.display());
        let hangs = output_within(&line, limit).unwrap_err();
        assert!(hangs.contains("did not end"), "{hangs}");
        assert!(since.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2500));
        assert!(!path.exists());
    }
}
