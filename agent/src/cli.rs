//! The command line of `hookward`.

mod commands;
mod ngrok;
mod policy;
mod tunnel;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use hookward_cli::deliveries::DeliveriesCommand;
use hookward_cli::environment;
use hookward_cli::help::{CompletionsArgs, ManArgs};

pub(crate) use self::commands::{
    AuditCommand, CheckArgs, ConfigCommand, DiagnoseArgs, ExplainArgs, ImportNgrokArgs, JoinArgs,
    PinCommand, ProvidersArgs, ProvidersCommand, SendArgs, StatusArgs, TrustArgs, VerifyArgs,
};
pub(crate) use self::policy::PolicyFlags;
pub use self::tunnel::UpstreamArgs;
pub(crate) use self::tunnel::{
    CaptureRefused, FileTunnel, HttpArgs, LinkArgs, OutputArgs, PairArgs, StartArgs,
};
use crate::exit;

/// Brings webhooks to an application inside your network, and nothing else
#[derive(Debug, Parser)]
#[command(name = "hookward", version, after_help = exit::HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Commands of `hookward`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open a tunnel to an application, like `ngrok http 8000`
    Http(Box<HttpArgs>),
    /// Open the tunnels of a file
    Start(Box<StartArgs>),
    /// Exchange a join token for this agent's credential
    Join(JoinArgs),
    /// Show the state of the running agents
    Status(StatusArgs),
    /// List the stored webhooks of this agent's tunnels, deliver them again, or delete them
    #[command(subcommand)]
    Deliveries(DeliveriesCommand<Common>),
    /// Verify the audit log of an agent
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Test the way from this machine to the relay
    Diagnose(Box<DiagnoseArgs>),
    /// List the providers, or show how to set one up
    Providers(ProvidersArgs),
    /// Check a policy without starting anything
    Check(Box<CheckArgs>),
    /// Explain what the gate does with a request, offline
    Explain(Box<ExplainArgs>),
    /// Sign a test webhook as a provider does, and send it
    Send(Box<SendArgs>),
    /// Receive the secret that a provider sends in its challenge
    Pair(Box<PairArgs>),
    /// Check and explain the file of `hookward start`
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Write our files from a configuration file of ngrok, version 2 or 3
    ImportNgrok(ImportNgrokArgs),
    /// Print how curl, Java, Python and browsers trust a self-signed certificate
    Trust(TrustArgs),
    /// Show or change the keys that the agent accepts from its relays
    #[command(subcommand)]
    Pin(PinCommand),
    /// Print completions for a shell
    #[command(visible_alias = "completion")]
    Completions(CompletionsArgs),
    /// Write man pages
    Man(ManArgs),
}

impl Cli {
    /// Parses a command line. The error of an unknown flag or command names ours.
    ///
    /// # Errors
    /// clap's error, also for `--help` and `--version`.
    pub fn parse_args(
        args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let matches = environment::parse(Self::command(), &["http", "start"], args);
        let parsed = matches.and_then(|matches| Self::from_arg_matches(&matches));
        parsed.map_err(ngrok::explain)
    }

    /// Returns the format of diagnostics and errors.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Http(args) => args.output.log_format,
            Command::Pair(args) => args.output.log_format,
            Command::Start(args) => args.output.log_format,
            Command::Status(args) => args.format,
            Command::Diagnose(_)
            | Command::Join(_)
            | Command::Pin(_)
            | Command::Trust(_)
            | Command::ImportNgrok(_)
            | Command::Config(_)
            | Command::Providers(_)
            | Command::Check(_)
            | Command::Explain(_)
            | Command::Deliveries(_)
            | Command::Audit(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Send(_) => LogFormat::Text,
        }
    }

    /// Returns the file of the log, instead of standard error.
    #[must_use]
    pub fn log_file(&self) -> Option<PathBuf> {
        match &self.command {
            Command::Http(args) => args.output.log.clone(),
            Command::Pair(args) => args.output.log.clone(),
            Command::Start(args) => args.output.log.clone(),
            _ => None,
        }
    }
}

/// Format of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: a screen on a terminal, plain lines elsewhere.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Flags of all commands that use the agent's files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output and files")]
pub(crate) struct Common {
    /// Directory of the credential and tokens (default: ~/.local/state/hookward)
    #[arg(long, value_name = "DIR", env = "HOOKWARD_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}
