//! Policy flags of `http`, `check` and `explain`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hookward_gate::policy::OnDuplicate;

/// Policy flags that a policy file replaces.
pub(super) const POLICY_FLAGS: [&str; 24] = [
    "path",
    "method",
    "allow_ip",
    "deny_ip",
    "token",
    "basic",
    "keep_token",
    "no_token",
    "new_token",
    "verify",
    "secret_at_agent",
    "origin",
    "challenge",
    "content_type",
    "require_header",
    "require_body",
    "on_duplicate",
    "client_rate",
    "rate",
    "websocket",
    "encoded_slashes",
    "answer_timeout",
    "delivery",
    "order",
];

/// Policy flags.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "What may pass")]
pub(crate) struct PolicyFlags {
    /// Policy file (TOML) instead of the flags below
    #[arg(long, value_name = "FILE", conflicts_with_all = POLICY_FLAGS)]
    pub(crate) policy: Option<PathBuf>,

    /// Path; `*` is one segment, a final `/**` everything below (repeatable; default:
    /// /flexdeploy/webhooks/v1/** and v2)
    #[arg(long, value_name = "PATTERN")]
    pub(crate) path: Vec<String>,

    /// Methods (default: all but CONNECT and TRACE)
    #[arg(long, value_name = "METHOD,…", value_delimiter = ',')]
    pub(crate) method: Vec<String>,

    /// Client addresses: 192.30.252.0/22, 2001:db8::/32, or a named set such as github
    #[arg(
        long,
        value_name = "CIDR|SET,…",
        value_delimiter = ',',
        alias = "cidr-allow"
    )]
    pub(crate) allow_ip: Vec<String>,

    /// Client addresses that are refused; wins over --allow-ip
    #[arg(
        long,
        value_name = "CIDR|SET,…",
        value_delimiter = ',',
        alias = "cidr-deny"
    )]
    pub(crate) deny_ip: Vec<String>,

    /// Token in the URL (default parameter: token) or in header:NAME; env:, file:, cmd: or systemd:
    /// (repeatable)
    #[arg(long, value_name = "[NAME=]SECRET")]
    pub(crate) token: Vec<String>,

    /// Basic authentication; env:, file:, cmd: or systemd: with user:password (repeatable)
    #[arg(long, value_name = "SECRET")]
    pub(crate) basic: Vec<String>,

    /// Forward the token to the application
    #[arg(hide_short_help = true, long)]
    pub(crate) keep_token: bool,

    /// Do not create a token: anyone who knows the URL can send
    #[arg(long, conflicts_with_all = ["token", "new_token"])]
    pub(crate) no_token: bool,

    /// Replace the created token by a new one
    #[arg(hide_short_help = true, long, conflicts_with = "token")]
    pub(crate) new_token: bool,

    /// Signature, such as github=env:GITHUB_SECRET (repeatable: any of them is enough)
    #[arg(long, value_name = "PROVIDER[/VARIANT][=SECRET]")]
    pub(crate) verify: Vec<String>,

    /// Keep signing secrets on this agent: the relay can neither check nor forge
    #[arg(hide_short_help = true, long, requires = "verify")]
    pub(crate) secret_at_agent: bool,

    /// Public scheme and host at the provider, if they differ from the tunnel's
    #[arg(
        hide_short_help = true,
        long,
        value_name = "https://HOST",
        requires = "verify"
    )]
    pub(crate) origin: Option<String>,

    /// Answer the provider's challenges
    #[arg(long, requires = "verify")]
    pub(crate) challenge: bool,

    /// Media type of the body, such as application/json (repeatable)
    #[arg(hide_short_help = true, long, value_name = "TYPE")]
    pub(crate) content_type: Vec<String>,

    /// Header and its value (repeatable: the same name allows another value)
    #[arg(hide_short_help = true, long, value_name = "NAME=VALUE")]
    pub(crate) require_header: Vec<String>,

    /// Value of a JSON body, such as ref=refs/heads/main (repeatable: the same path allows another
    /// value)
    #[arg(hide_short_help = true, long, value_name = "PATH=VALUE")]
    pub(crate) require_body: Vec<String>,

    /// Response to a delivery that came within the last three days
    #[arg(hide_short_help = true, long, value_enum)]
    pub(crate) on_duplicate: Option<OnDuplicateFlag>,

    /// Maximum rate of one client address, such as 50/s or 600/m
    #[arg(hide_short_help = true, long, value_name = "RATE")]
    pub(crate) client_rate: Option<String>,

    /// Maximum rate of accepted requests, in all
    #[arg(hide_short_help = true, long, value_name = "RATE")]
    pub(crate) rate: Option<String>,

    /// Allow WebSockets
    #[arg(hide_short_help = true, long)]
    pub(crate) websocket: bool,

    /// Allow %2F below a path's final /**; the application must not decode it to a slash
    #[arg(hide_short_help = true, long)]
    pub(crate) encoded_slashes: bool,

    /// Wait for the head of the application's response (default: 60s)
    #[arg(hide_short_help = true, long, value_name = "TIME")]
    pub(crate) answer_timeout: Option<String>,

    /// Store webhooks on the relay until the application accepts them: direct (never), queue
    /// (always), or fallback (when it does not respond; the default where possible)
    #[arg(long, value_name = "direct|queue|fallback")]
    pub(crate) delivery: Option<String>,

    /// Order of stored webhooks: none, tunnel, or one for each value of json:PATH, header:NAME,
    /// query:NAME or form:NAME
    #[arg(hide_short_help = true, long, value_name = "ORDER")]
    pub(crate) order: Option<String>,
}

/// Response to a duplicate of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDuplicateFlag {
    /// Refuse it with 403.
    Refuse,
    /// Answer 200, and do not forward it.
    Acknowledge,
    /// Forward it, and report it.
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
