//! The command line of `hookward`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;

/// Brings webhooks to an application inside your network, and nothing else.
#[derive(Debug, Parser)]
#[command(name = "hookward", version, about, after_help = exit::HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open a tunnel to an HTTP application, like `ngrok http 8000`
    Http(Box<HttpArgs>),
    /// Exchange a join token for this agent's own credential
    Join(JoinArgs),
    /// List the providers whose signatures can be verified, or show one
    Providers(ProvidersArgs),
}

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: a screen on a terminal, plain lines elsewhere.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// What all commands take.
#[derive(Debug, Args)]
pub struct Common {
    /// Where the credential, tokens and certificates are kept (default: ~/.local/state/hookward)
    #[arg(long, value_name = "DIR", env = "HOOKWARD_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
}

/// `hookward join`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub struct JoinArgs {
    /// `-` for standard input, a file, or (visible to every process of this machine) the token itself
    #[arg(value_name = "-|FILE|TOKEN")]
    pub token: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// `hookward providers`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub struct ProvidersArgs {
    /// What to do; without it, all are listed.
    #[command(subcommand)]
    pub command: Option<ProvidersCommand>,
}

/// What `hookward providers` does.
#[derive(Debug, Subcommand)]
pub enum ProvidersCommand {
    /// What is read, what is signed, and how to write it in a policy
    Show {
        /// The provider's id or another of its names; `-` and `_` are alike
        name: String,
    },
}

/// `hookward http`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub struct HttpArgs {
    /// The application: a port of this machine, or HOST:PORT
    #[arg(value_name = "PORT|HOST:PORT")]
    pub application: String,

    /// Run a relay inside this process, to try it on one machine
    #[cfg(feature = "local")]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:8443")]
    pub local: Option<std::net::SocketAddr>,

    /// Public host to ask for: a label under the relay's domain, or a whole host name
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,

    /// The webhook whose URL to print, below the first path: git/push
    #[arg(long, value_name = "PATH")]
    pub webhook: Option<String>,

    /// The policy as flags.
    #[command(flatten)]
    pub gate: GateArgs,

    /// How lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// The policy as flags.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What may pass")]
pub struct GateArgs {
    /// Policy file (TOML), instead of the flags below
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "path", "allow_ip", "deny_ip", "token", "keep_token", "no_token", "new_token", "verify", "websocket", "answer_timeout",
    ])]
    pub policy: Option<PathBuf>,

    /// Path that may pass; `*` is one segment, a final `/**` everything below (repeatable; default:
    /// /flexdeploy/webhooks/v1/** and /flexdeploy/webhooks/v2/**)
    #[arg(long, value_name = "PATTERN")]
    pub path: Vec<String>,

    /// Address range that may send: 192.30.252.0/22, 2001:db8::/32 (repeatable)
    #[arg(long, value_name = "CIDR")]
    pub allow_ip: Vec<String>,

    /// Address range that may not send, whatever else passes (repeatable)
    #[arg(long, value_name = "CIDR")]
    pub deny_ip: Vec<String>,

    /// Token that must stand in the URL (parameter NAME, default `token`) or in a header
    /// (NAME is header:X-Token); env:VAR or file:PATH (repeatable: several are live during a change)
    #[arg(long, value_name = "[NAME=]SECRET")]
    pub token: Vec<String>,

    /// Leave the token in the URL that the application sees
    #[arg(long)]
    pub keep_token: bool,

    /// Do not mint a token although nothing else keeps strangers out
    #[arg(long, conflicts_with_all = ["token", "new_token"])]
    pub no_token: bool,

    /// Replace the minted token by a new one
    #[arg(long, conflicts_with = "token")]
    pub new_token: bool,

    /// Signature that must be right, such as github=env:GITHUB_SECRET (repeatable: the same provider
    /// again for a change of secrets, another one as an alternative)
    #[arg(long, value_name = "PROVIDER=SECRET")]
    pub verify: Vec<String>,

    /// Let WebSockets be opened
    #[arg(long)]
    pub websocket: bool,

    /// Wait for the head of the application's answer (default: 60s)
    #[arg(long, value_name = "TIME")]
    pub answer_timeout: Option<String>,
}
