//! Output of a command that prints a secret.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
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
    let mut running = Running {
        child: child.map_err(|error| format!("did not start: {error}"))?,
        is_over: false,
    };
    let Some(stdout) = running.child.stdout.take() else {
        return Err("has no output".to_owned());
    };

    // The thread ends once the group has ended, which holds the other end of the pipe.
    let (sender, printed) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
        let read = stdout.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
        // The caller has given up.
        let _ = sender.send(read.map(|_| bytes));
    });
    let deadline = Instant::now() + time;
    let printed = printed.recv_timeout(time);
    let late = || format!("did not end within {} s", time.as_secs());
    let bytes = printed.map_err(|_| late())?;
    let bytes = bytes.map_err(|error| format!("can't be read: {error}"))?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("printed more than {MAX_BYTES} bytes"));
    }

    while !running.has_ended() {
        if Instant::now() >= deadline {
            return Err(late());
        }
        std::thread::sleep(EXIT_CHECK);
    }
    let status = running
        .end()
        .map_err(|error| format!("did not end: {error}"))?;
    match status.success() {
        true => Ok(bytes),
        false => Err(format!("failed ({status})")),
    }
}

/// Child with its process group, which end together.
struct Running {
    child: Child,
    is_over: bool,
}

impl Running {
    fn id(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Returns `true` once the shell has ended. Its id stays its own until [`Running::end`].
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let ended = self.id().map(|id| waitid(WaitId::Pid(id), options));
        // After an error, waiting would not help.
        ended.is_none_or(|ended| !matches!(ended, Ok(None)))
    }

    /// Ends the group, also what the shell has left in the background. Returns the shell's status.
    fn end(&mut self) -> std::io::Result<ExitStatus> {
        self.is_over = true;
        if let Some(group) = self.id() {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.child.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.end();
        }
    }
}

/// Interval at which the end of a command is checked, after its output has ended.
const EXIT_CHECK: Duration = Duration::from_millis(5);

/// Time for a command: a vault on another continent answers within.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of a secret, in bytes: a PEM file with several keys.
const MAX_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

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

    /// Runs a command that leaves a child, whose process ends, too.
    fn leaves_no_child(line: &str) -> Result<Vec<u8>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("child");
        let line = format!("sleep 1000 & echo $! > {}; {line}", path.display());
        let result = output_within(&line, Duration::from_millis(300));
        let child = std::fs::read_to_string(&path).unwrap();
        let process = std::path::PathBuf::from(format!("/proc/{}/comm", child.trim()));
        let is_sleeping = || std::fs::read_to_string(&process).is_ok_and(|name| name == "sleep\n");
        let is_zombie = || {
            let status = std::fs::read_to_string(process.with_file_name("status"));
            status.is_ok_and(|status| status.contains("State:\tZ"))
        };
        while is_sleeping() && !is_zombie() {
            std::thread::sleep(Duration::from_millis(5));
        }
        result.map(|bytes| bytes.to_vec())
    }

    #[test]
    fn a_command_that_hangs_ends_with_its_children() {
        let hangs = leaves_no_child("sleep 1000").unwrap_err();
        assert!(hangs.contains("did not end"), "{hangs}");
        // The output has ended, and the command has not.
        let hangs = leaves_no_child("exec >&-; sleep 1000").unwrap_err();
        assert!(hangs.contains("did not end"), "{hangs}");
        let hangs = output_within("exec >&-; sleep 1000", Duration::from_millis(300)).unwrap_err();
        assert!(hangs.contains("did not end"), "{hangs}");
        let late = leaves_no_child("echo secret").unwrap_err();
        assert!(late.contains("did not end"), "it holds the output");
    }

    #[test]
    fn what_a_command_leaves_in_the_background_ends() {
        let line = "(sleep 1000 >/dev/null &) ; echo secret";
        assert_eq!(output(line).unwrap().as_slice(), b"secret\n");
    }
}
