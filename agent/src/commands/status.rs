//! `hookward status` shows the state of running agents.

use std::io::IsTerminal as _;
use std::time::Duration;

use hookward_observe::api::client::{self, CallError};
use hookward_observe::table::{self, span};
use hyper::Method;
use tokio::time::sleep;

use crate::api::status::ProcessStatus;
use crate::cli::{LogFormat, StatusArgs};
use crate::commands::{CommandError, print, print_error};
use crate::config::state_dir::StateDir;
use crate::exit::Exit;

/// Interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) async fn run(args: StatusArgs) -> Result<Exit, CommandError> {
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    loop {
        let agents = agents(&state).await?;
        if agents.is_empty() {
            print_error(args.format, "no agent is running with this state directory");
            return Ok(Exit::Failed);
        }

        let text = match args.format {
            LogFormat::Json => serde_json::json!(agents).to_string(),
            LogFormat::Text => {
                let each: Vec<_> = agents.iter().map(text).collect();
                each.join("\n\n")
            }
        };
        let clears =
            args.watch && args.format == LogFormat::Text && std::io::stdout().is_terminal();
        let before = if clears { table::CLEAR_SCREEN } else { "" };
        print(&format!("{before}{text}\n"))?;
        if !args.watch {
            return Ok(Exit::Done);
        }
        sleep(WATCH_INTERVAL).await;
    }
}

/// Returns the running agents of a state directory, and of its relay for `--local`.
async fn agents(state: &StateDir) -> Result<Vec<ProcessStatus>, CommandError> {
    let mut agents: Vec<ProcessStatus> = Vec::new();
    for state in [state.clone(), state.local()?] {
        for (socket, process) in state.sockets() {
            match client::call(&socket, Method::GET, "/api/v1/status").await {
                Ok(status) => agents.push(status),
                Err(CallError::Connect(_)) if !is_running(process) => {
                    // The process was killed. If the file stays, the next run removes it.
                    let _ = std::fs::remove_file(socket);
                }
                Err(error) => return Err(CommandError::Call(error)),
            }
        }
    }
    agents.sort_by_key(|agent| agent.started_ms);
    Ok(agents)
}

fn is_running(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

fn text(agent: &ProcessStatus) -> String {
    let mut lines = vec![format!(
        "Hookward agent {} (process {}), up {}, {}",
        agent.version,
        agent.process,
        span(agent.uptime_s),
        if agent.is_ready {
            "ready"
        } else {
            "NOT CONNECTED"
        },
    )];
    let connections = agent.connections.iter().map(|connection| {
        let rtt = connection
            .rtt_ms
            .map_or_else(String::new, |rtt| format!(", {rtt:.1} ms"));
        let role = match (connection.is_standby, connection.is_draining) {
            (_, true) => ", draining",
            (true, false) => ", standby",
            (false, false) => "",
        };
        let (relay, transport) = (&connection.relay, &connection.transport);
        format!("relay        {relay} over {transport}{rtt}{role}")
    });
    lines.extend(connections);
    lines.push(format!(
        "requests     {} in flight",
        agent.requests_in_flight
    ));
    let audit = agent.audit_last.as_ref().map_or("off".to_owned(), |last| {
        let failure = agent.audit_failure.as_ref();
        let failure = failure.map_or_else(String::new, |reason| format!(", FAILING: {reason}"));
        format!("last {last}{failure}")
    });
    lines.push(format!("audit        {audit}"));

    let header = ["URL", "APPLICATION", "HEALTH", "REQUESTS", "P50", "P99"];
    let rows = agent.tunnels.iter().map(|tunnel| {
        vec![
            tunnel.url.clone(),
            tunnel.application.clone(),
            tunnel.health.clone(),
            tunnel.requests.to_string(),
            format!("{:.0} ms", tunnel.p50_ms),
            format!("{:.0} ms", tunnel.p99_ms),
        ]
    });
    lines.push(String::new());
    lines.push(table::text(&header, rows.collect()));
    lines.join("\n")
}
