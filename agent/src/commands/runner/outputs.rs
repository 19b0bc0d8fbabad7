//! Outputs of a running agent beside the terminal: audit log, log file, and local API.

use std::sync::Arc;

use hookward_core::clock::Clock;
use hookward_gate::policy::Policy;
use hookward_gate::policy::summary::Summary;
use hookward_observe::audit::{Actor, AuditLog, RawAudit};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::listener::{BoundApi, InspectListen};
use crate::api::status::AgentView;
use crate::cli::{CaptureRefused, OutputArgs};
use crate::commands::CommandError;
use crate::config::state_dir::StateDir;
use crate::events::{self, Event, EventSink, EventStream};
use crate::inspector::Inspector;
use crate::inspector::capture::{Capture, CaptureOptions};
use crate::observe::AgentObserver;
use crate::terminal::screen::ScreenSource;
use crate::terminal::{self, Shown};
use crate::{Agent, AgentSettings};

/// Name of the program in syslog.
const PROGRAM: &str = "hookward";

/// The outputs, until they are closed.
pub(super) struct Outputs {
    audit: AuditLog,
    api: Option<BoundApi>,
    /// `None` if it is off, or failed to start.
    inspector: Option<Inspector>,
    state: StateDir,
    /// `None` before the API is served.
    view: Option<Arc<AgentView>>,
    log: Option<Shown>,
    observer: Arc<AgentObserver>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Outputs {
    /// Opens the outputs. Returns the sink of the agent's events, and the stream for the terminal.
    pub(super) fn open(
        args: &OutputArgs,
        state: &StateDir,
        several: bool,
        clock: &Clock,
    ) -> Result<(Self, EventSink, EventStream), CommandError> {
        let settings = RawAudit::default().with_file(args.audit.clone());
        let audit = AuditLog::start(&settings.resolve(None), PROGRAM, clock.clone())?;
        let api = Some(BoundApi::bind(args.inspect, state)?);

        let inspector = inspector(args, state, clock);

        let observer = Arc::new(AgentObserver::new(audit.clone()));
        let (events, stream) = events::observed_channel(Arc::clone(&observer) as _);
        let log = match &args.log {
            Some(path) => {
                let stream = events.subscribe();
                let log = terminal::log_to(path, stream, args.log_format, several);
                Some(log.map_err(CommandError::system("--log"))?)
            }
            None => None,
        };

        let outputs = Self {
            audit,
            api,
            inspector,
            state: state.clone(),
            view: None,
            log,
            observer,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Ok((outputs, events, stream))
    }

    /// Returns the capture of requests.
    pub(super) fn capture(&self) -> Capture {
        let inspector = self.inspector.as_ref();
        inspector.map_or_else(Capture::default, Inspector::capture)
    }

    /// Records the start of an agent with these settings.
    pub(super) fn note_start(&self, settings: &AgentSettings) {
        let tunnels = settings.tunnels.iter().map(|tunnel| {
            json!({
                "host": tunnel.host,
                "application": tunnel.application.to_string(),
                "policy": summary(&tunnel.policy),
            })
        });
        let relays = settings.relays.iter().map(|relay| relay.address.as_str());
        let details = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "relays": relays.collect::<Vec<_>>(),
            "tunnels": tunnels.collect::<Vec<_>>(),
        });
        self.audit.act("started", Actor::current_user(), details);
    }

    /// Records a policy that was read again, or the reason why it is invalid.
    pub(super) fn note_policy(&self, tunnel: usize, read: Result<&Policy, &str>) {
        // The number of the tunnel in the file, from 1.
        let number = tunnel + 1;
        let (event, details) = match read {
            Ok(policy) => (
                "policy_loaded",
                json!({ "tunnel_number": number, "policy": summary(policy) }),
            ),
            Err(reason) => (
                "policy_refused",
                json!({ "tunnel_number": number, "reason": reason }),
            ),
        };
        self.audit.act(event, Actor::program(), details);
    }

    /// Serves the API of an agent. `ca` is the file of the relay's certificate, if it is self-signed.
    /// Returns the source of the screen's state.
    pub(super) fn serve(
        &mut self,
        agent: &Agent,
        events: &EventSink,
        ca: Option<String>,
    ) -> Option<ScreenSource> {
        let inspector = self.inspector.as_ref();
        let inspector = inspector.map(|inspector| inspector.view(ca));
        let view = Arc::new(agent.view(Arc::clone(&self.observer), inspector));
        let api = self.api.take()?;
        if let Some(address) = api.address() {
            events.emit(Event::Api { address });
        }
        let token_url = api.token_url(&self.state);
        let source = ScreenSource::new(&view, Handle::current(), token_url);
        api.serve(Arc::clone(&view), &self.tasks, &self.stop);
        self.view = Some(view);
        Some(source)
    }

    /// Writes the last records, and ends the API. Returns the handle of the log file, which ends with
    /// the events.
    pub(super) async fn close(self) -> Option<Shown> {
        self.audit.act("stopped", Actor::program(), json!({}));
        self.audit.close().await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // It captures no more, so that the recorder ends.
        drop(self.view);
        if let Some(inspector) = self.inspector {
            inspector.close().await;
        }
        self.log
    }
}

/// File of the inspector's history in the state directory.
const HISTORY: &str = "requests.db";

/// Starts the inspector. Without it, the agent works all the same.
fn inspector(args: &OutputArgs, state: &StateDir, clock: &Clock) -> Option<Inspector> {
    if args.inspect == InspectListen::Off {
        return None;
    }
    let path = state.path().join(HISTORY);
    let options = CaptureOptions {
        refused: args.capture_refused == CaptureRefused::On,
        redacted: args
            .redact
            .iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
    };
    let opened = Inspector::open(&path, options, clock.clone());
    opened
        .inspect_err(|error| tracing::warn!(%error, "the inspector keeps no requests"))
        .ok()
}

fn summary(policy: &Policy) -> Value {
    let Summary { digest, lines } = Summary::of(policy);
    json!({ "digest": digest, "lets_in": lines })
}
