//! Settings of the audit log, the table `[audit]`.
//!
//! ```toml
//! [audit]
//! file = "/var/log/hookward/audit.log"   # or "off"
//! stdout = false
//! syslog = "unix:/dev/log"               # or "udp:HOST:PORT", "tcp:HOST:PORT"
//! on_failure = "count"                   # or "refuse": no request is forwarded without a record
//!
//! [audit.rotate]
//! size = "64MiB"
//! age = "30d"
//! keep = 16
//! keep_for = "400d"
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hookward_core::diagnostics::TableReader;
use hookward_core::limits::{KIB, MIB};

/// Resolved settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditSettings {
    /// File of the log.
    pub file: Option<FileSettings>,
    /// `true` to write to standard output as well.
    pub stdout: bool,
    /// Syslog to send records to.
    pub syslog: Option<SyslogTarget>,
    /// Behaviour when a sink fails.
    pub on_failure: OnFailure,
}

/// File of the log, its rotation and retention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// Path of the current file.
    pub path: PathBuf,
    /// Size from which the file is rotated, in bytes.
    pub rotate_size: u64,
    /// Age of the first record from which the file is rotated.
    pub rotate_age: Option<Duration>,
    /// Number of rotated files to keep.
    pub keep: usize,
    /// Maximum age of a rotated file.
    pub keep_for: Option<Duration>,
}

/// Address of syslog (RFC 5424).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SyslogTarget {
    /// Unix socket, such as `/dev/log`.
    Unix(PathBuf),
    /// UDP, as `HOST:PORT`.
    Udp(String),
    /// TCP, as `HOST:PORT`.
    Tcp(String),
}

/// Behaviour when a sink fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Requests are forwarded; lost records are counted and reported.
    #[default]
    Count,
    /// No request is forwarded until every sink works again.
    Refuse,
}

impl OnFailure {
    /// Returns the name in settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Refuse => "refuse",
        }
    }
}

impl fmt::Display for SyslogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl SyslogTarget {
    /// Parses `unix:PATH`, `udp:HOST:PORT` or `tcp:HOST:PORT`.
    fn parse(text: &str) -> Option<Self> {
        let (kind, address) = text.split_once(':')?;
        let has_port = || {
            address.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        match kind {
            "unix" if address.starts_with('/') => Some(Self::Unix(address.into())),
            "udp" if has_port() => Some(Self::Udp(address.to_owned())),
            "tcp" if has_port() => Some(Self::Tcp(address.to_owned())),
            _ => None,
        }
    }
}

/// Settings as written. Absent values have defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawAudit {
    /// Path of the file, or `off`.
    pub file: Option<String>,
    stdout: bool,
    syslog: Option<SyslogTarget>,
    on_failure: OnFailure,
    rotate_size: Option<u64>,
    rotate_age: Option<Duration>,
    keep: Option<usize>,
    keep_for: Option<Duration>,
}

/// Value of `file` that turns the file off.
const OFF: &str = "off";

/// Default size from which a file is rotated: some 200,000 records.
const ROTATE_SIZE: u64 = 64 * MIB;

/// Minimum of `size`: smaller files would be rotated several times a second.
const MIN_ROTATE_SIZE: u64 = 64 * KIB;

/// Default number of rotated files: 1 GiB with the default size.
const KEEP: usize = 15;

impl RawAudit {
    /// Reads the table `[audit]`. The reader collects the errors.
    pub fn read(reader: &mut TableReader<'_>) -> Self {
        let mut raw = Self {
            file: reader.string("file"),
            stdout: reader.boolean("stdout").unwrap_or_default(),
            ..Self::default()
        };
        if let Some(text) = reader.string("syslog") {
            raw.syslog = SyslogTarget::parse(&text);
            if raw.syslog.is_none() {
                reader.report_value(
                    "syslog",
                    "expected \"unix:/dev/log\", \"udp:HOST:PORT\" or \"tcp:HOST:PORT\"",
                );
            }
        }

        match reader.string("on_failure").as_deref() {
            None | Some("count") => {}
            Some("refuse") => raw.on_failure = OnFailure::Refuse,
            Some(_) => reader.report_value("on_failure", "expected \"count\" or \"refuse\""),
        }

        if let Some(mut rotate) = reader.table("rotate") {
            raw.rotate_size = rotate.size("size");
            raw.rotate_age = rotate.duration("age");
            raw.keep = rotate.count("keep");
            raw.keep_for = rotate.duration("keep_for");
            if raw.rotate_size.is_some_and(|size| size < MIN_ROTATE_SIZE) {
                rotate.report_value("size", "at least \"64KiB\"");
            }
            if raw.file.as_deref() == Some(OFF) {
                rotate.problem("has no effect with file = \"off\"");
            }
            rotate.finish();
        }

        if raw.on_failure == OnFailure::Refuse
            && raw.file.as_deref() == Some(OFF)
            && !raw.has_other_sink()
        {
            reader.report_value(
                "on_failure",
                "has no effect without a file, stdout or syslog",
            );
        }
        raw
    }

    /// Returns these settings with the file of a flag.
    #[must_use]
    pub fn with_file(self, file: Option<String>) -> Self {
        Self {
            file: file.or(self.file),
            ..self
        }
    }

    fn has_other_sink(&self) -> bool {
        self.stdout || self.syslog.is_some()
    }

    /// Resolves the settings. `preset` is the file where none is named.
    #[must_use]
    pub fn resolve(self, preset: Option<&Path>) -> AuditSettings {
        let path = match self.file.as_deref() {
            Some(OFF) => None,
            Some(path) => Some(PathBuf::from(path)),
            None => preset.map(Path::to_owned),
        };
        AuditSettings {
            file: path.map(|path| FileSettings {
                path,
                rotate_size: self.rotate_size.unwrap_or(ROTATE_SIZE),
                rotate_age: self.rotate_age,
                keep: self.keep.unwrap_or(KEEP),
                keep_for: self.keep_for,
            }),
            stdout: self.stdout,
            syslog: self.syslog,
            on_failure: self.on_failure,
        }
    }
}

impl AuditSettings {
    /// Returns the settings of a program without an audit log.
    #[must_use]
    pub const fn off() -> Self {
        Self {
            file: None,
            stdout: false,
            syslog: None,
            on_failure: OnFailure::Count,
        }
    }

    /// Returns `true` if there is no sink.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.file.is_none() && !self.stdout && self.syslog.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_core::diagnostics::TomlDocument;

    fn read(text: &str) -> (RawAudit, Vec<String>) {
        let document = TomlDocument::new("a.toml", text);
        let raw = {
            let table = document.parse();
            let mut reader = TableReader::new(&document, &table);
            let raw = RawAudit::read(&mut reader);
            reader.finish();
            raw
        };
        let problems = document.into_diagnostics();
        (raw, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_whole_table() {
        let (raw, problems) = read(
            "file = '/var/log/a.log'\nstdout = true\nsyslog = 'tcp:log.example.com:601'\non_failure = 'refuse'\n\
             [rotate]\nsize = '1MiB'\nage = '24h'\nkeep = 3\nkeep_for = '48h'\n",
        );
        assert!(problems.is_empty(), "{problems:?}");
        let settings = raw.resolve(Some(Path::new("/preset")));
        let file = settings.file.unwrap();
        assert_eq!(file.path, Path::new("/var/log/a.log"));
        assert_eq!((file.rotate_size, file.keep), (MIB, 3));
        assert_eq!(settings.on_failure, OnFailure::Refuse);
        assert_eq!(
            settings.syslog.unwrap().to_string(),
            "tcp:log.example.com:601"
        );
    }

    #[test]
    fn all_mistakes_in_one_run() {
        let (_, problems) = read(
            "file = 'off'\nsyslog = '/dev/log'\non_failure = 'panic'\nspool = 1\n[rotate]\nsize = '1KiB'\n",
        );
        for expected in [
            "syslog",
            "on_failure",
            "spool",
            "at least \"64KiB\"",
            "no effect",
        ] {
            assert!(
                problems.iter().any(|problem| problem.contains(expected)),
                "{expected} in {problems:?}"
            );
        }
    }

    #[test]
    fn the_file_may_be_a_preset_or_off() {
        let preset = Path::new("/preset");
        assert_eq!(
            RawAudit::default().resolve(Some(preset)).file.unwrap().path,
            preset
        );
        let off = RawAudit::default().with_file(Some("off".to_owned()));
        assert!(off.resolve(Some(preset)).is_off());
        assert!(RawAudit::default().resolve(None).is_off());
    }
}
