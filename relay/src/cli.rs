//! The command line of `hookward-relay`.

use hookward_core::reason::Reason;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};
use hookward_cli::OutputFormat;
use hookward_cli::deliveries::{DeliveriesCommand as SharedDeliveriesCommand, FilterArgs};
use hookward_cli::environment::{self, GivenFlag};
use hookward_cli::help::{CompletionsArgs, ManArgs};
use hookward_core::diagnostics::{parse_duration, parse_size};
use hookward_core::limits::Limits;
use hookward_core::names::HostName;
use hookward_core::rate::Rate;
use hookward_gate::policy::DeliveryMode;
use hookward_observe::audit::{KeptHead, RawAudit};

use crate::settings::{RawAcme, RawSettings};
use crate::storage::agents::prefix_pattern;

/// Exit codes, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done, or stopped by SIGINT or SIGTERM
  1  a port, a file, a certificate or the baseline policy failed
  2  wrong command line or settings; nothing was started
  3  the audit log is not intact

Environment:
  HOOKWARD_LOG     log on standard error: info (default), debug, or info,requests=debug
  HOOKWARD_(FLAG)  flags of serve: HOOKWARD_DOMAIN for --domain, HOOKWARD_LOG_FILE for --log; a flag wins
  HOOKWARD_DATA_DIR  data directory of every command";

/// Exit codes of the commands that read from a running relay.
const QUERY_EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  no relay is running with this data directory, or it did not answer
  2  wrong command line";

/// Exit codes of `hookward-relay audit verify`.
const VERIFY_EXIT_CODES: &str = "\
Exit codes:
  0  the audit log is intact
  1  a file is unreadable
  2  wrong command line
  3  the audit log is not intact";

/// Example and settings, for `hookward-relay serve --help`.
fn serve_help() -> String {
    let mut help = String::from(
        "\
Example:
  hookward-relay serve --domain hooks.example.com --certificate chain.pem --key key.pem

Settings file (TOML), beside a key for each flag above:
  forwarded      field of trusted proxies: x-forwarded-for (default) or forwarded
  [hosts]        reserved hosts: \"hooks.example.com\" = \"flexdeploy\"
  [fetch]        hosts, ca: keys that policies may fetch
  [fetch.resolve]  fixed addresses: \"api.github.com\" = \"10.0.0.5:443\"
  [limits]       the limits below

Limits, with their defaults:
",
    );
    for (name, default, meaning) in Limits::table() {
        help.push_str(&format!("  {name} = {default}\n      {meaning}\n"));
    }

    help + "\n" + EXIT_CODES
}

/// Receives webhooks for applications inside your network, checks them, and forwards what is allowed
#[derive(Debug, Parser)]
#[command(name = "hookward-relay", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Flags and variables that the user has given.
    #[arg(skip)]
    pub(crate) given: Vec<GivenFlag>,
}

/// Commands whose flags may come from the environment.
const WITH_VARIABLES: [&str; 3] = ["serve", "config check", "config show"];

impl Cli {
    /// Parses the command line of this process, and the environment. Ends the process after an error,
    /// `--help` or `--version`.
    #[must_use]
    pub fn from_process() -> Self {
        let parse = || {
            let args = std::env::args_os();
            let matches = environment::parse(Self::command(), &WITH_VARIABLES, args)?;
            let command = environment::with_variables(Self::command(), &WITH_VARIABLES);
            let mut cli = Self::from_arg_matches(&matches)?;
            cli.given = environment::given(&command, &matches);
            Ok(cli)
        };
        parse().unwrap_or_else(|error: clap::Error| error.exit())
    }

    /// Returns the format of the log and of errors.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Serve(args) => args.log_format,
            Command::Agent(_)
            | Command::Audit(_)
            | Command::Config(_)
            | Command::Deliveries(_)
            | Command::Storage(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::Status(_) => LogFormat::Text,
        }
    }
}

/// Commands of `hookward-relay`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve senders over HTTPS, and agents over QUIC
    Serve(Box<ServeArgs>),
    /// Add, limit and revoke agents
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Check and explain the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the state of the running relay
    Status(StatusArgs),
    /// List stored webhooks, deliver them again, or delete them
    #[command(subcommand)]
    Deliveries(DeliveriesCommand),
    /// Check, copy or shrink the databases
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write man pages
    Man(ManArgs),
}

/// Format of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// Flags of `hookward-relay serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES, after_long_help = serve_help())]
pub(crate) struct ServeArgs {
    /// Settings file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Public domain; tunnels have hosts below it
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,

    /// Address and port for HTTPS (TCP) and the tunnel (UDP) (default: [::]:443)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// Port that senders use, behind a port forward (default: the listening port)
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub public_port: Option<u16>,

    /// Address that join tokens name (default: the domain and the public port)
    #[arg(long, value_name = "HOST:PORT")]
    pub tunnel_address: Option<String>,

    /// Directory of identity, agents and certificates (default: /var/lib/hookward)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Certificate chain (PEM) for HTTPS; self-signed without it
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Get certificates from Let's Encrypt; the address is for its warnings
    #[arg(long, value_name = "EMAIL", conflicts_with_all = ["certificate", "key"])]
    pub acme: Option<String>,

    /// Another ACME server: letsencrypt-staging, or the https:// URL of its directory
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,

    /// Certificate (PEM) of a private ACME server's authority
    #[arg(long, value_name = "FILE")]
    pub acme_ca: Option<PathBuf>,

    /// Address for plain HTTP, such as [::]:80: ACME challenges, and explanations
    #[arg(long, value_name = "ADDRESS")]
    pub http_listen: Option<String>,

    /// Proxy whose statement about client addresses counts (repeatable)
    #[arg(long, value_name = "CIDR")]
    pub trusted_proxy: Vec<String>,

    /// Trusted proxies speak the PROXY protocol, version 1 or 2
    #[arg(long, requires = "trusted_proxy")]
    pub proxy_protocol: bool,

    /// Policy file that every request must pass before its tunnel's; reread when it changes
    #[arg(long, value_name = "FILE")]
    pub baseline_policy: Option<PathBuf>,

    /// Reserve an exact host, such as the bare domain, for an agent (repeatable)
    #[arg(long, value_name = "HOST=AGENT", value_parser = parse_pair)]
    pub reserve_host: Vec<(String, String)>,

    /// Loopback address of the admin API, or "off" (default: 127.0.0.1:4041)
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,

    /// Address of /livez, /readyz and /metrics for other machines
    #[arg(long, value_name = "ADDRESS")]
    pub monitoring: Option<String>,

    /// File of the audit log, or "off" (default: audit.log in the data directory)
    #[arg(long, value_name = "FILE")]
    pub audit: Option<String>,

    /// Rename damaged files and create new ones; agents must join again after a loss of relay.db or identity.pem
    #[arg(long)]
    pub reset: bool,

    /// Format of the log
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// File of the log, instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

/// Commands of `hookward-relay config`.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Find all mistakes of settings, certificate and baseline policy, and start nothing
    Check(Box<ServeArgs>),
    /// Print the settings in force, and the origin of each value
    Show(Box<ConfigShowArgs>),
    /// Print a commented settings file with all keys
    Example,
    /// Print the JSON Schema of the settings file, for editors
    Schema,
}

/// Arguments of `hookward-relay config show`.
#[derive(Debug, Args)]
pub(crate) struct ConfigShowArgs {
    #[command(flatten)]
    pub settings: ServeArgs,

    /// Format of the list
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
}

/// Commands of `hookward-relay agent`.
#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Print a join token for an agent of this name, and limit what it may open
    Add(ScopedAgentArgs),
    /// Change what an agent may open
    Set(ScopedAgentArgs),
    /// Let an agent replace its credential, and end the old one after the overlap
    Rotate(RotateArgs),
    /// Withdraw an agent's credentials; its sessions end within a second, and it keeps its hosts
    Revoke(AgentArgs),
    /// Revoke an agent, and free its hosts
    Remove(AgentArgs),
    /// List agents: state, address, transport, round-trip time, version, hosts, limits
    List(ListArgs),
}

/// Arguments of `hookward-relay agent add` and `set`.
#[derive(Debug, Args)]
#[command(after_help = SCOPE_EXAMPLE)]
pub(crate) struct ScopedAgentArgs {
    #[command(flatten)]
    pub agent: AgentArgs,
    #[command(flatten)]
    pub scope: ScopeArgs,
}

/// Example of limits.
const SCOPE_EXAMPLE: &str = "\
Example:
  hookward-relay agent add jira --host jira.hooks.example.com --path /rest/webhooks --expires 90d
  hookward-relay agent set jira --rate 50/s

A limit replaces an earlier one of the same kind. The others stay, unless --unlimited is given.";

/// Limits of an agent.
#[derive(Debug, Args)]
pub(crate) struct ScopeArgs {
    /// Host that the agent may open, and no others (repeatable); it is the agent's at once
    #[arg(long, value_name = "FQDN", value_parser = parse_host)]
    pub host: Vec<HostName>,

    /// Path prefix of its routes, and no others (repeatable)
    #[arg(long, value_name = "PREFIX", value_parser = parse_prefix)]
    pub path: Vec<String>,

    /// Delivery modes of its routes: direct, queue, fallback
    #[arg(long, value_name = "MODE,…", value_delimiter = ',', value_parser = DeliveryMode::parse)]
    pub delivery: Vec<DeliveryMode>,

    /// Maximum rate of each of its tunnels, such as 100/s
    #[arg(long, value_name = "RATE", value_parser = Rate::parse)]
    pub rate: Option<Rate>,

    /// Maximum size of a body that a check reads, such as 1MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_body: Option<u64>,

    /// Maximum number of hosts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub max_hosts: Option<u32>,

    /// Life of its credentials, such as 90d; the agent renews them after two thirds
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    pub expires: Option<Duration>,

    /// Remove all limits that are not given
    #[arg(long)]
    pub unlimited: bool,
}

/// Arguments of `hookward-relay agent rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub agent: AgentArgs,

    /// Time for which the old credential stays valid
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = overlap)]
    pub overlap: Duration,
}

/// Arguments of `hookward-relay agent list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub data_dir: DataDir,

    /// Format of the list
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
}

/// Arguments of `hookward-relay status`.
#[derive(Debug, Args)]
#[command(after_help = QUERY_EXIT_CODES)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub data_dir: DataDir,

    /// Repeat every 2 s
    #[arg(long)]
    pub watch: bool,

    /// Format of the status
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
}

/// Commands of `hookward-relay storage`.
#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Check every page, row and index of the databases
    Check(StorageArgs),
    /// Copy the databases and the relay's key to a new directory, also while the relay runs
    Backup(BackupArgs),
    /// Give free pages back to the disk
    Vacuum(StorageArgs),
}

/// Arguments of `hookward-relay storage check` and `vacuum`.
#[derive(Debug, Args)]
pub(crate) struct StorageArgs {
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// Arguments of `hookward-relay storage backup`.
#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// Directory of the copies; files in it are not overwritten
    pub directory: PathBuf,

    #[command(flatten)]
    pub data_dir: DataDir,
}

/// Commands of `hookward-relay deliveries`.
#[derive(Debug, Subcommand)]
pub(crate) enum DeliveriesCommand {
    #[command(flatten)]
    Shared(SharedDeliveriesCommand<DataDir>),
    /// Write webhooks to a file, one JSON object a line
    #[command(after_help = QUERY_EXIT_CODES)]
    Export(ExportArgs),
    /// Store the webhooks of a complete export, and deliver them
    #[command(after_help = QUERY_EXIT_CODES)]
    Import(ImportArgs),
}

/// Arguments of `hookward-relay deliveries export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// File to create; an existing one is not overwritten
    pub file: PathBuf,

    #[command(flatten)]
    pub filter: FilterArgs,

    /// Include tokens, signatures and the whole body, so that the file can be imported
    #[arg(long)]
    pub complete: bool,

    #[command(flatten)]
    pub data_dir: DataDir,
}

/// Arguments of `hookward-relay deliveries import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// File of `deliveries export --complete`
    pub file: PathBuf,

    #[command(flatten)]
    pub data_dir: DataDir,
}

/// Commands of `hookward-relay audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find records that were changed, removed, inserted or cut off
    Verify(VerifyArgs),
}

/// Arguments of `hookward-relay audit verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_EXIT_CODES)]
pub(crate) struct VerifyArgs {
    /// Files of one audit log, in any order
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Last record as another system kept it: the log line audit_head, a metric, or the status (repeatable)
    #[arg(long, value_name = "SEQ:HASH")]
    pub last: Vec<KeptHead>,

    /// Number of the first record, if earlier files are elsewhere
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,

    /// Format of the report
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,
}

/// Name of an agent, and the relay's data.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Name of the agent; without --host also the first label of its public host
    pub name: String,
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// Directory of the relay's data.
#[derive(Debug, Args)]
pub(crate) struct DataDir {
    /// Directory of identity, agents and certificates
    #[arg(long, value_name = "DIR", env = "HOOKWARD_DATA_DIR", default_value = crate::settings::DATA_DIR)]
    pub data_dir: PathBuf,
}

impl ServeArgs {
    /// Returns the flags as settings.
    pub(crate) fn written(&self) -> RawSettings {
        RawSettings {
            domain: self.domain.clone(),
            listen: self.listen.clone(),
            public_port: self.public_port,
            tunnel_address: self.tunnel_address.clone(),
            data_dir: self.data_dir.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            acme: RawAcme {
                email: self.acme.clone(),
                directory: self.acme_directory.clone(),
                ca: self.acme_ca.clone(),
                http_listen: self.http_listen.clone(),
                ..RawAcme::default()
            },
            trusted_proxies: self.trusted_proxy.clone(),
            hosts: self.reserve_host.clone(),
            proxy_protocol: self.proxy_protocol.then_some(true),
            baseline_policy: self.baseline_policy.clone(),
            admin: self.admin.clone(),
            monitoring: self.monitoring.clone(),
            audit: RawAudit::default().with_file(self.audit.clone()),
            reset: self.reset,
            ..RawSettings::default()
        }
    }
}

fn parse_host(text: &str) -> Result<HostName, Reason> {
    HostName::parse(text)
        .ok_or_else(|| format!("{text:?} is not a host name such as jira.hooks.example.com").into())
}

fn parse_prefix(text: &str) -> Result<String, Reason> {
    match prefix_pattern(text) {
        Some(_) if text.starts_with('/') && !text.contains('*') => Ok(text.to_owned()),
        _ => Err(format!("{text:?} is not a path prefix such as /rest/webhooks").into()),
    }
}

fn size(text: &str) -> Result<u64, Reason> {
    parse_size(text).ok_or_else(|| format!("{text:?} is not a size such as 64KiB or 1MiB").into())
}

fn lifetime(text: &str) -> Result<Duration, Reason> {
    let life = parse_duration(text).filter(|life| *life >= MIN_CREDENTIAL_LIFE);
    life.ok_or_else(|| {
        format!("{text:?} is not a life of 10 minutes or more, such as 12h or 90d").into()
    })
}

/// Minimum life of a credential: the last third has room for three requests to renew it, one a minute.
const MIN_CREDENTIAL_LIFE: Duration = Duration::from_secs(600);

fn overlap(text: &str) -> Result<Duration, Reason> {
    parse_duration(text)
        .ok_or_else(|| format!("{text:?} is not a duration such as 10m, 24h or 7d").into())
}

fn parse_pair(text: &str) -> Result<(String, String), Reason> {
    let (host, agent) = text
        .split_once('=')
        .ok_or("write HOST=AGENT, such as hooks.example.com=flexdeploy")?;
    Ok((host.to_owned(), agent.to_owned()))
}
