//! `hookward-relay serve`.

use hookward_shared::clock::Clock;
use hookward_shared::config::{Problem, Problems};
use hookward_shared::limits::Limits;
use hookward_shared::names::AgentName;
use hookward_shared::process;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{LogFormat, ServeArgs};
use crate::commands::CommandError;
use crate::settings::{self, Settings, Written};
use crate::{Relay, say};

/// Serves until a signal.
///
/// # Errors
/// [`CommandError`].
pub async fn run(args: ServeArgs) -> Result<(), CommandError> {
    let settings = settings(&args)?;
    let files = process::raise_file_limit().map_err(CommandError::system("the limit of open files"))?;
    tracing::info!(files, "limit of open files");
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::system("SIGINT"))?;
    let drain = settings.limits.drain;
    let domain = settings.domain.clone();
    let relay = Relay::start(settings, Clock::System)?;
    let first = if relay.store().is_new()? {
        let name = AgentName::preset();
        Some((relay.add_agent(&name)?, name))
    } else {
        None
    };
    let ca = relay.self_signed().map(|path| path.display().to_string());
    match args.log_format {
        LogFormat::Json => {
            if let Some((token, name)) = first {
                say(&serde_json::json!({ "event": "join_token", "agent": name.as_str(), "token": token.to_text() })
                    .to_string())?;
            }
            let ready = serde_json::json!({
                "event": "ready",
                "domain": domain.as_str(),
                "edge": relay.edge_address().to_string(),
                "tunnel": relay.tunnel_address().to_string(),
                "pin": relay.pin().to_string(),
                "ca": ca,
                "open_files": files,
            });
            say(&ready.to_string())?;
        }
        LogFormat::Text => {
            if let Some((token, name)) = first {
                say(&format!(
                    "join token for agent {name}, good once and for 24 hours (`hookward join -`):\n\n{}\n",
                    token.to_text()
                ))?;
            }
            let trust = ca.map(|ca| format!("; self-signed certificate: {ca}")).unwrap_or_default();
            say(&format!(
                "ready: https://*.{domain} on {} (TCP), tunnel on {} (UDP){trust}",
                relay.edge_address(),
                relay.tunnel_address(),
            ))?;
        }
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    // A second signal does not wait.
    tokio::select! {
        () = relay.shutdown(drain) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn settings(args: &ServeArgs) -> Result<Settings, Problems> {
    let mut problems = Vec::new();
    let (file, limits) = match &args.config {
        None => (Written::default(), Limits::default()),
        Some(path) => {
            let name = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) => settings::read_file(&name, &text, &mut problems),
                Err(error) => {
                    problems.push(Problem::new(name, format!("can't be read: {error}")));
                    (Written::default(), Limits::default())
                }
            }
        }
    };
    args.written().over(file).resolve(limits, problems)
}
