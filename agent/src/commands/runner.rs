//! Opens tunnels and shows their requests until the user, a signal or a relay ends it.

mod announce;
mod outputs;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hookward_core::clock::Clock;
use hookward_core::diagnostics::Diagnostics;
use hookward_core::limits::Limits;
use hookward_runtime::process::{self, ShutdownSignals};
use hookward_runtime::reload::Reloads;
use hookward_tunnel::protocol::control::RefusedReason;
use hookward_tunnel::transport::liveness::Liveness;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::announce::Announcement;
use self::outputs::Outputs;
use crate::cli::{LinkArgs, OutputArgs};
use crate::commands::http::plan::Plan;
use crate::commands::join;
use crate::commands::local::{self, Local};
use crate::commands::{CommandError, print_error};
use crate::config::state_dir::{StateDir, StateError};
use crate::events::{Event, EventSink};
use crate::exchange::{InFlight, Pairing};
use crate::exit::Exit;
use crate::relay_link::proxy::Proxies;
use crate::relay_link::{
    ConnectionError, LinkSettings, OpenedTunnel, RelayEndpoint, TransportMode,
};
use crate::terminal::Quit;
use crate::{Agent, AgentSettings, TunnelSettings, terminal};
use futures_util::future::select_all;

/// Function that makes a tunnel's plan again.
pub(super) type PolicyReload =
    Arc<dyn Fn() -> Result<Result<Plan, Diagnostics>, StateError> + Send + Sync>;

/// A tunnel to open.
pub(super) struct PlannedTunnel {
    /// Requested public host.
    pub host: Option<String>,
    /// Application and policy.
    pub plan: Plan,
    /// Triggers of a reload.
    pub reloads: Reloads,
    pub reload: PolicyReload,
    /// Receiver of a secret that a provider sends in its challenge.
    pub pairing: Option<Pairing>,
}

/// Tunnels of one agent.
pub(super) struct TunnelRunner {
    /// Tunnels to open; at least one.
    pub tunnels: Vec<PlannedTunnel>,
    /// Address of the relay inside this process.
    pub local: Option<SocketAddr>,
    /// Flags of the connections to relays.
    pub link: LinkArgs,
    /// Flags about output.
    pub output: OutputArgs,
    pub state: StateDir,
}

impl TunnelRunner {
    /// Opens the tunnels and shows their requests until a signal, the user, or `quit` ends it.
    ///
    /// # Errors
    /// Failure that ends with [`Exit::Failed`].
    pub(super) async fn run(self, quit: CancellationToken) -> Result<Exit, CommandError> {
        let Self {
            tunnels,
            local,
            link,
            output,
            state,
        } = self;
        let log_format = output.log_format;
        let clock = Clock::System;
        let files =
            process::raise_file_limit().map_err(CommandError::system("the limit of open files"))?;
        tracing::info!(files, "limit of open files");

        let mut messages = Vec::new();
        let mut signals =
            ShutdownSignals::new().map_err(CommandError::system("signal handlers"))?;

        let hosts: Vec<_> = tunnels
            .iter()
            .map(|tunnel| tunnel.host.as_deref())
            .collect();
        let local = local::start(local, &hosts, &state, &clock)?;
        let link = link_settings(&link, local.is_some(), &state)?;
        let mut relays = self::relays(local.as_ref(), &state)?;
        if relays.is_empty() {
            let joining = tokio::select! {
                joining = join::first_join(&state, &link, log_format) => joining?,
                () = signals.next() => Some(Exit::Done),
            };
            if let Some(exit) = joining {
                return Ok(exit);
            }
            relays = self::relays(local.as_ref(), &state)?;
        }

        let (mut settings, mut announcements, mut reloading) = (Vec::new(), Vec::new(), Vec::new());

        for PlannedTunnel {
            host,
            plan,
            reloads,
            reload: again,
            pairing,
        } in tunnels
        {
            messages.extend(plan.messages);
            announcements.push(Announcement {
                application: plan.application.to_string(),
                path: plan.path,
                token: plan.created_token,
                edge: local.as_ref().map(Local::edge),
                ca: local.as_ref().and_then(Local::ca),
                state: state.clone(),
            });

            settings.push(TunnelSettings {
                host,
                policy: plan.policy,
                application: plan.application,
                pairing,
            });

            reloading.push((reloads, again));
        }

        let several = settings.len() > 1;
        let (mut outputs, events, stream) = Outputs::open(&output, &state, several, &clock)?;
        let announce = {
            let events = events.clone();
            move |opened: OpenedTunnel| {
                if let Some(announcement) = announcements.get(opened.tunnel) {
                    announcement.say(&opened, &events);
                }
            }
        };

        let delivery_log = state.path().join(DELIVERY_LOG);
        let kept = state.clone();
        let remember = remember(&link, state, events.clone());
        for message in messages {
            events.emit(message);
        }

        let settings = AgentSettings {
            relays,
            link,
            tunnels: settings,
            drain: Limits::default().drain,
            state: local.is_none().then_some(kept),
            delivery_log: Some(delivery_log),
            capture: outputs.capture(),
        };

        outputs.note_start(&settings);
        let mut agent = match Agent::start(settings, clock, events.clone(), announce, remember) {
            Ok(agent) => agent,
            Err(problems) => {
                print_error(log_format, &problems.to_string());
                return Ok(Exit::Usage);
            }
        };

        let source = outputs.serve(&agent, &events, local.as_ref().and_then(Local::ca));
        let on_screen = Quit {
            in_order: quit.clone(),
            at_once: CancellationToken::new(),
        };
        let mut shown = terminal::show(stream, log_format, several, on_screen.clone(), source)
            .map_err(CommandError::system("the terminal's thread"))?;

        let refused = loop {
            let can_reload = !reloading.is_empty();
            let changes = reloading
                .iter_mut()
                .map(|(reloads, _)| Box::pin(reloads.next()));
            let changed = tokio::select! {
                ended = agent.ended() => break ended.err(),
                () = signals.next() => break None,
                () = quit.cancelled() => break None,
                // `select_all` panics without futures.
                changed = async { select_all(changes).await.1 }, if can_reload => changed,
            };
            let Some((_, again)) = reloading.get(changed) else {
                continue;
            };
            let again = Arc::clone(again);
            // Commands that print secrets may take seconds.
            let planning = spawn_blocking(move || again());
            tokio::select! {
                // It fails only after a panic, which is reported.
                plan = planning => if let Ok(plan) = plan {
                    reload(&agent, changed, &outputs, &events, plan);
                },
                () = signals.next() => break None,
                () = quit.cancelled() => break None,
            }
        };

        let in_flight = agent.in_flight();
        let ending = async {
            tokio::select! {
                () = agent.shutdown() => {}
                () = report_stopping(&in_flight, &events) => {}
            }
            let mut logged = outputs.close().await;
            drop(events);

            if let Some(local) = local {
                local.shutdown().await;
            }

            // The agent has ended, so the events end, and the outputs close.
            shown.over().await;
            if let Some(logged) = &mut logged {
                logged.over().await;
            }
        };

        tokio::select! {
            () = ending => {}
            // A second signal, or a second Ctrl-C on the screen, aborts the drain.
            () = signals.next() => on_screen.at_once.cancel(),
            () = on_screen.at_once.cancelled() => {}
        }

        if on_screen.at_once.is_cancelled() {
            let _ = timeout(SCREEN_CLOSE_TIMEOUT, shown.over()).await;
        }

        Ok(match refused {
            None => Exit::Done,
            Some(error) => {
                print_error(log_format, &error.to_string());
                exit_of(&error)
            }
        })
    }
}

/// File of completed deliveries in the state directory.
const DELIVERY_LOG: &str = "delivered.db";

/// Time for the screen to restore the terminal.
const SCREEN_CLOSE_TIMEOUT: Duration = Duration::from_millis(300);

/// Reports the number of requests that the stop waits for, when it changes.
async fn report_stopping(in_flight: &InFlight, events: &EventSink) {
    let mut reported = None;
    loop {
        let count = in_flight.count();
        if reported.replace(count) != Some(count) {
            events.emit(Event::Stopping { in_flight: count });
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Interval at which the stopping agent counts requests in progress.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Returns the relays that the agent has joined, or the one in this process.
fn relays(local: Option<&Local>, state: &StateDir) -> Result<Vec<RelayEndpoint>, StateError> {
    if let Some(local) = local {
        return Ok(vec![local.connection()]);
    }

    let kept = state.credentials()?.into_iter();
    Ok(kept.map(RelayEndpoint::from).collect())
}

/// Returns the settings of the connections: the flags, the environment, and the transport that
/// worked last.
///
/// # Errors
/// [`StateError`].
pub(super) fn link_settings(
    args: &LinkArgs,
    local: bool,
    state: &StateDir,
) -> Result<LinkSettings, StateError> {
    Ok(LinkSettings {
        transport: args.transport.into(),
        last_transport: state.last_transport(),
        connections: args.connections.map(usize::from),
        pool: args.pool,
        liveness: Liveness::with_idle_timeout(Duration::from_secs(args.idle_timeout.into())),
        // A relay in this process needs no proxy.
        proxies: if local {
            Proxies::default()
        } else {
            Proxies::from_env()
        },
        probe_after: None,
    })
}

/// Stores the transport of a working connection, when it changes.
fn remember(
    link: &LinkSettings,
    state: StateDir,
    events: EventSink,
) -> impl Fn(hookward_tunnel::transport::Transport) + Send + Sync + 'static {
    let worked = Mutex::new(link.last_transport);
    // A transport that the user chose says nothing about the network.
    let is_asked_for = link.transport != TransportMode::Auto;

    move |transport| {
        if is_asked_for {
            return;
        }

        let before = worked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(transport);
        if before != Some(transport)
            && let Err(error) = state.keep_transport(transport)
        {
            events.emit(Event::Warning(error.to_string()));
        }
    }
}

/// Offers the reloaded policy. After an error the old policy stays in force, and the user gets a
/// warning.
fn reload(
    agent: &Agent,
    tunnel: usize,
    outputs: &Outputs,
    events: &EventSink,
    again: Result<Result<Plan, Diagnostics>, StateError>,
) {
    let replaced = match again {
        Ok(Ok(plan)) => {
            let replaced = agent.replace_policy(tunnel, &plan.policy);
            if replaced.is_ok() {
                outputs.note_policy(tunnel, Ok(&plan.policy));
            }
            replaced
                .map(|()| plan.messages)
                .map_err(|what| what.to_string())
        }
        Ok(Err(problems)) => Err(problems.to_string()),
        Err(error) => Err(error.to_string()),
    };

    match replaced {
        Ok(messages) => messages
            .into_iter()
            .for_each(|message| events.emit(message)),
        Err(what) => {
            outputs.note_policy(tunnel, Err(&what));
            events.emit(Event::Warning(format!(
                "the new policy can't be used; THE OLD ONE STAYS IN FORCE: {what}"
            )));
        }
    }
}

/// Returns the exit code after the relay ended the agent.
const fn exit_of(error: &ConnectionError) -> Exit {
    match error {
        ConnectionError::Refused {
            reason: RefusedReason::Credential | RefusedReason::JoinToken,
            ..
        } => Exit::Credential,
        ConnectionError::Refused {
            reason: RefusedReason::Host,
            ..
        } => Exit::Host,
        ConnectionError::Refused {
            reason: RefusedReason::Policy,
            ..
        } => Exit::Policy,
        _ => Exit::Failed,
    }
}
