//! `hookward-relay serve`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use hookward_core::clock::Clock;
use hookward_core::diagnostics::{Diagnostic, Diagnostics};
use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName};
use hookward_runtime::process::{self, ShutdownSignals};

use crate::Relay;
use crate::admin;
use crate::cli::{LogFormat, ServeArgs};
use crate::commands::CommandError;
use crate::commands::say;
use crate::settings::{self, RawSettings, Settings};

/// Location of the first join token.
enum FirstToken {
    Shown(String),
    Written(String),
}

/// Serves until a signal.
///
/// # Errors
/// [`CommandError`].
pub(super) async fn run(args: ServeArgs) -> Result<(), CommandError> {
    let settings = settings(&args)?;
    let files =
        process::raise_file_limit().map_err(CommandError::system("the limit of open files"))?;
    tracing::info!(files, "limit of open files");

    let mut signals = ShutdownSignals::new().map_err(CommandError::system("signal handlers"))?;
    let drain = settings.limits.drain;
    let (domain, data_dir) = (settings.domain.clone(), settings.data_dir.clone());
    let relay = Relay::start(settings.clone(), Clock::System)?;
    let written = args.clone();
    relay.watch_settings(settings, Arc::new(move || self::settings(&written)))?;
    let first = first_token(&relay, &data_dir.join(TOKEN_FILE), args.log_format)?;
    announce(&relay, (&domain, &data_dir), first, files, args.log_format)?;

    tokio::select! {
        () = signals.next() => {}
        () = relay.drain_requested() => {}
    }
    tracing::info!("stopping");

    // A second signal aborts the drain.
    tokio::select! {
        () = relay.shutdown(drain) => {}
        () = signals.next() => {}
    }

    Ok(())
}

/// File of the first join token in the data directory.
const TOKEN_FILE: &str = "first-join-token";

/// Creates a join token at the first start, and shows or writes it.
fn first_token(
    relay: &Relay,
    file: &Path,
    format: LogFormat,
) -> Result<Option<(AgentName, FirstToken)>, CommandError> {
    let name = AgentName::preset();
    let is_new = relay.store().is_new()?;

    // The file stays until its agent has joined, because the relay may restart before that.
    let mut agents = relay.store().list_agents()?.into_iter();
    if agents.any(|agent| agent.name == name.as_str() && agent.credentials > 0) {
        let _ = std::fs::remove_file(file);
    }

    if !is_new {
        return Ok(None);
    }

    let token = relay.add_agent(&name)?.to_text();
    if format == LogFormat::Text && std::io::stdout().is_terminal() {
        return Ok(Some((name, FirstToken::Shown(token))));
    }

    // A journal keeps output for years, and many users can read it.
    process::write_private(file, token.as_bytes()).map_err(CommandError::system(
        "first-join-token (make another with `hookward-relay agent add`)",
    ))?;

    Ok(Some((
        name,
        FirstToken::Written(file.display().to_string()),
    )))
}

/// Reports on standard output that the relay is ready.
fn announce(
    relay: &Relay,
    (domain, data_dir): (&HostName, &Path),
    first: Option<(AgentName, FirstToken)>,
    files: u64,
    format: LogFormat,
) -> Result<(), CommandError> {
    let ca = relay.self_signed().map(|path| path.display().to_string());
    match format {
        LogFormat::Json => {
            if let Some((name, FirstToken::Written(file))) = first {
                let line = serde_json::json!({
                    "time": Clock::System.now().to_rfc3339(),
                    "level": "info",
                    "event": "join_token",
                    "agent": name.as_str(),
                    "file": file,
                });
                say(&line.to_string())?;
            }

            let admin = relay.admin_addresses();
            let ready = serde_json::json!({
                "time": Clock::System.now().to_rfc3339(),
                "level": "info",
                "event": "ready",
                "domain": domain.as_str(),
                "edge": relay.edge_address().to_string(),
                "tunnel": relay.tunnel_address().to_string(),
                "pin": relay.pin().to_string(),
                "ca": ca,
                "admin": admin.admin.map(|address| address.to_string()),
                "monitoring": admin.monitoring.map(|address| address.to_string()),
                "open_files": files,
            });
            say(&ready.to_string())?;
        }
        LogFormat::Text => {
            match first {
                Some((name, FirstToken::Shown(token))) => say(&format!(
                    "join token for agent {name}, valid once, for 24 hours (`hookward join -`):\n\n{token}\n"
                ))?,
                Some((name, FirstToken::Written(file))) => say(&format!(
                    "join token for agent {name}, valid once, for 24 hours, is in {file} (`hookward join FILE`)"
                ))?,
                None => {}
            }

            let trust = ca
                .map(|ca| format!("; self-signed certificate: {ca}"))
                .unwrap_or_default();
            say(&format!(
                "ready: https://*.{domain} on {} (TCP), tunnel on {} (UDP){trust}",
                relay.edge_address(),
                relay.tunnel_address(),
            ))?;
            if let Some(address) = relay.admin_addresses().admin {
                let token = data_dir.join(admin::TOKEN_FILE);
                say(&format!(
                    "console: http://{address} (any name; the password is in {})",
                    token.display()
                ))?;
            }
        }
    }

    Ok(())
}

/// Reads the settings of flags, environment and file.
///
/// # Errors
/// All mistakes.
pub(super) fn settings(args: &ServeArgs) -> Result<Settings, Diagnostics> {
    let mut problems = Vec::new();
    let (file, limits) = match &args.config {
        None => (RawSettings::default(), Limits::default()),
        Some(path) => {
            let name = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => settings::read_file(&name, &text, &mut problems),
                Err(error) => {
                    problems.push(Diagnostic::new(name, format!("can't be read: {error}")));
                    (RawSettings::default(), Limits::default())
                }
            }
        }
    };
    args.written().merge_over(file).resolve(limits, problems)
}
