//! The two programs as processes. The test run builds them once, from the current sources.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::wait::DEADLINE;

/// Returns the paths of the two programs.
fn programs() -> &'static HashMap<String, PathBuf> {
    static BUILT: OnceLock<HashMap<String, PathBuf>> = OnceLock::new();

    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut build = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        build
            .current_dir(root)
            .args(["build", "--workspace", "--bins", "--message-format=json"]);

        if !cfg!(debug_assertions) {
            build.arg("--release");
        }

        let built = build.stderr(Stdio::inherit()).output().expect("cargo runs");
        assert!(built.status.success(), "the programs do not build");
        let lines = String::from_utf8(built.stdout).unwrap();

        lines
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter_map(|message| {
                let path = message["executable"].as_str()?.to_owned();
                Some((
                    message["target"]["name"].as_str()?.to_owned(),
                    PathBuf::from(path),
                ))
            })
            .collect()
    })
}

/// Returns the path of a program: `hookward` or `hookward-relay`.
pub fn program(name: &str) -> &'static Path {
    programs()
        .get(name)
        .unwrap_or_else(|| panic!("no program {name}"))
}

/// A running program; killed when it is dropped.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    out: Lines,
    err: Lines,
}

/// Output lines of a program.
#[derive(Clone, Default)]
pub struct Lines {
    read: Arc<Mutex<Vec<String>>>,
    /// `true` once the program has closed its end.
    over: Arc<AtomicBool>,
}

impl Lines {
    fn follow(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            // In pieces, not in lines, because a screen has none.
            let mut source = BufReader::new(source);
            let mut rest = Vec::new();

            while let Ok(piece) = source.fill_buf().map(<[u8]>::to_vec)
                && !piece.is_empty()
            {
                source.consume(piece.len());
                rest.extend(piece);
                let text = String::from_utf8_lossy(&rest).into_owned();
                let mut lines = kept.read.lock().unwrap();
                lines.truncate(0);
                lines.extend(text.lines().map(str::to_owned));
            }

            kept.over.store(true, Ordering::SeqCst);
        });

        lines
    }

    pub fn all(&self) -> Vec<String> {
        self.read.lock().unwrap().clone()
    }
}

/// End of a program.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a program to its end.
pub fn run(name: &str, args: &[&str], environment: &[(&str, &str)], input: &str) -> Ended {
    Process::start_with(name, args, environment, input).end()
}

impl Process {
    pub fn start(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_with(name, args, environment, "")
    }

    fn start_with(name: &str, args: &[&str], environment: &[(&str, &str)], input: &str) -> Self {
        let mut command = Command::new(program(name));
        command.args(args).envs(environment.iter().copied());
        let mut process = Self::spawn(command);
        process.write(input);
        process.stdin = None;
        process
    }

    /// Starts any command, with its standard input open.
    pub fn spawn(mut command: Command) -> Self {
        command
            .env_remove("HOOKWARD_STATE_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());

        let mut child = command.spawn().unwrap();
        let (out, err) = (
            Lines::follow(child.stdout.take().unwrap()),
            Lines::follow(child.stderr.take().unwrap()),
        );
        let stdin = child.stdin.take();

        Self {
            child,
            stdin,
            out,
            err,
        }
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ended {
        let code = self.wait();
        Ended {
            code,
            out: self.out.all().join("\n"),
            err: self.err.all().join("\n"),
        }
    }

    /// Writes to its standard input.
    pub fn write(&mut self, text: &str) {
        if let Some(stdin) = &mut self.stdin {
            // A program that does not read its input may have ended.
            let _ = stdin.write_all(text.as_bytes());
            let _ = stdin.flush();
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns a line of its status, in bytes: `VmHWM`, the peak memory, or `RssAnon`, its own
    /// memory.
    pub fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|said| said.starts_with(line)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            * 1024
    }

    pub fn out(&self) -> Vec<String> {
        self.out.all()
    }

    pub fn err(&self) -> Vec<String> {
        self.err.all()
    }

    /// Waits until standard output has this text.
    ///
    /// # Panics
    /// At the deadline, with all output.
    pub fn says(&mut self, text: &str) {
        let since = Instant::now();
        while !self.out.all().join("\n").contains(text) {
            let said: String = self.out.all().join("\n").chars().take(2000).collect();
            assert!(
                since.elapsed() < DEADLINE,
                "never said {text}: {said:?} {:?}",
                self.err.all()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a terminal of this size shows the text. Programs write only what differs from the
    /// screen before, so that the output itself need not contain it.
    ///
    /// # Panics
    /// At the deadline, with the screen.
    pub fn shows(&mut self, rows: u16, columns: u16, text: &str) {
        self.screen_until(rows, columns, text, |screen| screen.contains(text));
    }

    /// Waits until a terminal of this size no longer shows the text.
    ///
    /// # Panics
    /// At the deadline, with the screen.
    pub fn no_longer_shows(&mut self, rows: u16, columns: u16, text: &str) {
        self.screen_until(rows, columns, text, |screen| !screen.contains(text));
    }

    fn screen_until(&mut self, rows: u16, columns: u16, text: &str, holds: impl Fn(&str) -> bool) {
        let since = Instant::now();
        loop {
            let screen = self.screen(rows, columns);
            if holds(&screen) {
                return;
            }
            assert!(since.elapsed() < DEADLINE, "about {text}:\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns what a terminal of this size shows.
    pub fn screen(&self, rows: u16, columns: u16) -> String {
        self.terminal(rows, columns).screen().contents()
    }

    /// Returns a terminal of this size that has got all output.
    pub fn terminal(&self, rows: u16, columns: u16) -> vt100::Parser {
        let [rows, columns] = [rows, columns].map(|count| NonZero::new(count).unwrap());
        let mut terminal = vt100::Parser::new(rows, columns, 0);
        terminal.process(self.out.all().join("\r\n").as_bytes());
        terminal
    }

    /// Waits for a JSON line with this event on standard output.
    ///
    /// # Panics
    /// At the deadline, with all output.
    pub fn event(&mut self, event: &str) -> Value {
        self.nth_event(event, 0)
    }

    /// Returns the join token that a relay created at its first start.
    ///
    /// # Panics
    /// As [`Process::event`].
    pub fn join_token(&mut self) -> String {
        let event = self.event("join_token");
        std::fs::read_to_string(event["file"].as_str().unwrap()).unwrap()
    }

    /// Returns the `n`th JSON line with this event.
    ///
    /// # Panics
    /// As [`Process::event`].
    pub fn nth_event(&mut self, event: &str, n: usize) -> Value {
        let since = Instant::now();
        loop {
            let found = self
                .out
                .all()
                .iter()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .filter(|line| line["event"] == event)
                .nth(n);
            if let Some(found) = found {
                return found;
            }

            let ended = self.child.try_wait().unwrap();
            assert!(
                since.elapsed() < DEADLINE && ended.is_none(),
                "no {event} (ended: {ended:?})\n{}\n{}",
                self.out.all().join("\n"),
                self.err.all().join("\n"),
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal by name (`TERM`, `KILL`, `INT`).
    pub fn signal(&self, name: &str) {
        // The shell's own kill, because the program is not everywhere.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits for the program's end and all its output. Returns its exit code.
    ///
    /// # Panics
    /// At the deadline.
    pub fn wait(&mut self) -> Option<i32> {
        let since = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap()
                && [&self.out, &self.err]
                    .iter()
                    .all(|lines| lines.over.load(Ordering::SeqCst))
            {
                return status.code();
            }

            assert!(
                since.elapsed() < DEADLINE,
                "{} does not end",
                self.child.id()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns `true` if a program is available that `install` installs. In CI it must be; elsewhere
/// the test prints that it was skipped, and why.
pub fn have(command: &str, install: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(command).is_file()));
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{command} is missing in CI: {install}"
        );
        println!("skipped: {command} is not installed ({install})");
    }

    found
}

/// Arguments of unshare for a script with mounts and processes of its own, which end with it.
pub const NAMESPACE: [&str; 8] = [
    "--map-root-user",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "sh",
    "-c",
];
