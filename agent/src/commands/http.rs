//! `hookward http`: opens the tunnel and shows what comes through it.

pub mod plan;

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hookward_shared::clock::Clock;
use hookward_shared::config::Problems;
use hookward_shared::limits::Limits;
use hookward_shared::names::origin_of;
use hookward_shared::policy::TOKEN_NAME;
use hookward_shared::process;
use hookward_shared::protocol::control::RefusedReason;
use hookward_shared::reload::Reloads;
use hookward_shared::secret::Secret;
use hookward_shared::transport::liveness::Liveness;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::plan::Plan;
use super::local::{self, Local};
use super::{CommandError, tell};
use crate::cli::{GateArgs, HttpArgs, LinkArgs, LogFormat};
use crate::connection::proxy::Proxies;
use crate::connection::{ConnectionError, LinkSettings, Opened, Relay};
use crate::exit::Exit;
use crate::replay::Pairing;
use crate::report::{self, Ready, Report, Reporter};
use crate::state::{StateDir, StateError};
use crate::{Agent, AgentSettings, TunnelSettings, terminal};

/// Runs the command.
///
/// # Errors
/// What failed, for [`Exit::Failed`].
pub async fn run(args: HttpArgs) -> Result<Exit, CommandError> {
    let clock = Clock::System;
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let state = if args.local().is_some() { state.local()? } else { state };
    let plan = match plan::plan(&args, &state, &clock)? {
        Ok(plan) => plan,
        Err(problems) => {
            tell(args.log_format, &problems.to_string());
            return Ok(Exit::Usage);
        }
    };
    let reloads = Reloads::new(args.gate.policy.as_deref()).map_err(CommandError::system("SIGHUP"))?;
    let (local, log_format) = (args.local(), args.log_format);
    let (host, link) = (args.host.clone(), args.link.clone());
    let tunnel = Tunnel { host, local, link, log_format, state: state.clone(), pairing: None };
    // What is read again is read as at the start, but for a token that was minted then.
    let again = HttpArgs { gate: GateArgs { new_token: false, ..args.gate }, ..args };
    let again = move || plan::plan(&again, &state, &Clock::System);
    tunnel.serve(plan, reloads, again, CancellationToken::new()).await
}

/// A tunnel to be opened, and what it needs beside a plan.
pub struct Tunnel {
    /// The public host to ask for.
    pub host: Option<String>,
    /// Where a relay inside this process is to listen.
    pub local: Option<SocketAddr>,
    /// How relays are reached.
    pub link: LinkArgs,
    /// How lines are written.
    pub log_format: LogFormat,
    /// The agent's files.
    pub state: StateDir,
    /// Where a secret goes that a provider tells in its handshake.
    pub pairing: Option<Pairing>,
}

impl Tunnel {
    /// Opens the tunnel, and shows what comes through it until a signal, the user, or `quit` ends it. When
    /// `reloads` says so, the plan is made again.
    ///
    /// # Errors
    /// What failed, for [`Exit::Failed`].
    pub async fn serve(
        self,
        plan: Plan,
        mut reloads: Reloads,
        again: impl Fn() -> Result<Result<Plan, Problems>, StateError>,
        quit: CancellationToken,
    ) -> Result<Exit, CommandError> {
        let Self { host, local, link, log_format, state, pairing } = self;
        let clock = Clock::System;
        let mut messages = plan.messages;
        let files = process::raise_file_limit().map_err(CommandError::system("the limit of open files"))?;
        messages.push(Report::Note(format!("up to {files} open files")));
        let mut ends = Ends::new()?;

        let local = local::start(local, host.as_deref(), &state, &clock)?;
        let relays: Vec<Relay> = match &local {
            Some(local) => vec![local.connection()],
            None => {
                let kept = state.credentials()?.into_iter();
                kept.map(|kept| Relay { address: kept.relay, pin: kept.pin, credential: kept.secret }).collect()
            }
        };
        if relays.is_empty() {
            tell(log_format, local::NOT_JOINED);
            return Ok(Exit::Usage);
        }
        let link = LinkSettings {
            transport: link.transport.into(),
            worked: state.worked()?,
            connections: link.connections.map(usize::from),
            pool: link.pool,
            liveness: Liveness::dead_after_silence_of(Duration::from_secs(link.dead_after.into())),
            // A relay in this process is not behind one.
            proxies: if local.is_some() { Proxies::default() } else { Proxies::from_env() },
            probe_after: None,
        };
        let announcement = Announcement {
            application: plan.application.to_string(),
            path: plan.path,
            token: plan.minted,
            edge: local.as_ref().map(Local::edge),
            ca: local.as_ref().and_then(Local::ca),
            state: state.clone(),
        };
        let worked = Mutex::new(link.worked);
        let tunnel = TunnelSettings { host, policy: plan.policy, application: plan.application, pairing };
        let settings = AgentSettings { relays, link, tunnels: vec![tunnel], drain: Limits::default().drain };
        let (reporter, reports) = report::channel();
        let announce = {
            let reporter = reporter.clone();
            move |opened: Opened| announcement.say(&opened, &reporter)
        };
        for message in messages {
            reporter.say(message);
        }
        let remember = {
            let reporter = reporter.clone();
            move |transport| {
                let before = worked.lock().unwrap_or_else(PoisonError::into_inner).replace(transport);
                if before != Some(transport)
                    && let Err(error) = state.keep_worked(transport)
                {
                    reporter.say(Report::Warning(error.to_string()));
                }
            }
        };
        let mut agent = match Agent::start(settings, clock, reporter.clone(), announce, remember) {
            Ok(agent) => agent,
            Err(problems) => {
                tell(log_format, &problems.to_string());
                return Ok(Exit::Usage);
            }
        };
        let shown =
            terminal::show(reports, log_format, quit.clone()).map_err(CommandError::system("the terminal's thread"))?;
        let refused = loop {
            tokio::select! {
                ended = agent.ended() => break ended.err(),
                () = ends.next() => break None,
                () = quit.cancelled() => break None,
                () = reloads.next() => reload(&agent, &reporter, again()),
            }
        };
        drop(reporter);
        let ending = async {
            agent.shutdown().await;
            if let Some(local) = local {
                local.shutdown().await;
            }
            // The agent is gone, so the reports end, and the terminal is the user's again.
            shown.over().await;
        };
        tokio::select! {
            () = ending => {}
            // A second signal does not wait.
            () = ends.next() => terminal::give_back(),
        }
        Ok(match refused {
            None => Exit::Done,
            Some(error) => {
                tell(log_format, &error.to_string());
                exit_of(&error)
            }
        })
    }
}

/// Offers the policy that was read again; one that can't be used changes nothing, and that is said loudly.
fn reload(agent: &Agent, reporter: &Reporter, again: Result<Result<Plan, Problems>, StateError>) {
    let replaced = match again {
        Ok(Ok(plan)) => agent.replace_policy(0, &plan.policy).map(|()| plan.messages).map_err(|what| what.to_string()),
        Ok(Err(problems)) => Err(problems.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match replaced {
        Ok(messages) => messages.into_iter().for_each(|message| reporter.say(message)),
        Err(what) => {
            reporter.say(Report::Warning(format!("the new policy can't be used; THE OLD ONE STAYS IN FORCE: {what}")));
        }
    }
}

/// What asks for the end.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn new() -> Result<Self, CommandError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(CommandError::system("SIGTERM"))?,
            interrupt: signal(SignalKind::interrupt()).map_err(CommandError::system("SIGINT"))?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How the program ends when the relay ended the agent.
const fn exit_of(error: &ConnectionError) -> Exit {
    match error {
        ConnectionError::Refused { reason: RefusedReason::Credential | RefusedReason::JoinToken, .. } => {
            Exit::Credential
        }
        ConnectionError::Refused { reason: RefusedReason::Host, .. } => Exit::Host,
        ConnectionError::Refused { reason: RefusedReason::Policy, .. } => Exit::Policy,
        _ => Exit::Failed,
    }
}

/// What is said when the tunnel is open.
struct Announcement {
    application: String,
    path: String,
    token: Option<Secret>,
    edge: Option<String>,
    ca: Option<String>,
    state: StateDir,
}

impl Announcement {
    fn say(&self, opened: &Opened, reporter: &Reporter) {
        let Opened { host, port, relay, transport, .. } = opened;
        let base_url = origin_of(host, *port);
        // A token that was given by the user is the user's; only a minted one is shown.
        let token = self.token.as_ref().map(|token| String::from_utf8_lossy(token.expose()).into_owned());
        let query = token.map(|token| format!("?{TOKEN_NAME}={token}")).unwrap_or_default();
        let url = format!("{base_url}{}{query}", self.path);
        if let Err(error) = self.state.keep_url(&url) {
            reporter.say(Report::Warning(error.to_string()));
        }
        reporter.say(Report::Ready(Ready {
            url,
            base_url,
            host: host.clone(),
            edge: self.edge.clone(),
            ca: self.ca.clone(),
            relay: relay.clone(),
            transport: *transport,
            application: self.application.clone(),
        }));
    }
}
