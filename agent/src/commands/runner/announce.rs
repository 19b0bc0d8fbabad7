//! Announcement of an open tunnel.

use crate::config::state_dir::StateDir;
use crate::events::{Event, EventSink, Ready};
use crate::relay_link::OpenedTunnel;
use hookward_core::names::origin_of;
use hookward_core::secret::Secret;
use hookward_gate::policy::TOKEN_NAME;
use hookward_observe::table::span;

/// Parts of the announcement of an open tunnel.
pub(super) struct Announcement {
    pub(super) application: String,
    pub(super) path: String,
    pub(super) token: Option<Secret>,
    pub(super) edge: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) state: StateDir,
}

impl Announcement {
    pub(super) fn say(&self, opened: &OpenedTunnel, events: &EventSink) {
        let OpenedTunnel {
            tunnel,
            host,
            port,
            relay,
            transport,
            stored_for,
        } = opened;
        let base_url = origin_of(host, *port);

        // Only a created token is shown, never one of the user.
        let token = self
            .token
            .as_ref()
            .map(|token| String::from_utf8_lossy(token.expose()).into_owned());
        let query = token
            .map(|token| format!("?{TOKEN_NAME}={token}"))
            .unwrap_or_default();
        let url = format!("{base_url}{}{query}", self.path);

        // The URL of the first tunnel; the screen shows the others.
        if *tunnel == 0
            && let Err(error) = self.state.keep_url(&url)
        {
            events.emit(Event::Warning(error.to_string()));
        }

        events.emit(Event::Ready(Ready {
            url,
            base_url,
            host: host.clone(),
            edge: self.edge.clone(),
            ca: self.ca.clone(),
            relay: relay.clone(),
            transport: *transport,
            application: self.application.clone(),
        }));
        let stored = match stored_for {
            Some(time) => format!(
                "while the application is down, the relay stores webhooks for up to {}; --delivery direct turns this off",
                span(time.as_secs())
            ),
            None => {
                "the relay stores no webhooks: while the application is down, senders get an error"
                    .to_owned()
            }
        };
        events.emit(Event::Note(stored));
    }
}
