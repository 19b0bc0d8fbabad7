//! State of the agent that the screen reads beside the events: connections, durations, protection,
//! and captured requests.

use std::collections::{BTreeMap, HashSet};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hookward_gate::policy::summary::Summary;
use hookward_observe::audit::Actor;
use tokio::runtime::Handle;

use super::requests::MAX_ROWS;
use crate::api::status::AgentView;
use crate::inspector::again::Restored;
use crate::inspector::capture::Source;
use crate::inspector::filter::Filter;
use crate::inspector::history::{Detail, Page};

/// Maximum number of requests whose senders are read at once.
const SENDERS: usize = 500;

/// Source of the screen's state. Reading blocks the thread for a short time.
pub(crate) struct ScreenSource {
    /// Gone once the agent closes its outputs.
    view: Weak<AgentView>,
    runtime: Handle,
    /// URL of the inspector with its token, if other machines can reach it.
    pub(super) token_url: Option<String>,
}

/// State at one time.
#[derive(Default)]
pub(super) struct Snapshot {
    /// Round-trip time to each relay, in milliseconds; over QUIC.
    pub round_trips: BTreeMap<String, f64>,
    /// Median, 90th and 99th percentile of the application's time.
    pub durations: Option<[Duration; 3]>,
    /// Sentences on what the policies let in.
    pub protection: Vec<String>,
}

impl ScreenSource {
    /// Creates a source, on a runtime that outlives the screen's thread.
    pub(crate) fn new(view: &Arc<AgentView>, runtime: Handle, token_url: Option<String>) -> Self {
        Self {
            view: Arc::downgrade(view),
            runtime,
            token_url,
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let Some(view) = self.view.upgrade() else {
            return Snapshot::default();
        };
        let links = view.links().into_iter();
        let protection = view.opened().into_iter().flat_map(|tunnel| {
            let summary = Summary::of(&tunnel.gate.policy().policy);
            summary.lines
        });
        Snapshot {
            round_trips: links
                .filter_map(|link| Some((link.relay, link.path?.rtt_ms)))
                .collect(),
            durations: view.observer.durations([0.5, 0.9, 0.99]),
            protection: protection.collect(),
        }
    }

    /// Returns the provider and event of the requests after this number in the history, by request
    /// id, and the number of the last one.
    pub(super) fn senders(&self, after: i64) -> (Vec<(String, String)>, i64) {
        let view = self.view.upgrade();
        let Some(inspector) = view.as_ref().and_then(|view| view.inspector.as_ref()) else {
            return (Vec::new(), after);
        };
        if *inspector.history.newest().borrow() <= after {
            return (Vec::new(), after);
        }

        let all = Filter::default();
        let found = inspector.history.list(&all, Page::After(after), SENDERS);
        let found = self.runtime.block_on(found).unwrap_or_default();
        let last = found.last().map_or(after, |last| last.number);
        let senders = found.into_iter().filter_map(|summary| {
            let sender: Vec<_> = [summary.provider, summary.event]
                .into_iter()
                .flatten()
                .collect();
            (!sender.is_empty()).then(|| (summary.id, sender.join(" ")))
        });
        (senders.collect(), last)
    }

    /// Searches the history in the background, which may take seconds. The result is the ids of the
    /// requests that match, as many as the screen shows, or the reason, for the user.
    pub(super) fn search(&self, filter: &Filter) -> Receiver<Result<HashSet<String>, String>> {
        let (sender, receiver) = sync_channel(1);
        let view = self.view.upgrade();
        let inspector = view.and_then(|view| view.inspector.clone());
        let filter = filter.clone();
        self.runtime.spawn(async move {
            let result = match inspector {
                Some(inspector) => {
                    let history = &inspector.history;
                    let found = history.list(&filter, Page::Newest, MAX_ROWS).await;
                    found
                        .map(|found| found.into_iter().map(|found| found.id).collect())
                        .map_err(|error| error.to_string())
                }
                None => Err("the inspector keeps no requests (--inspect off)".to_owned()),
            };
            // The user may have left meanwhile.
            let _ = sender.try_send(result);
        });
        receiver
    }

    /// Returns the number of the newest request of the history.
    pub(super) fn newest(&self) -> i64 {
        let view = self.view.upgrade();
        let inspector = view.as_ref().and_then(|view| view.inspector.as_ref());
        inspector.map_or(0, |inspector| *inspector.history.newest().borrow())
    }

    /// Returns a captured request.
    ///
    /// # Errors
    /// The reason, for the user.
    pub(super) fn detail(&self, id: &str) -> Result<Detail, String> {
        let view = self.view.upgrade();
        let Some(inspector) = view.as_ref().and_then(|view| view.inspector.as_ref()) else {
            return Err("the inspector keeps no requests (--inspect off)".to_owned());
        };
        let history = &inspector.history;
        let finding = async {
            match history.number_of(id.to_owned()).await? {
                Some(number) => history.find(number).await,
                None => Ok(None),
            }
        };
        let found = self
            .runtime
            .block_on(finding)
            .map_err(|error| error.to_string())?;
        found.ok_or_else(|| "the request is not captured; try again, or it is too old".to_owned())
    }

    /// Sends a captured request again, with a new signature. Returns the status of the response.
    ///
    /// # Errors
    /// The reason, for the user.
    pub(super) fn send_again(&self, detail: &Detail) -> Result<u16, String> {
        let Some(view) = self.view.upgrade() else {
            return Err("the agent is stopping".to_owned());
        };
        let restored = Restored::of(detail).map_err(|error| error.to_string())?;
        let wish = crate::api::inspector::request::Wish {
            host: &detail.summary.tunnel,
            client: detail.summary.client.parse().ok(),
            source: Source::Again(detail.summary.number),
            signs: true,
        };
        let sending = view.send(restored.draft, wish, Actor::current_user());
        let sent = self.runtime.block_on(sending)?;
        Ok(sent.status.as_u16())
    }
}
