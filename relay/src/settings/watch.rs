//! Rereads the settings on SIGHUP: what can change does, and the rest is named.

use std::sync::Arc;

use hookward_core::diagnostics::Diagnostics;
use hookward_observe::audit::{Actor, AuditLog};
use hookward_runtime::reload::Reloads;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::Settings;
use crate::sessions::context::SessionContext;

/// Function that reads flags, environment and file again.
pub(crate) type SettingsReader = Arc<dyn Fn() -> Result<Settings, Diagnostics> + Send + Sync>;

/// Rereads the settings on each SIGHUP, until `stop` is cancelled. After a mistake the previous ones stay
/// in force.
pub(crate) async fn watch(
    mut running: Settings,
    read: SettingsReader,
    context: Arc<SessionContext>,
    mut hangups: Reloads,
    audit: AuditLog,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = hangups.next() => {}
            () = stop.cancelled() => return,
        }

        let again = Arc::clone(&read);
        // It fails only after a panic, which is reported.
        let Ok(settings) = spawn_blocking(move || again()).await else {
            continue;
        };
        match settings {
            Ok(settings) => apply(&mut running, settings, &context, &audit),
            Err(problems) => {
                tracing::error!(event = "settings_refused", %problems, "the new settings are invalid; the previous ones stay in force");
                let details = json!({ "reason": problems.to_string() });
                audit.act("settings_refused", Actor::program(), details);
            }
        }
    }
}

fn apply(running: &mut Settings, new: Settings, context: &SessionContext, audit: &AuditLog) {
    let restart = running.needing_restart(&new);
    tracing::info!(event = "settings_read", "the settings are valid");
    if !restart.is_empty() {
        let keys = restart.join(", ");
        tracing::warn!(
            event = "restart_needed",
            keys,
            "these settings change at the next start of the relay"
        );
    }
    if new.hosts != running.hosts {
        tracing::info!(event = "settings_loaded", "reserved hosts changed");
        audit.act(
            "settings_loaded",
            Actor::program(),
            json!({ "hosts": new.summary().get("hosts") }),
        );
        context.reserved_hosts.store(Arc::new(new.hosts.clone()));
        running.hosts = new.hosts;
    }
}
