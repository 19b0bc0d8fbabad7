//! Sinks beside the file: standard output and syslog. They do not keep what they could not send.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use syslog::{Facility, Formatter5424, Logger, LoggerBackend};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

use super::error::AuditError;
use super::settings::SyslogTarget;

/// Standard output. A thread of its own writes it, because its reader may be slow.
pub(super) struct StdoutSink {
    writer: NonBlocking,
    dropped: usize,
    _flushed_on_drop: WorkerGuard,
}

/// Number of lines that wait for the reader of standard output.
const STDOUT_LINES: usize = 8192;

impl StdoutSink {
    pub(super) fn new() -> Self {
        let (writer, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(STDOUT_LINES)
            .lossy(true)
            .finish(io::stdout());
        Self {
            writer,
            dropped: 0,
            _flushed_on_drop: guard,
        }
    }

    /// Writes a line. Returns the number of lines lost since the last call.
    pub(super) fn write(&mut self, line: &[u8]) -> usize {
        // The queue never fails: it counts what it drops.
        let _ = self.writer.write_all(line);
        let dropped = self.writer.error_counter().dropped_lines();
        let lost = dropped.saturating_sub(self.dropped);
        self.dropped = dropped;
        lost
    }
}

/// Connection to syslog (RFC 5424). The connections are made here, because those of the crate have
/// no deadlines.
pub(super) struct SyslogSink {
    target: SyslogTarget,
    program: &'static str,
    logger: Option<Logger<LoggerBackend, Formatter5424>>,
}

/// Time to connect to syslog, and to send a record.
const SYSLOG_TIMEOUT: Duration = Duration::from_secs(2);

impl SyslogSink {
    /// Creates the sink, which connects at its first probe.
    pub(super) const fn new(target: SyslogTarget, program: &'static str) -> Self {
        Self {
            target,
            program,
            logger: None,
        }
    }

    /// Connects if there is no connection.
    pub(super) fn probe(&mut self) -> Result<(), AuditError> {
        if self.logger.is_none() {
            let backend = backend(&self.target).map_err(|error| self.failed(&error))?;
            let formatter = Formatter5424 {
                facility: Facility::LOG_AUTHPRIV,
                process: self.program.to_owned(),
                ..Formatter5424::default()
            };
            self.logger = Some(Logger::new(backend, formatter));
        }
        Ok(())
    }

    /// Sends a line, which has no line feed.
    pub(super) fn write(&mut self, line: &str) -> Result<(), AuditError> {
        self.probe()?;
        let Some(logger) = &mut self.logger else {
            return Ok(());
        };
        // Over TCP a line feed ends a message (RFC 6587 §3.4.2).
        let end = match self.target {
            SyslogTarget::Tcp(_) => "\n",
            SyslogTarget::Unix(_) | SyslogTarget::Udp(_) => "",
        };
        let sent = logger.notice((0_u32, BTreeMap::new(), format_args!("{line}{end}")));
        sent.map_err(|error| {
            self.logger = None;
            self.failed(&error)
        })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> AuditError {
        AuditError::Syslog {
            target: self.target.to_string(),
            reason: error.to_string(),
        }
    }
}

fn backend(target: &SyslogTarget) -> io::Result<LoggerBackend> {
    match target {
        SyslogTarget::Unix(path) => {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(SYSLOG_TIMEOUT))?;
            socket.connect(path)?;
            Ok(LoggerBackend::Unix(socket))
        }
        SyslogTarget::Udp(address) => {
            let server = resolve(address)?;
            let own = match server {
                SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            };
            Ok(LoggerBackend::Udp(UdpSocket::bind(own)?, server))
        }
        SyslogTarget::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&resolve(address)?, SYSLOG_TIMEOUT)?;
            stream.set_write_timeout(Some(SYSLOG_TIMEOUT))?;
            Ok(LoggerBackend::Tcp(BufWriter::new(stream)))
        }
    }
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let mut found = address.to_socket_addrs()?;
    found
        .next()
        .ok_or_else(|| io::Error::other("the name has no address"))
}
