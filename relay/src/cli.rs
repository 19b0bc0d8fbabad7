//! The command line of `hookward-relay`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::settings::RawSettings;

/// What `--help` says about exit codes.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  ended as asked (also by SIGINT or SIGTERM)
  1  something failed: a port, a file, a certificate
  2  the command line or the settings are wrong; nothing was started";

/// Takes webhooks for applications inside your network, checks them, and passes on what is allowed.
#[derive(Debug, Parser)]
#[command(name = "hookward-relay", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Returns the format of the log and of errors.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        match &self.command {
            Command::Serve(args) => args.log_format,
            Command::Agent(_) => LogFormat::Text,
        }
    }
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: HTTPS for senders, QUIC for agents
    Serve(Box<ServeArgs>),
    /// The agents that may connect
    #[command(subcommand)]
    Agent(AgentCommand),
}

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// `hookward-relay serve`.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ServeArgs {
    /// Settings file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The public domain; tunnels are one label below it
    #[arg(long, value_name = "NAME")]
    pub domain: Option<String>,

    /// Address and port for HTTPS (TCP) and the tunnel (UDP) (default: port 443 on all addresses)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// The port in public URLs, when it is not the listener's own
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub public_port: Option<u16>,

    /// Under which agents reach this relay (default: the domain and the public port)
    #[arg(long, value_name = "HOST:PORT")]
    pub tunnel_address: Option<String>,

    /// Where identity, agents and certificates are kept (default: /var/lib/hookward)
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Certificate chain (PEM) for HTTPS; self-signed without it
    #[arg(long, value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Network whose X-Forwarded-For is believed (repeatable)
    #[arg(long, value_name = "CIDR")]
    pub trusted_proxy: Vec<String>,

    /// Connections of trusted proxies begin with the PROXY protocol, version 1 or 2
    #[arg(long, requires = "trusted_proxy")]
    pub proxy_protocol: bool,

    /// A policy (TOML) that every request must pass before its tunnel's own; read again when it
    /// changes
    #[arg(long, value_name = "FILE")]
    pub baseline_policy: Option<PathBuf>,

    /// Give an exact host (the bare domain, a CNAME) to an agent (repeatable)
    #[arg(long, value_name = "HOST=AGENT", value_parser = parse_pair)]
    pub reserve_host: Vec<(String, String)>,

    /// Begin anew where the data directory is damaged or incomplete: what is damaged is set aside,
    /// and every agent has to join again
    #[arg(long)]
    pub reset: bool,

    /// How lines are written
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// `hookward-relay agent`.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Print a join token for an agent of this name
    Add(AgentArgs),
    /// Withdraw an agent's credential; its session ends within seconds
    Remove(AgentArgs),
    /// Show all agents
    List(DataDir),
}

/// An agent, by name.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Its name, which is also the first label of its public host
    pub name: String,
    /// Where the relay keeps its data
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// Where the relay keeps its data.
#[derive(Debug, Args)]
pub struct DataDir {
    /// Where identity, agents and certificates are kept
    #[arg(long, value_name = "DIR", default_value = crate::settings::DATA_DIR)]
    pub data_dir: PathBuf,
}

impl ServeArgs {
    /// The flags as settings.
    #[must_use]
    pub fn written(&self) -> RawSettings {
        RawSettings {
            domain: self.domain.clone(),
            listen: self.listen.clone(),
            public_port: self.public_port,
            tunnel_address: self.tunnel_address.clone(),
            data_dir: self.data_dir.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            trusted_proxies: self.trusted_proxy.clone(),
            hosts: self.reserve_host.clone(),
            proxy_protocol: self.proxy_protocol.then_some(true),
            baseline_policy: self.baseline_policy.clone(),
            reset: self.reset,
            ..RawSettings::default()
        }
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (host, agent) = text
        .split_once('=')
        .ok_or("write HOST=AGENT, such as hooks.example.com=flexdeploy")?;
    Ok((host.to_owned(), agent.to_owned()))
}
