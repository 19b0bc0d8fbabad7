//! `hookward http`: opens the tunnel and shows what comes through it.

pub mod plan;

use hookward_shared::clock::Clock;
use hookward_shared::limits::Limits;
use hookward_shared::policy::TOKEN_NAME;
use hookward_shared::process;
use hookward_shared::protocol::control::RefusedReason;
use hookward_shared::secret::Secret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::local::{self, Local};
use super::{CommandError, tell};
use crate::cli::HttpArgs;
use crate::connection::{ConnectionError, Opened, Relay};
use crate::exit::Exit;
use crate::report::{self, Ready, Report, Reporter};
use crate::state::StateDir;
use crate::{Agent, AgentSettings, terminal};

/// Runs the command.
///
/// # Errors
/// What failed, for [`Exit::Failed`].
pub async fn run(args: HttpArgs) -> Result<Exit, CommandError> {
    let clock = Clock::System;
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let state = if local::is_asked_for(&args) { state.local()? } else { state };
    let plan = match plan::plan(&args, &state, &clock)? {
        Ok(plan) => plan,
        Err(problems) => {
            tell(args.log_format, &problems.to_string());
            return Ok(Exit::Usage);
        }
    };
    let mut messages = plan.messages;
    let files = process::raise_file_limit().map_err(CommandError::system("the limit of open files"))?;
    messages.push(Report::Note(format!("up to {files} open files")));
    let mut ends = Ends::new()?;

    let local = local::start(&args, &state, &clock)?;
    let relay = match (&local, state.credential()?) {
        (Some(local), _) => local.connection(),
        (None, Some(kept)) => Relay { address: kept.relay, pin: kept.pin, credential: kept.secret },
        (None, None) => {
            tell(args.log_format, local::NOT_JOINED);
            return Ok(Exit::Usage);
        }
    };
    let announcement = Announcement {
        relay: relay.address.clone(),
        application: plan.application.to_string(),
        path: plan.path,
        token: plan.minted,
        edge: local.as_ref().map(Local::edge),
        ca: local.as_ref().and_then(Local::ca),
        state,
    };
    let settings = AgentSettings {
        relay,
        host: args.host.clone(),
        policy: plan.policy,
        application: plan.application,
        drain: Limits::default().drain,
    };
    let (reporter, reports) = report::channel();
    let announce = {
        let reporter = reporter.clone();
        move |opened: Opened| announcement.say(&opened, &reporter)
    };
    for message in messages {
        reporter.say(message);
    }
    let mut agent = match Agent::start(settings, clock, reporter, announce) {
        Ok(agent) => agent,
        Err(problems) => {
            tell(args.log_format, &problems.to_string());
            return Ok(Exit::Usage);
        }
    };
    let quit = CancellationToken::new();
    let shown = terminal::show(reports, args.log_format, quit.clone())
        .map_err(CommandError::system("the terminal's thread"))?;
    let refused = tokio::select! {
        ended = agent.ended() => ended.err(),
        () = ends.next() => None,
        () = quit.cancelled() => None,
    };
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
            tell(args.log_format, &error.to_string());
            exit_of(&error)
        }
    })
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
    relay: String,
    application: String,
    path: String,
    token: Option<Secret>,
    edge: Option<String>,
    ca: Option<String>,
    state: StateDir,
}

impl Announcement {
    fn say(&self, opened: &Opened, reporter: &Reporter) {
        let Opened { host, port } = opened;
        let base_url = if *port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") };
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
            relay: self.relay.clone(),
            transport: "quic",
            application: self.application.clone(),
        }));
    }
}
