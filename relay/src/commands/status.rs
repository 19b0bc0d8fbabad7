//! `hookward-relay status` shows the state of a running relay.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_observe::api::client::{self, CallError};
use hookward_observe::table::{self, span};
use hyper::Method;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::admin::SOCKET_FILE;
use crate::admin::status::{AgentStatus, CertificateStatus, RelayStatus};
use hookward_cli::OutputFormat;

use crate::cli::StatusArgs;
use crate::commands::{CommandError, say};

/// Interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) async fn run(args: StatusArgs) -> Result<(), CommandError> {
    loop {
        let status: RelayStatus = get(&args.data_dir.data_dir, "/api/v1/status").await?;
        let text = match args.format {
            OutputFormat::Json => serde_json::json!(status).to_string(),
            OutputFormat::Text => text(&status, Clock::System.now()),
        };

        let clears =
            args.watch && args.format == OutputFormat::Text && std::io::stdout().is_terminal();
        say(&format!(
            "{}{text}",
            if clears { table::CLEAR_SCREEN } else { "" }
        ))?;
        if !args.watch {
            return Ok(());
        }
        sleep(WATCH_INTERVAL).await;
    }
}

/// Reads a resource of the running relay.
pub(super) async fn get<T: DeserializeOwned>(
    data_dir: &Path,
    path: &str,
) -> Result<T, CommandError> {
    call(data_dir, Method::GET, path).await
}

/// Calls a method of the running relay's API.
pub(super) async fn call<T: DeserializeOwned>(
    data_dir: &Path,
    method: Method,
    path: &str,
) -> Result<T, CommandError> {
    let socket = data_dir.join(SOCKET_FILE);
    let called = client::call(&socket, method, path).await;
    called.map_err(|error| call_error(socket, error))
}

/// Returns the error of a call on this socket.
pub(super) fn call_error(socket: PathBuf, error: CallError) -> CommandError {
    match error {
        CallError::Connect(source) => CommandError::Unreachable { socket, source },
        error => CommandError::Call(error),
    }
}

fn text(status: &RelayStatus, now: UnixMillis) -> String {
    let mut lines = vec![format!(
        "Hookward relay {}, up {}, {}",
        status.version,
        span(status.uptime_s),
        if status.is_ready {
            "ready"
        } else {
            "NOT READY"
        },
    )];
    for check in status.checks.iter().filter(|check| !check.is_ok) {
        let reason = check.reason.as_deref().unwrap_or_default();
        lines.push(format!("  {}: {reason}", check.name));
    }

    let requests: Vec<_> = status
        .requests
        .iter()
        .map(|(verdict, count)| format!("{count} {verdict}"))
        .collect();
    let fields = [
        (
            "domain",
            format!(
                "{} on {}, tunnel on {}",
                status.domain, status.edge, status.tunnel
            ),
        ),
        ("key", status.pin.clone()),
        (
            "requests",
            format!(
                "{}; {} in flight",
                requests.join(", "),
                status.requests_in_flight
            ),
        ),
    ];
    let now_s = i64::try_from(now.seconds()).unwrap_or_default();
    let certificates = status
        .certificates
        .iter()
        .map(|certificate| ("certificate", certificate_line(certificate, now_s)));
    let storage = status.storage.iter().map(|file| {
        let mean = file.total_ms / (file.commits.max(1) as f64);
        let (name, commits, failures) = (&file.file, file.commits, file.failures);
        (
            "storage",
            format!("{name}: {commits} commits, {mean:.1} ms each, {failures} failed"),
        )
    });
    let deliveries = status.deliveries.iter().map(|held| {
        let (tunnel, pending, dead) = (&held.tunnel, held.pending, held.dead);
        let paused = if held.is_paused { ", PAUSED" } else { "" };
        (
            "deliveries",
            format!(
                "{tunnel}: {pending} pending, {dead} dead letters, {} bytes{paused}",
                held.bytes
            ),
        )
    });
    let audit = status.audit.as_ref().map_or("off".to_owned(), |audit| {
        let failure = audit.failure.as_ref();
        let failure = failure.map_or(String::new(), |reason| format!(", FAILING: {reason}"));
        format!("last {}, {} lost{failure}", audit.last, audit.lost)
    });
    let limits = status.limits.iter().map(|limit| {
        let unit = if limit.unit.is_empty() {
            String::new()
        } else {
            format!(" {}", limit.unit)
        };
        (
            "limit",
            format!("{}: {} of {}{unit}", limit.name, limit.used, limit.limit),
        )
    });
    let fields = fields
        .into_iter()
        .chain(certificates)
        .chain(storage)
        .chain(deliveries)
        .chain([("audit", audit)])
        .chain(limits);
    lines.extend(fields.map(|(name, value)| format!("{name:<12} {value}")));
    lines.push(String::new());
    lines.push(agents(&status.agents, now));
    lines.join("\n")
}

/// Returns the table of agents.
pub(super) fn agents(agents: &[AgentStatus], now: UnixMillis) -> String {
    let header = [
        "AGENT",
        "STATE",
        "ADDRESS",
        "TRANSPORT",
        "RTT",
        "VERSION",
        "LAST SEEN",
        "CREDENTIAL",
        "HOSTS",
        "LIMITS",
    ];
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let rows = agents.iter().map(|agent| {
        let state = match (agent.joined, agent.online) {
            (_, true) => "online",
            (true, false) => "offline",
            (false, false) => "not joined",
        };
        let seen = match (agent.online, agent.last_seen_ms) {
            (true, _) => "now".to_owned(),
            (false, Some(at)) => format!("{} ago", span(now.0.saturating_sub(at) / 1000)),
            (false, None) => "never".to_owned(),
        };
        let credential = match (agent.joined, agent.credential_expires_ms) {
            (false, _) => "-".to_owned(),
            (true, None) => "no end".to_owned(),
            (true, Some(at)) if at <= now.0 => "expired".to_owned(),
            (true, Some(at)) => format!("{} left", span((at - now.0).div_ceil(1000))),
        };
        let credential = match agent.credentials {
            0 | 1 => credential,
            count => format!("{credential}, {count} in all"),
        };
        vec![
            agent.name.clone(),
            state.to_owned(),
            or_dash(&agent.address),
            or_dash(&agent.transport),
            agent
                .rtt_ms
                .map_or("-".to_owned(), |rtt| format!("{rtt:.1} ms")),
            or_dash(&agent.version),
            seen,
            credential,
            agent.hosts.join(" "),
            match agent.limits.is_empty() {
                true => "-".to_owned(),
                false => agent.limits.join("; "),
            },
        ]
    });
    table::text(&header, rows.collect())
}

fn certificate_line(certificate: &CertificateStatus, now_s: i64) -> String {
    let days = |at: i64| (at - now_s) / DAY_SECONDS;
    let mut line = certificate.names.join(", ");
    match certificate.expires_s {
        Some(expires_s) => line.push_str(&format!(
            ", by {}, expires in {} days",
            certificate.issuer,
            days(expires_s)
        )),
        None => line.push_str(", not issued yet"),
    }
    if let Some(renewal_s) = certificate.renewal_s {
        line.push_str(&format!(", renewal in {} days", days(renewal_s).max(0)));
    }
    if let Some(error) = &certificate.last_error {
        match certificate.failures {
            0 => line.push_str(&format!("; {error}")),
            failures => line.push_str(&format!("; {failures} orders failed, the last: {error}")),
        }
    }
    line
}

const DAY_SECONDS: i64 = 86_400;
