//! The command line of `hookward`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hookward_gate::policy::OnDuplicate;
use hookward_tunnel::transport::Transport;

use crate::exit;
use crate::relay_link::TransportMode;

/// Brings webhooks to an application inside your network, and nothing else.
#[derive(Debug, Parser)]
#[command(name = "hookward", version, about, after_help = exit::HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Returns the format of diagnostics and errors.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Http(args) => args.log_format,
            Command::Pair(args) => args.log_format,
            Command::Start(args) => args.log_format,
            Command::Diagnose(_)
            | Command::Join(_)
            | Command::Providers(_)
            | Command::Check(_)
            | Command::Explain(_)
            | Command::Send(_) => LogFormat::Text,
        }
    }
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Open a tunnel to an HTTP application, like `ngrok http 8000`
    Http(Box<HttpArgs>),
    /// Open the tunnels that a file describes
    Start(Box<StartArgs>),
    /// Exchange a join token for this agent's own credential
    Join(JoinArgs),
    /// Find out what is in the way between this machine and the relay
    Diagnose(Box<DiagnoseArgs>),
    /// List the providers whose signatures can be verified, or show one
    Providers(ProvidersArgs),
    /// Find every mistake of a policy, without starting anything
    Check(Box<CheckArgs>),
    /// Say what the gate does with a request, and why; without a network
    Explain(Box<ExplainArgs>),
    /// Sign a test webhook as a provider would, and send it
    Send(Box<SendArgs>),
    /// Take the secret that a provider tells in its handshake, once
    Pair(Box<PairArgs>),
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

/// How relays are reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum TransportFlag {
    /// QUIC, or TLS over TCP where UDP does not get through; and back again.
    #[default]
    Auto,
    /// QUIC over UDP only.
    Quic,
    /// TLS over TCP only, through an HTTP proxy where HTTPS_PROXY names one.
    Tcp,
}

impl From<TransportFlag> for TransportMode {
    fn from(flag: TransportFlag) -> Self {
        match flag {
            TransportFlag::Auto => Self::Auto,
            TransportFlag::Quic => Self::Only(Transport::Quic),
            TransportFlag::Tcp => Self::Only(Transport::Tcp),
        }
    }
}

/// How the application is spoken to.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The application")]
pub struct UpstreamArgs {
    /// Certificates (PEM) to trust beside the system's, for an application over https
    #[arg(long, value_name = "FILE", conflicts_with = "upstream_insecure")]
    pub upstream_ca: Option<PathBuf>,

    /// Do not verify the application's certificate: who can stand in between can read and change
    /// all
    #[arg(long)]
    pub upstream_insecure: bool,

    /// The application speaks HTTP/2 (in clear text: with prior knowledge)
    #[arg(long)]
    pub upstream_http2: bool,

    /// What Host says to it: the public host (preserve), its own address (rewrite), or this
    #[arg(long, value_name = "preserve|rewrite|HOST", default_value = "preserve")]
    pub upstream_host: String,
}

/// How relays are reached.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The tunnel")]
pub struct LinkArgs {
    /// How to reach the relay
    #[arg(long, value_enum, default_value_t)]
    pub transport: TransportFlag,

    /// Connections to each relay (default: 2 for each of its addresses up to 4, at least one for
    /// each)
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub connections: Option<u8>,

    /// Share the tunnel with other agents that say so, too; without it, the newest one has it
    #[arg(long)]
    pub pool: bool,

    /// A connection on which nothing was heard for so many seconds is dead
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=600))]
    pub idle_timeout: u16,
}

/// What happens to a delivery that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnDuplicateFlag {
    /// It is refused.
    Refuse,
    /// It is answered 200 and not forwarded.
    Acknowledge,
    /// It is forwarded, and told.
    Forward,
}

impl From<OnDuplicateFlag> for OnDuplicate {
    fn from(flag: OnDuplicateFlag) -> Self {
        match flag {
            OnDuplicateFlag::Refuse => Self::Refuse,
            OnDuplicateFlag::Acknowledge => Self::Acknowledge,
            OnDuplicateFlag::Forward => Self::Forward,
        }
    }
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
    /// `-` for standard input, a file, or (visible to every process of this machine) the token
    /// itself
    #[arg(value_name = "-|FILE|TOKEN")]
    pub token: String,

    /// Forget other relays that this agent has joined; without it, it serves all of them
    #[arg(long)]
    pub replace: bool,

    /// How to reach it
    #[arg(long, value_enum, default_value_t)]
    pub transport: TransportFlag,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// Reads host and port of a relay.
fn relay_address(text: &str) -> Result<String, String> {
    let (host, port) = text
        .rsplit_once(':')
        .ok_or("write HOST:PORT, such as relay.example.com:4433")?;
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or("a port lies between 1 and 65535")?;

    if host.is_empty() || host.contains(['/', '@']) {
        return Err("write HOST:PORT, such as relay.example.com:4433".to_owned());
    }

    Ok(format!("{host}:{port}"))
}

/// `hookward diagnose`.
#[derive(Debug, Args)]
#[command(after_help = exit::DIAGNOSE_HELP)]
pub struct DiagnoseArgs {
    /// The application, to see whether it takes connections, too
    #[arg(value_name = "APPLICATION")]
    pub application: Option<String>,

    /// A relay that this agent has not joined yet: tries the way to it
    #[arg(long, value_name = "HOST:PORT", value_parser = relay_address)]
    pub relay: Option<String>,

    /// How the application is spoken to.
    #[command(flatten)]
    pub upstream: UpstreamArgs,

    /// How the findings are written
    #[arg(long, value_enum, default_value_t)]
    pub format: LogFormat,

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

/// `hookward check`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub struct CheckArgs {
    /// The policy file, instead of --policy
    #[arg(value_name = "FILE", conflicts_with = "policy", conflicts_with_all = [
        "path", "method", "allow_ip", "deny_ip", "token", "basic", "keep_token", "no_token", "new_token", "verify",
        "secret_at_agent", "origin", "challenge", "content_type", "require_header", "require_body", "on_duplicate",
        "client_rate", "rate", "websocket", "encoded_slashes", "answer_timeout",
    ])]
    pub file: Option<PathBuf>,

    /// The policy.
    #[command(flatten)]
    pub gate: GateArgs,
}

/// `hookward explain`.
#[derive(Debug, Args)]
#[command(after_help = exit::EXPLAIN_HELP)]
pub struct ExplainArgs {
    /// The policy.
    #[command(flatten)]
    pub gate: GateArgs,

    /// The request as raw HTTP/1.1 bytes: a file, or `-` for standard input
    #[arg(long, value_name = "FILE|-", help_heading = "The request")]
    pub request: Option<String>,

    /// The public URL that it was sent to
    #[arg(
        long,
        value_name = "URL",
        help_heading = "The request",
        required_unless_present = "request"
    )]
    pub url: Option<String>,

    /// Its method (default: POST with --data, else GET)
    #[arg(
        short = 'X',
        long = "send-method",
        value_name = "METHOD",
        conflicts_with = "request",
        help_heading = "The request"
    )]
    pub send_method: Option<String>,

    /// A header field of it, `NAME: VALUE` (repeatable)
    #[arg(
        short = 'H',
        long = "header",
        value_name = "FIELD",
        conflicts_with = "request",
        help_heading = "The request"
    )]
    pub header: Vec<String>,

    /// Its body: the text itself, `@FILE`, or `@-` for standard input; every byte counts
    #[arg(
        short = 'd',
        long,
        value_name = "TEXT|@FILE",
        conflicts_with = "request",
        help_heading = "The request"
    )]
    pub data: Option<String>,

    /// The client address that it comes from
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        help_heading = "The request"
    )]
    pub peer: std::net::IpAddr,

    /// The time of the check, in seconds since 1970 (default: now)
    #[arg(long, value_name = "UNIXTIME", help_heading = "The request")]
    pub now: Option<u64>,

    /// How the explanation is written
    #[arg(long, value_enum, default_value_t)]
    pub format: LogFormat,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// `hookward send`.
#[derive(Debug, Args)]
#[command(after_help = exit::SEND_HELP)]
pub struct SendArgs {
    /// The webhook URL
    #[arg(value_name = "URL")]
    pub url: String,

    /// The provider to sign as, with a variant behind a slash
    #[arg(long, value_name = "PROVIDER[/VARIANT]")]
    pub provider: String,

    /// Its secret, or private key in PEM: env:NAME or file:PATH
    #[arg(long, value_name = "SECRET")]
    pub secret: String,

    /// The body: the text itself, `@FILE`, or `@-` for standard input; every byte counts
    #[arg(short = 'd', long, value_name = "TEXT|@FILE", default_value = "{}")]
    pub data: String,

    /// The method
    #[arg(
        short = 'X',
        long = "send-method",
        value_name = "METHOD",
        default_value = "POST"
    )]
    pub method: String,

    /// A header field, `NAME: VALUE` (repeatable; default: the Content-Type that the provider
    /// sends)
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    pub header: Vec<String>,

    /// Certificates (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,

    /// Print the signed request, and do not send it
    #[arg(long)]
    pub dry_run: bool,
}

/// `hookward pair`.
#[derive(Debug, Args)]
#[command(after_help = exit::PAIR_HELP)]
pub struct PairArgs {
    /// The provider
    #[arg(value_name = "PROVIDER")]
    pub provider: String,

    /// Where to keep its secret (mode 0600; must not be there yet)
    #[arg(long, value_name = "FILE")]
    pub secret_file: PathBuf,

    /// Run a relay inside this process, to try it on one machine
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:8443")]
    pub local: Option<std::net::SocketAddr>,

    /// Public host to ask for: a label under the relay's domain, or a whole host name
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,

    /// Path of the webhook (repeatable; default: the FlexDeploy webhook resource)
    #[arg(long, value_name = "PATTERN")]
    pub path: Vec<String>,

    /// How lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// How relays are reached.
    #[command(flatten)]
    pub link: LinkArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// `hookward http`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub struct HttpArgs {
    /// The application: a port of this machine, HOST:PORT, https://HOST:PORT, or unix:/run/app.sock
    #[arg(value_name = "APPLICATION")]
    pub application: String,

    /// How the application is spoken to.
    #[command(flatten)]
    pub upstream: UpstreamArgs,

    /// Run a relay inside this process, to try it on one machine
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

    /// How relays are reached.
    #[command(flatten)]
    pub link: LinkArgs,

    /// How lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

/// `hookward start`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub struct StartArgs {
    /// The file with the tunnels
    #[arg(value_name = "FILE", default_value = "hookward.toml")]
    pub file: PathBuf,

    /// Run a relay inside this process, to try it on one machine
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:8443")]
    pub local: Option<std::net::SocketAddr>,

    /// How relays are reached.
    #[command(flatten)]
    pub link: LinkArgs,

    /// How lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: Common,
}

impl HttpArgs {
    /// A tunnel of a file, as if it stood on a command line.
    #[must_use]
    pub fn of_tunnel(
        application: String,
        upstream: UpstreamArgs,
        host: Option<String>,
        webhook: Option<String>,
        gate: GateArgs,
        start: &StartArgs,
    ) -> Self {
        Self {
            application,
            upstream,
            local: start.local,
            host,
            webhook,
            gate,
            link: start.link.clone(),
            log_format: start.log_format,
            common: Common {
                state_dir: start.common.state_dir.clone(),
            },
        }
    }
}

/// The policy as flags.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What may pass")]
pub struct GateArgs {
    /// Policy file (TOML), instead of the flags below
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "path", "method", "allow_ip", "deny_ip", "token", "basic", "keep_token", "no_token", "new_token", "verify",
        "secret_at_agent", "origin", "challenge", "content_type", "require_header", "require_body", "on_duplicate",
        "client_rate", "rate", "websocket", "encoded_slashes", "answer_timeout",
    ])]
    pub policy: Option<PathBuf>,

    /// Path that may pass; `*` is one segment, a final `/**` everything below (repeatable; default:
    /// /flexdeploy/webhooks/v1/** and /flexdeploy/webhooks/v2/**)
    #[arg(long, value_name = "PATTERN")]
    pub path: Vec<String>,

    /// Method that may pass (repeatable, or a list with commas; default: all but CONNECT and TRACE)
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    pub method: Vec<String>,

    /// Address range or named set that may send: 192.30.252.0/22, 2001:db8::/32, github
    /// (repeatable, or a list with commas)
    #[arg(long, value_name = "CIDR|SET", value_delimiter = ',')]
    pub allow_ip: Vec<String>,

    /// Address range or named set that may not send, whatever else passes (repeatable, or a list
    /// with commas)
    #[arg(long, value_name = "CIDR|SET", value_delimiter = ',')]
    pub deny_ip: Vec<String>,

    /// Token that must stand in the URL (parameter NAME, default `token`) or in a header (NAME is
    /// header:X-Token); env:VAR or file:PATH (repeatable: several are live during a change)
    #[arg(long, value_name = "[NAME=]SECRET")]
    pub token: Vec<String>,

    /// Basic authentication that must be right: env:VAR or file:PATH with user:password
    /// (repeatable)
    #[arg(long, value_name = "SECRET")]
    pub basic: Vec<String>,

    /// Leave the token in the URL that the application sees
    #[arg(long)]
    pub keep_token: bool,

    /// Do not mint a token although nothing else keeps strangers out
    #[arg(long, conflicts_with_all = ["token", "new_token"])]
    pub no_token: bool,

    /// Replace the minted token by a new one
    #[arg(long, conflicts_with = "token")]
    pub new_token: bool,

    /// Signature that must be right, such as github=env:GITHUB_SECRET (repeatable: the same
    /// provider again for a change of secrets, another one as an alternative)
    #[arg(long, value_name = "PROVIDER[/VARIANT][=SECRET]")]
    pub verify: Vec<String>,

    /// Keep the signing secrets here: the relay can't check them, and can't forge a webhook either
    #[arg(long, requires = "verify")]
    pub secret_at_agent: bool,

    /// Scheme and host of the URL as the provider knows it, when it signs the URL and knows another
    /// one
    #[arg(long, value_name = "https://HOST", requires = "verify")]
    pub origin: Option<String>,

    /// Answer the provider's handshakes, so that the application need not know them
    #[arg(long, requires = "verify")]
    pub challenge: bool,

    /// Media type that the body may have, such as application/json (repeatable)
    #[arg(long, value_name = "TYPE")]
    pub content_type: Vec<String>,

    /// Header that must have a value (repeatable: the same name again allows another value)
    #[arg(long, value_name = "NAME=VALUE")]
    pub require_header: Vec<String>,

    /// Value of a JSON body that must be so, such as ref=refs/heads/main (repeatable: the same path
    /// again allows another value)
    #[arg(long, value_name = "PATH=VALUE")]
    pub require_body: Vec<String>,

    /// What happens to a delivery that came within the last three days
    #[arg(long, value_enum)]
    pub on_duplicate: Option<OnDuplicateFlag>,

    /// Most requests of one client address, such as 50/s or 600/m
    #[arg(long, value_name = "RATE")]
    pub client_rate: Option<String>,

    /// Most requests that pass, in all
    #[arg(long, value_name = "RATE")]
    pub rate: Option<String>,

    /// Let WebSockets be opened
    #[arg(long)]
    pub websocket: bool,

    /// Let escaped slashes (%2F) stand below a path's final /**; the application gets them as they
    /// are, and must not take them for the ends of directories
    #[arg(long)]
    pub encoded_slashes: bool,

    /// Wait for the head of the application's answer (default: 60s)
    #[arg(long, value_name = "TIME")]
    pub answer_timeout: Option<String>,
}
