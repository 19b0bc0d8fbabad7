//! Flags of the commands that open tunnels: `http`, `start` and `pair`.

use hookward_core::reason::Reason;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};
use hookward_tunnel::transport::Transport;

use super::{Common, LogFormat, PolicyFlags};
use crate::api::listener::InspectListen;
use crate::exit;
use crate::relay_link::TransportMode;

/// Flags of `hookward http`.
#[derive(Debug, Args)]
#[command(after_help = exit::HTTP_HELP)]
pub(crate) struct HttpArgs {
    /// Port of this machine, HOST:PORT, https://HOST:PORT, or unix:/run/app.sock
    #[arg(value_name = "APPLICATION")]
    pub(crate) application: String,

    #[command(flatten)]
    pub(crate) public: PublicArgs,

    /// Webhook whose URL is printed, below the first path: git/push
    #[arg(long, value_name = "PATH", help_heading = PUBLIC)]
    pub(crate) webhook: Option<String>,

    #[command(flatten)]
    pub(crate) policy: PolicyFlags,

    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,

    #[command(flatten)]
    pub(crate) link: LinkArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags about output, for commands that open tunnels.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output and files")]
pub(crate) struct OutputArgs {
    /// Format of output
    #[arg(long, value_enum, default_value_t)]
    pub(crate) log_format: LogFormat,

    /// File of the log, with the requests
    #[arg(long, value_name = "FILE", value_parser = log_file)]
    pub(crate) log: Option<PathBuf>,

    /// File of the audit log: a record for each request, in a hash chain
    #[arg(hide_short_help = true, long, value_name = "FILE")]
    pub(crate) audit: Option<String>,

    /// Address of the inspector and its API, or "off" (default: 127.0.0.1:4040, or the next free port)
    #[arg(
        hide_short_help = true,
        long,
        value_name = "ADDRESS|off",
        default_value = "true",
        hide_default_value = true,
        alias = "web-addr"
    )]
    pub(crate) inspect: InspectListen,

    /// Keep requests that a check refused in the inspector, with their bodies
    #[arg(
        hide_short_help = true,
        long,
        value_enum,
        value_name = "on|off",
        default_value_t
    )]
    pub(crate) capture_refused: CaptureRefused,

    /// Header field, parameter or JSON member whose value the inspector must not keep
    #[arg(
        hide_short_help = true,
        long,
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub(crate) redact: Vec<String>,
}

/// Handling of refused requests in the inspector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CaptureRefused {
    /// Keeps them.
    #[default]
    On,
    /// Keeps none, because strangers sent them.
    Off,
}

/// Reads the file of the log. ngrok's words for its outputs are no files.
fn log_file(text: &str) -> Result<PathBuf, Reason> {
    match text {
        "" | "stdout" | "stderr" | "false" => Err(
            "requests go to standard output, and diagnostics to standard error; name a file to have both there".into(),
        ),
        path => Ok(path.into()),
    }
}

/// Flags of `hookward start`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct StartArgs {
    /// File with the tunnels
    #[arg(value_name = "FILE", default_value = "hookward.toml")]
    pub(crate) file: PathBuf,

    #[command(flatten)]
    pub(crate) local: LocalArgs,

    #[command(flatten)]
    pub(crate) link: LinkArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of `hookward pair`.
#[derive(Debug, Args)]
#[command(after_help = exit::PAIR_HELP)]
pub(crate) struct PairArgs {
    /// Provider that sends the secret
    #[arg(value_name = "PROVIDER")]
    pub(crate) provider: String,

    /// File for its secret (mode 0600; must not exist)
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,

    #[command(flatten)]
    pub(crate) public: PublicArgs,

    /// Path of the webhook (repeatable; default: the FlexDeploy webhook resource)
    #[arg(long, value_name = "PATTERN", help_heading = PUBLIC)]
    pub(crate) path: Vec<String>,

    #[command(flatten)]
    pub(crate) link: LinkArgs,

    #[command(flatten)]
    pub(crate) output: OutputArgs,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Heading of the flags about the public side.
const PUBLIC: &str = "Public URL";

/// Flags about the public side of one tunnel.
#[derive(Debug, Args)]
#[command(next_help_heading = PUBLIC)]
pub(crate) struct PublicArgs {
    /// Public host: a label under the relay's domain, or a whole host name
    #[arg(
        long,
        value_name = "NAME",
        value_parser = host,
        aliases = ["url", "domain", "hostname", "subdomain"],
    )]
    pub(crate) host: Option<String>,

    #[command(flatten)]
    pub(crate) local: LocalArgs,
}

/// Removes the scheme and the path of ngrok's `--url` around a host.
fn host(text: &str) -> Result<String, Reason> {
    let host = text.strip_prefix("https://").unwrap_or(text);
    Ok(host.strip_suffix('/').unwrap_or(host).to_owned())
}

/// Flags of the relay inside the agent's process.
#[derive(Debug, Args)]
#[command(next_help_heading = PUBLIC)]
pub(crate) struct LocalArgs {
    /// Run a relay inside this process, to try it on one machine
    #[arg(
        long = "local",
        value_name = "ADDRESS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "127.0.0.1:8443",
    )]
    pub(crate) address: Option<SocketAddr>,
}

/// Flags of the connection from the agent to the application.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Application")]
pub struct UpstreamArgs {
    /// Certificates (PEM) to trust beside the system's, for https
    #[arg(
        hide_short_help = true,
        long,
        value_name = "FILE",
        conflicts_with = "upstream_insecure"
    )]
    pub upstream_ca: Option<PathBuf>,

    /// Do not verify the application's certificate
    #[arg(hide_short_help = true, long)]
    pub upstream_insecure: bool,

    /// The application speaks HTTP/2 (in clear text: from the first byte)
    #[arg(hide_short_help = true, long)]
    pub upstream_http2: bool,

    /// Host field: the public host, the application's own address, or this
    #[arg(
        hide_short_help = true,
        long,
        value_name = "preserve|rewrite|HOST",
        default_value = "preserve",
        alias = "host-header"
    )]
    pub upstream_host: String,
}

/// Flags of the connections to relays.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tunnel")]
pub(crate) struct LinkArgs {
    /// Transport to the relay
    #[arg(long, value_enum, default_value_t)]
    pub(crate) transport: TransportFlag,

    /// Connections to each relay, 1 to 8 (default: 2 for each of its addresses, at most 4)
    #[arg(hide_short_help = true, long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) connections: Option<u8>,

    /// Share the tunnel with other agents that set this flag
    #[arg(hide_short_help = true, long, alias = "pooling-enabled")]
    pub(crate) pool: bool,

    /// Seconds without traffic before a connection is closed
    #[arg(
        hide_short_help = true,
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u16).range(2..=600),
    )]
    pub(crate) idle_timeout: u16,
}

/// Transport to a relay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TransportFlag {
    /// QUIC, or TLS over TCP while UDP is blocked.
    #[default]
    Auto,
    /// QUIC over UDP only.
    Quic,
    /// TLS over TCP only, through an HTTP proxy if HTTPS_PROXY names one.
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

/// A tunnel of a file.
pub(crate) struct FileTunnel {
    pub(crate) application: String,
    pub(crate) upstream: UpstreamArgs,
    pub(crate) host: Option<String>,
    pub(crate) webhook: Option<String>,
    pub(crate) policy: PolicyFlags,
}

impl HttpArgs {
    /// Returns the flags for a tunnel of a file, as if given on a command line.
    pub(crate) fn from_file(tunnel: FileTunnel, start: &StartArgs) -> Self {
        Self {
            application: tunnel.application,
            upstream: tunnel.upstream,
            public: PublicArgs {
                host: tunnel.host,
                local: LocalArgs {
                    address: start.local.address,
                },
            },
            webhook: tunnel.webhook,
            policy: tunnel.policy,
            link: start.link.clone(),
            output: start.output.clone(),
            common: Common {
                state_dir: start.common.state_dir.clone(),
            },
        }
    }
}
