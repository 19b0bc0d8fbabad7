//! `hookward http`: opens the tunnel and shows what comes through it.

use hookward_shared::clock::Clock;
use hookward_shared::config::{Problem, Problems};
use hookward_shared::limits::Limits;
use hookward_shared::policy::{Policy, TOKEN_NAME, TokenCheck, TokenPlace};
use hookward_shared::protocol::control::RefusedReason;
use hookward_shared::secret::{ProcessSecrets, Secret};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::HttpArgs;
use crate::commands::CommandError;
use crate::connection::{ConnectionError, Opened, Relay};
use crate::exit::Exit;
use crate::report::{self, Ready, Report, Reporter};
use crate::state::StateDir;
use crate::upstream::pool::Application;
use crate::{Agent, AgentSettings, flags, terminal};

/// Everything that could be wrong with the command line, checked.
struct Plan {
    application: Application,
    policy: Policy,
    minted: Option<Secret>,
    messages: Vec<Report>,
    path: String,
}

/// Runs the command.
///
/// # Errors
/// What failed, for [`Exit::Failed`].
pub async fn run(args: HttpArgs) -> Result<Exit, CommandError> {
    let clock = Clock::System;
    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let (state, local_edge) = place(&args, state)?;
    let plan = match plan(&args, &state, &clock)? {
        Ok(plan) => plan,
        Err(problems) => {
            tell(&problems.to_string());
            return Ok(Exit::Usage);
        }
    };
    let mut messages = plan.messages;
    let wanted = rlimit::Resource::NOFILE.get_hard().unwrap_or(u64::MAX);
    let files = rlimit::increase_nofile_limit(wanted).map_err(CommandError::system("the limit of open files"))?;
    messages.push(Report::Note(format!("up to {files} open files")));

    #[cfg(feature = "local")]
    let mut local = match local_edge {
        Some(edge) => Some(super::local::start(edge, args.host.as_deref(), &state, &clock)?),
        None => None,
    };
    #[cfg(feature = "local")]
    let connection = local.as_ref().map(|local| local.connection.clone());
    #[cfg(not(feature = "local"))]
    let connection: Option<Relay> = local_edge;
    let connection = match connection {
        Some(connection) => connection,
        None => match state.credential()? {
            Some(kept) => Relay { address: kept.relay, pin: kept.pin, credential: kept.secret },
            None => {
                tell(
                    "this agent has not joined a relay; run `hookward join -` with a join token first, or add --local to try it here",
                );
                return Ok(Exit::Usage);
            }
        },
    };

    let announcement = Announcement {
        relay: connection.address.clone(),
        application: plan.application.to_string(),
        path: plan.path,
        token: plan.minted,
        #[cfg(feature = "local")]
        edge: local.as_ref().map(|local| local.relay.edge_address().to_string()),
        #[cfg(not(feature = "local"))]
        edge: None,
        #[cfg(feature = "local")]
        ca: local.as_ref().and_then(|local| local.relay.self_signed().map(|path| path.display().to_string())),
        #[cfg(not(feature = "local"))]
        ca: None,
        state,
    };
    let (reporter, reports) = report::channel();
    let quit = CancellationToken::new();
    let shown = terminal::show(reports, args.log_format, quit.clone())
        .map_err(CommandError::system("the terminal's thread"))?;
    for message in messages {
        reporter.say(message);
    }
    let settings = AgentSettings {
        relay: connection,
        host: args.host.clone(),
        policy: plan.policy,
        application: plan.application,
        limits: Limits::default(),
    };
    let announce = {
        let reporter = reporter.clone();
        move |opened: Opened| announcement.say(&opened, &reporter)
    };
    let agent = match Agent::start(settings, clock, reporter, announce) {
        Ok(agent) => agent,
        Err(problems) => {
            tell(&problems.to_string());
            return Ok(Exit::Usage);
        }
    };
    let (exit, last_word) = until_end(agent, &quit).await?;
    #[cfg(feature = "local")]
    if let Some(local) = local.take() {
        local.relay.shutdown(Limits::default().drain).await;
    }
    // The agent is gone, so the reports end, and the terminal is the user's again.
    let _ = tokio::task::spawn_blocking(move || shown.join()).await;
    if let Some(word) = last_word {
        tell(&word);
    }
    Ok(exit)
}

#[cfg(feature = "local")]
type LocalEdge = std::net::SocketAddr;
#[cfg(not(feature = "local"))]
type LocalEdge = Relay;

/// Where state is kept, and where a local relay listens.
fn place(args: &HttpArgs, state: StateDir) -> Result<(StateDir, Option<LocalEdge>), CommandError> {
    #[cfg(feature = "local")]
    if let Some(edge) = args.local {
        return Ok((state.local()?, Some(edge)));
    }
    let _ = args;
    Ok((state, None))
}

/// Runs until the user, a signal, or the relay ends it.
async fn until_end(mut agent: Agent, quit: &CancellationToken) -> Result<(Exit, Option<String>), CommandError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::system("SIGINT"))?;
    let ended = tokio::select! {
        ended = agent.ended() => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        () = quit.cancelled() => None,
    };
    match ended {
        None => {
            // A second signal does not wait.
            tokio::select! {
                () = agent.shutdown() => {}
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            Ok((Exit::Done, None))
        }
        Some(Ok(())) => Ok((Exit::Done, None)),
        Some(Err(error)) => {
            let exit = match &error {
                ConnectionError::Refused { reason: RefusedReason::Credential | RefusedReason::JoinToken, .. } => {
                    Exit::Credential
                }
                ConnectionError::Refused { reason: RefusedReason::Host, .. } => Exit::Host,
                ConnectionError::Refused { reason: RefusedReason::Policy, .. } => Exit::Policy,
                _ => Exit::Failed,
            };
            drop(agent);
            Ok((exit, Some(error.to_string())))
        }
    }
}

/// Checks everything before anything is started.
fn plan(args: &HttpArgs, state: &StateDir, clock: &Clock) -> Result<Result<Plan, Problems>, CommandError> {
    let mut problems = Vec::new();
    let application = flags::application(&args.application).map_err(|problem| problems.push(problem)).ok();
    let built = flags::policy(&args.gate, &ProcessSecrets, clock.now()).map_err(|more| problems.extend(more.0)).ok();
    if let Some(webhook) = &args.webhook
        && (webhook.starts_with('/') || webhook.contains(['?', '#', ' ']))
    {
        problems.push(Problem::new(
            "--webhook",
            format!("{webhook:?}: write the path below the webhook resource, such as git/push"),
        ));
    }
    let (Some(application), Some(built), true) = (application, built, problems.is_empty()) else {
        return Ok(Err(Problems(problems)));
    };
    let mut messages: Vec<Report> = built.notes.into_iter().map(Report::Note).collect();
    let mut policy = built.policy;
    let mut minted = None;
    if built.mint_token {
        let (token, new) = state.token(args.host.as_deref(), args.gate.new_token)?;
        let check = TokenCheck { place: TokenPlace::Query(TOKEN_NAME.to_owned()), digests: vec![token.digest()] };
        policy = flags::with_token(&policy, &check);
        if new {
            messages.push(Report::Note(
                "a new token was minted; it is part of the webhook URL and stays the same until --new-token".to_owned(),
            ));
        }
        minted = Some(token);
    } else if args.gate.new_token {
        let what = "no token is minted here: an address range, a token or a signature is given already";
        return Ok(Err(Problems(vec![Problem::new("--new-token", what)])));
    }
    if let Application::Host(host) = &application {
        let near = host.starts_with("127.") || host.starts_with("[::1]");
        if !near {
            messages.push(Report::Warning(format!("requests go to {host}, in clear text, over the network")));
        }
    }
    messages.extend(policy.warnings().into_iter().map(Report::Warning));
    let path = webhook_path(&policy, args.webhook.as_deref());
    Ok(Ok(Plan { application, policy, minted, messages, path }))
}

/// The path for the printed URL: the first route's, with the webhook in place of its wildcard.
fn webhook_path(policy: &Policy, webhook: Option<&str>) -> String {
    let first = policy.routes.first().and_then(|route| route.paths.first()).map_or("/", String::as_str);
    let base = first.strip_suffix("/**").unwrap_or(first);
    match webhook {
        Some(webhook) => format!("{base}/{webhook}"),
        None if base.is_empty() => "/".to_owned(),
        None => base.to_owned(),
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

#[expect(clippy::print_stderr, reason = "this is the command's word to its user")]
fn tell(text: &str) {
    eprintln!("{text}");
}
