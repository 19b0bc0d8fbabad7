//! Writer thread of the audit log: seals records in their order, and writes them to the sinks.
//!
//! The file is the sink that loses nothing: what it could not take stays in a backlog, and the writer
//! tries again every second. The others miss what they could not take, and the loss is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hookward_core::clock::{Clock, UnixMillis};
use serde_json::json;

use super::chain::{ChainHead, ROTATED};
use super::error::AuditError;
use super::file::{AuditFile, Moved, Opened, Rotated};
use super::queue::LogState;
use super::record::encode;
use super::settings::{AuditSettings, OnFailure};
use super::sinks::{StdoutSink, SyslogSink};

/// The writer, with its sinks.
pub(super) struct Writer {
    shared: Arc<LogState>,
    clock: Clock,
    head: ChainHead,
    file: Option<AuditFile>,
    stdout: Option<StdoutSink>,
    syslog: Option<SyslogSink>,
    /// Number of records taken from the queue.
    taken: u64,
    /// Sealed lines that the file has not taken, and how much of them it has.
    backlog: Vec<u8>,
    written: usize,
    failures: SinkFailures,
    /// Number of lost records that a record has reported.
    reported_lost: u64,
    logged_failure: Option<Instant>,
    logged_head: (ChainHead, Instant),
}

/// Guard that reports a panic of the writer.
struct Running(Arc<LogState>);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_failure(Some("the writer has ended".to_owned()));
        }
    }
}

/// Failure of each sink at its last attempt.
#[derive(Default)]
struct SinkFailures {
    file: Option<String>,
    /// A flush of the file, or its rotation.
    keep: Option<String>,
    /// The head beside the file.
    head: Option<String>,
    stdout: Option<String>,
    syslog: Option<String>,
}

impl SinkFailures {
    fn first(&self) -> Option<&String> {
        let all = [
            &self.file,
            &self.keep,
            &self.head,
            &self.stdout,
            &self.syslog,
        ];
        all.into_iter().find_map(Option::as_ref)
    }
}

/// Size of the empty buffer that the writer keeps for the next batch, in bytes.
const SPARE_BYTES: usize = 256 * 1024;

/// Interval of flushes to the disk, of rotation checks, and of attempts after a failure.
const TICK: Duration = Duration::from_secs(1);

/// Interval of log lines with the head of the chain. The same interval stores it beside the file.
const HEAD_INTERVAL: Duration = Duration::from_secs(60);

/// Interval of log lines about a failure.
const FAILURE_INTERVAL: Duration = Duration::from_secs(10);

impl Writer {
    /// Opens the sinks.
    pub(super) fn open(
        settings: &AuditSettings,
        program: &'static str,
        shared: Arc<LogState>,
        clock: Clock,
    ) -> Result<Self, AuditError> {
        let opened = settings.file.as_ref().map(AuditFile::open).transpose()?;
        let syslog = settings.syslog.clone();
        let mut syslog = syslog.map(|target| SyslogSink::new(target, program));
        let syslog_failure = match syslog.as_mut().map_or(Ok(()), SyslogSink::probe) {
            Ok(()) => None,
            // A log that only counts its losses may start before syslog does.
            Err(error) if settings.on_failure == OnFailure::Count => Some(error.to_string()),
            Err(error) => return Err(error),
        };
        let head = opened
            .as_ref()
            .map_or(ChainHead::default(), |opened| opened.head);

        let mut writer = Self {
            shared,
            clock,
            head,
            file: None,
            stdout: settings.stdout.then(StdoutSink::new),
            syslog,
            taken: 0,
            backlog: Vec::new(),
            written: 0,
            failures: SinkFailures::default(),
            reported_lost: 0,
            logged_failure: None,
            logged_head: (head, Instant::now()),
        };
        if let Some(Opened {
            file,
            torn,
            missing,
            last,
            ..
        }) = opened
        {
            writer.file = Some(file);
            writer.shared.recent.restore(&last, head.seq);
            writer.note_opened(torn, missing);
        }
        writer.shared.publish(writer.head, &[]);
        writer.failures.syslog = syslog_failure;
        writer.report_failure();
        Ok(writer)
    }

    /// Records what was found in the file.
    fn note_opened(&mut self, torn: u64, missing: Option<ChainHead>) {
        if torn > 0 {
            tracing::warn!(
                event = "audit_repaired",
                bytes = torn,
                "removed an incomplete last line of the audit log, which a crash left"
            );
            self.seal("audit_repaired", &json!({ "removed_bytes": torn }));
        }
        if let Some(missing) = missing {
            tracing::error!(
                event = "audit_gap",
                expected = missing.seq,
                "records are missing at the end of the audit log: it was shortened while it was closed"
            );
            self.seal("audit_gap", &json!({ "missing_up_to": missing.seq }));
        }
    }

    /// Runs until the log is closed. If it panics, the log fails.
    pub(super) fn run(mut self) {
        let _running = Running(Arc::clone(&self.shared));
        let mut due = Instant::now() + TICK;
        let mut spare = Vec::new();
        loop {
            let period = due.saturating_duration_since(Instant::now());
            let mut queue = self.shared.wait(period, !self.backlog.is_empty(), spare);
            self.taken += memchr::memchr_iter(b'\n', &queue.lines).count() as u64;

            if queue.reopen {
                self.reopen();
            }
            self.seal_all(&queue.lines);
            self.write_file();
            queue.lines.clear();
            queue.lines.shrink_to(SPARE_BYTES);
            spare = queue.lines;
            if self.backlog.is_empty() {
                self.shared.note_written(self.taken);
            }
            if queue.stop {
                return self.finish();
            }
            if Instant::now() >= due {
                due = Instant::now() + TICK;
                self.tick();
            }
        }
    }

    /// Seals records, and sends them to the sinks that keep nothing.
    fn seal_all(&mut self, lines: &[u8]) {
        let mut rest = lines;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (fields, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();

            let start = self.backlog.len();
            self.head.seal(fields, &mut self.backlog);
            let line = self.backlog.get(start..).unwrap_or_default();

            if let Some(stdout) = &mut self.stdout {
                let lost = stdout.write(line);
                if lost > 0 {
                    self.shared.lose(lost as u64);
                    self.failures.stdout = Some("standard output is not read".to_owned());
                }
            }
            match &mut self.syslog {
                // The next tick tries again, so that a dead server costs one wait a second.
                Some(_) if self.failures.syslog.is_some() => self.shared.lose(1),
                Some(syslog) => {
                    let text = String::from_utf8_lossy(line);
                    if let Err(error) = syslog.write(text.trim_end()) {
                        self.shared.lose(1);
                        self.failures.syslog = Some(error.to_string());
                    }
                }
                None => {}
            }
        }

        if self.file.is_none() {
            self.shared.publish(self.head, &self.backlog);
            self.backlog.clear();
        }
        self.report_failure();
    }

    /// Writes the backlog to the file.
    fn write_file(&mut self) {
        let Some(file) = &mut self.file else {
            return;
        };
        if self.backlog.is_empty() {
            return;
        }
        let rest = self.backlog.get(self.written..).unwrap_or_default();
        let (written, result) = file.append(rest, self.clock.now());
        self.written += written;

        match result {
            Ok(()) => {
                self.shared.publish(self.head, &self.backlog);
                self.backlog.clear();
                self.written = 0;
                self.failures.file = None;
            }
            Err(error) => self.failures.file = Some(error.to_string()),
        }
        self.report_failure();
    }

    /// Does the periodic work: flushes, rotates, tries failed sinks again, and reports.
    fn tick(&mut self) {
        let now = self.clock.now();
        self.shared.flush_counts(now.seconds(), now);
        self.failures.stdout = None;
        if let Some(syslog) = &mut self.syslog {
            let probed = syslog.probe();
            self.failures.syslog = probed.err().map(|error| error.to_string());
        }

        let lost = self.shared.lost();
        if lost > self.reported_lost && self.backlog.is_empty() {
            self.seal(
                "audit_lost",
                &json!({ "records": lost - self.reported_lost }),
            );
            self.reported_lost = lost;
        }
        self.write_file();

        if self.backlog.is_empty() {
            let kept = self.keep_file(now);
            self.failures.keep = kept.err().map(|error| error.to_string());
        }
        if self.failures.head.is_some() {
            self.keep_head();
        }
        self.report_failure();
        self.log_head();
    }

    /// Flushes the file, and rotates it if it is due.
    fn keep_file(&mut self, now: UnixMillis) -> std::io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if let Err(error) = file.sync() {
            // The kernel may have dropped what it could not write, and reports it only once.
            let details = json!({ "reason": error.to_string() });
            self.seal("audit_sync_failed", &details);
            return Err(error);
        }
        if let Some(moved) = file.reopen_if_moved(self.head)? {
            self.note_moved(moved);
        }
        self.rotate(now)
    }

    /// Rotates the file if it is due. Expired files are deleted once the record of it is on disk, so
    /// that a verification knows where the log begins.
    fn rotate(&mut self, now: UnixMillis) -> std::io::Result<()> {
        let Some(file) = self.file.as_mut().filter(|file| file.is_due(now)) else {
            return Ok(());
        };
        let Rotated {
            to,
            expired,
            oldest,
        } = file.rotate(self.head, now)?;
        let deleted = expired.iter().map(|path| path.display().to_string());
        let deleted: Vec<_> = deleted.collect();
        tracing::info!(event = "audit_rotated", file = %to.display(), "audit log rotated");
        let details =
            json!({ "file": to.display().to_string(), "deleted": deleted, "oldest": oldest });
        self.seal(ROTATED, &details);
        self.write_file();

        if let Some(file) = &mut self.file
            && self.backlog.is_empty()
        {
            file.sync()?;
            expired.iter().try_for_each(std::fs::remove_file)?;
        }
        Ok(())
    }

    fn reopen(&mut self) {
        let reopened = match &mut self.file {
            Some(file) if self.backlog.is_empty() => file.reopen_if_moved(self.head),
            _ => return,
        };
        match reopened {
            Ok(Some(moved)) => self.note_moved(moved),
            Ok(None) => {}
            Err(error) => self.failures.keep = Some(error.to_string()),
        }
        self.report_failure();
    }

    /// Records that another program changed the file.
    fn note_moved(&mut self, moved: Moved) {
        let (event, last) = match moved {
            Moved::Renamed => {
                tracing::info!(event = "audit_reopened", "audit log opened again");
                ("audit_reopened", self.head)
            }
            Moved::Deleted => {
                tracing::error!(event = "audit_deleted", last = %self.head, "the audit log was deleted");
                ("audit_deleted", self.head)
            }
            Moved::Emptied => {
                tracing::warn!(event = "audit_emptied", last = %self.head, "the audit log was emptied");
                ("audit_emptied", self.head)
            }
        };
        self.seal(event, &json!({ "last": last.to_string() }));
        self.write_file();
    }

    /// Seals a record of the log itself.
    fn seal(&mut self, event: &'static str, details: &serde_json::Value) {
        if let Ok(mut fields) = encode(self.clock.now(), event, details) {
            fields.push(b'\n');
            self.seal_all(&fields);
        }
    }

    /// Publishes the failure of a sink, and logs it at intervals.
    fn report_failure(&mut self) {
        let failure = self.failures.first().cloned();
        let before = self.shared.set_failure(failure.clone());
        match failure {
            Some(reason) => {
                let is_due = self
                    .logged_failure
                    .is_none_or(|at| at.elapsed() >= FAILURE_INTERVAL);
                if is_due {
                    self.logged_failure = Some(Instant::now());
                    let lost = self.shared.lost();
                    tracing::error!(event = "audit_failing", reason, lost, "the audit log fails");
                }
            }
            None if before.is_some() => {
                tracing::warn!(event = "audit_recovered", "the audit log works again");
            }
            None => {}
        }
    }

    /// Logs the head of the chain at intervals, so that another system holds it too.
    fn log_head(&mut self) {
        let (logged, at) = self.logged_head;
        if at.elapsed() < HEAD_INTERVAL {
            return;
        }
        self.logged_head = (self.head, Instant::now());
        if logged != self.head {
            self.announce_head();
        }
    }

    fn announce_head(&mut self) {
        tracing::info!(event = "audit_head", head = %self.head, "last record of the audit log");
        self.keep_head();
    }

    /// Stores the head of the chain beside the file.
    fn keep_head(&mut self) {
        let kept = self
            .file
            .as_ref()
            .map_or(Ok(()), |file| file.keep_head(self.head));
        self.failures.head = kept.err().map(|error| error.to_string());
    }

    /// Writes the last records. Gives up after a failure, because the program ends.
    fn finish(mut self) {
        // Also the counts of the present second.
        self.shared.flush_counts(u64::MAX, self.clock.now());
        let rest = self.shared.take_last();
        self.seal_all(&rest);
        self.write_file();
        if let Some(file) = &mut self.file
            && self.backlog.is_empty()
            && let Err(error) = file.sync()
        {
            self.failures.file = Some(error.to_string());
        }
        self.announce_head();
        if let Some(reason) = &self.failures.file {
            tracing::error!(
                event = "audit_failing",
                reason,
                "the last audit records are lost"
            );
        }
    }
}
