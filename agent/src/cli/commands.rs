//! Flags of the commands that open no tunnel.

use hookward_core::reason::Reason;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use hookward_observe::audit::KeptHead;
use hookward_tunnel::transport::identity::Pin;

use super::policy::POLICY_FLAGS;
use super::tunnel::{StartArgs, TransportFlag};
use super::{Common, LogFormat, PolicyFlags, UpstreamArgs};
use crate::exit;

/// Flags of `hookward join`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct JoinArgs {
    /// `-` for standard input, a file, or the token itself (visible to every process)
    #[arg(value_name = "-|FILE|TOKEN")]
    pub(crate) token: String,

    /// Forget the other relays of this agent
    #[arg(long)]
    pub(crate) replace: bool,

    /// Transport to the relay
    #[arg(long, value_enum, default_value_t)]
    pub(crate) transport: TransportFlag,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Commands of `hookward config`.
#[derive(Debug, Subcommand)]
#[command(after_help = exit::HELP)]
pub(crate) enum ConfigCommand {
    /// Find all mistakes of the file and of its policies, and open nothing
    Check(StartArgs),
    /// Print the settings of each tunnel, and the origin of each value
    Show(StartArgs),
    /// Print a commented file with all keys
    Example,
    /// Print the JSON Schema of the file, for editors
    Schema,
}

/// Arguments of `hookward import-ngrok`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct ImportNgrokArgs {
    /// Configuration file of ngrok
    #[arg(value_name = "ngrok.yml")]
    pub(crate) file: PathBuf,

    /// Directory of the files to write; existing ones are not overwritten
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) out: PathBuf,
}

/// Arguments of `hookward trust`.
#[derive(Debug, Args)]
#[command(after_help = exit::HELP)]
pub(crate) struct TrustArgs {
    /// Certificate of the relay (default: that of `hookward http --local`)
    #[arg(value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Commands of `hookward pin`.
#[derive(Debug, Subcommand)]
#[command(after_help = exit::HELP)]
pub(crate) enum PinCommand {
    /// List relays and the keys that the agent accepts from them
    List(Common),
    /// Accept a second key, when a relay gets another one
    Add(PinArgs),
    /// Accept a key no more
    Remove(PinArgs),
}

/// Arguments of `hookward pin add` and `remove`.
#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// Pin of the key, as `hookward-relay status` shows it
    pub(crate) pin: Pin,

    /// Address of the relay, if the agent has joined several
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) relay: Option<String>,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of `hookward status`.
#[derive(Debug, Args)]
#[command(after_help = exit::STATUS_HELP)]
pub(crate) struct StatusArgs {
    /// Repeat every 2 s
    #[arg(long)]
    pub(crate) watch: bool,

    /// Format of the status
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: LogFormat,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Commands of `hookward audit`.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Find records that were changed, removed, inserted or cut off
    Verify(VerifyArgs),
}

/// Arguments of `hookward audit verify`.
#[derive(Debug, Args)]
#[command(after_help = exit::VERIFY_HELP)]
pub(crate) struct VerifyArgs {
    /// Files of one audit log, in any order
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Last record as another system kept it: the log line audit_head, a metric, or the status (repeatable)
    #[arg(long, value_name = "SEQ:HASH")]
    pub(crate) last: Vec<KeptHead>,

    /// Number of the first record, if earlier files are elsewhere
    #[arg(long, value_name = "SEQ")]
    pub(crate) from: Option<u64>,

    /// Format of the report
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: LogFormat,
}

/// Flags of `hookward diagnose`.
#[derive(Debug, Args)]
#[command(after_help = exit::DIAGNOSE_HELP)]
pub(crate) struct DiagnoseArgs {
    /// Application to test, too
    #[arg(value_name = "APPLICATION")]
    pub(crate) application: Option<String>,

    /// Relay that this agent has not joined
    #[arg(long, value_name = "HOST:PORT", value_parser = relay_address)]
    pub(crate) relay: Option<String>,

    #[command(flatten)]
    pub(crate) upstream: UpstreamArgs,

    /// Format of the findings
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: LogFormat,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags of `hookward providers`.
#[derive(Debug, Args)]
#[command(after_help = exit::PROVIDERS_HELP, args_conflicts_with_subcommands = true)]
pub(crate) struct ProvidersArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ProvidersCommand>,

    /// Provider to show, as with `show`
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// Commands of `hookward providers`.
#[derive(Debug, Subcommand)]
pub(crate) enum ProvidersCommand {
    /// Show what is signed, and how to set a provider up
    Show {
        /// Id of the provider, or another of its names; `-` and `_` are alike
        name: String,
    },
}

/// Flags of `hookward check`.
#[derive(Debug, Args)]
#[command(after_help = exit::CHECK_HELP)]
pub(crate) struct CheckArgs {
    /// Policy file, as with --policy
    #[arg(value_name = "FILE", conflicts_with = "policy", conflicts_with_all = POLICY_FLAGS)]
    pub(crate) file: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) policy: PolicyFlags,
}

/// Flags of `hookward explain`.
#[derive(Debug, Args)]
#[command(after_help = exit::EXPLAIN_HELP)]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    pub(crate) policy: PolicyFlags,

    #[command(flatten)]
    pub(crate) request: RequestArgs,

    /// Format of the explanation
    #[arg(long, value_enum, default_value_t, help_heading = "Output and files")]
    pub(crate) format: LogFormat,

    #[command(flatten)]
    pub(crate) common: Common,
}

/// Flags that describe a request.
#[derive(Debug, Args)]
#[command(next_help_heading = "Request")]
pub(crate) struct RequestArgs {
    /// Raw HTTP/1.1 bytes: a file, or `-` for standard input
    #[arg(long, value_name = "FILE|-")]
    pub(crate) request: Option<String>,

    /// Public URL that it was sent to
    #[arg(long, value_name = "URL", required_unless_present = "request")]
    pub(crate) url: Option<String>,

    /// Method (default: POST with --data, else GET)
    #[arg(short = 'X', long, value_name = "METHOD", conflicts_with = "request")]
    pub(crate) send_method: Option<String>,

    /// Header field, `NAME: VALUE` (repeatable)
    #[arg(short = 'H', long, value_name = "FIELD", conflicts_with = "request")]
    pub(crate) header: Vec<String>,

    /// Body: the text itself, `@FILE`, or `@-` for standard input; every byte counts
    #[arg(
        short = 'd',
        long,
        value_name = "TEXT|@FILE",
        conflicts_with = "request"
    )]
    pub(crate) data: Option<String>,

    /// Client address that it comes from
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) peer: IpAddr,

    /// Time of the check, in seconds since 1970 (default: now)
    #[arg(long, value_name = "SECONDS")]
    pub(crate) now: Option<u64>,
}

/// Flags of `hookward send`.
#[derive(Debug, Args)]
#[command(after_help = exit::SEND_HELP)]
pub(crate) struct SendArgs {
    /// Webhook URL
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// Provider to sign as, with a variant behind a slash
    #[arg(long, value_name = "PROVIDER[/VARIANT]")]
    pub(crate) provider: String,

    /// Secret, or private key in PEM: env:NAME, file:PATH, cmd:COMMAND or systemd:NAME
    #[arg(long, value_name = "SECRET")]
    pub(crate) secret: String,

    /// Body: the text itself, `@FILE`, or `@-` for standard input; every byte counts
    #[arg(short = 'd', long, value_name = "TEXT|@FILE", default_value = "{}")]
    pub(crate) data: String,

    /// Method
    #[arg(
        short = 'X',
        long = "method",
        alias = "send-method",
        value_name = "METHOD",
        default_value = "POST"
    )]
    pub(crate) method: String,

    /// Header field, `NAME: VALUE` (repeatable; default: the provider's Content-Type)
    #[arg(short = 'H', long, value_name = "FIELD")]
    pub(crate) header: Vec<String>,

    /// Certificates (PEM) to trust beside the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,

    /// Address to connect to instead of the URL's host, before DNS knows it
    #[arg(long, value_name = "HOST:PORT", value_parser = relay_address)]
    pub(crate) connect_to: Option<String>,

    /// Print the signed request instead of sending it
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Reads host and port of a relay.
fn relay_address(text: &str) -> Result<String, Reason> {
    const WRITE: &str = "write HOST:PORT, such as relay.example.com:443";

    let (host, port) = text.rsplit_once(':').ok_or(WRITE)?;
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or("a port is a number from 1 to 65535")?;

    if host.is_empty() || host.contains(['/', '@']) {
        return Err(WRITE.to_owned().into());
    }

    Ok(format!("{host}:{port}"))
}
