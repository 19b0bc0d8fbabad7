//! Arguments of the commands. `L` locates the program that is called.

use clap::{Args, Subcommand, ValueEnum};
use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::diagnostics::parse_duration;
use hookward_core::reason::Reason;
use hookward_observe::api::deliveries::FilterQuery;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use crate::OutputFormat;

/// Exit codes, for `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  no program is running with this directory, or it did not answer as expected
  2  wrong command line";

/// Commands on stored webhooks.
#[derive(Debug, Subcommand)]
pub enum DeliveriesCommand<L: Args> {
    /// List stored webhooks, newest first
    #[command(after_help = EXIT_CODES)]
    List(ListArgs<L>),
    /// Show one stored webhook with its content, without secrets
    #[command(after_help = EXIT_CODES)]
    Show(ShowArgs<L>),
    /// Deliver webhooks again, whatever their state
    #[command(after_help = EXIT_CODES)]
    Redeliver(ChangeArgs<L>),
    /// Delete the content of webhooks; they are not tried any more
    #[command(after_help = EXIT_CODES)]
    Drop(ChangeArgs<L>),
    /// Stop the attempts of a tunnel; webhooks are still stored
    #[command(after_help = EXIT_CODES)]
    Pause(PauseArgs<L>),
    /// Make the attempts of a tunnel again
    #[command(after_help = EXIT_CODES)]
    Resume(PauseArgs<L>),
}

/// Conditions for deliveries; all must hold.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Public host of the tunnel
    #[arg(long, value_name = "HOST")]
    pub tunnel: Option<String>,

    /// Name of the route
    #[arg(long, value_name = "NAME")]
    pub route: Option<String>,

    /// Provider, such as github
    #[arg(long, value_name = "ID")]
    pub provider: Option<String>,

    /// Type of the event, such as push
    #[arg(long, value_name = "TYPE")]
    pub event: Option<String>,

    /// State
    #[arg(long, value_enum)]
    pub state: Option<StateFlag>,

    /// Received since: a time such as 2026-12-01T08:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub since: Option<UnixMillis>,

    /// Received before: as --since
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub until: Option<UnixMillis>,

    /// Text in the body or in the last error
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
}

/// State of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StateFlag {
    /// Waiting for its next attempt.
    Pending,
    /// Accepted by the application.
    Delivered,
    /// Given up.
    Dead,
    /// Deleted by hand.
    Dropped,
}

/// Arguments of `deliveries list`.
#[derive(Debug, Args)]
pub struct ListArgs<L: Args> {
    /// Conditions.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Maximum number of webhooks
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub limit: usize,

    /// Format of the list
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,

    /// Program to call.
    #[command(flatten)]
    pub location: L,
}

/// Arguments of `deliveries show`.
#[derive(Debug, Args)]
pub struct ShowArgs<L: Args> {
    /// Id, as in the header hookward-delivery-id
    pub id: Uuid,

    /// Format of the webhook
    #[arg(long, value_enum, default_value_t)]
    pub format: OutputFormat,

    /// Program to call.
    #[command(flatten)]
    pub location: L,
}

/// Arguments of `deliveries redeliver` and `deliveries drop`.
#[derive(Debug, Args)]
pub struct ChangeArgs<L: Args> {
    /// Id of one webhook, instead of conditions
    pub id: Option<Uuid>,

    /// Conditions.
    #[command(flatten)]
    pub filter: FilterArgs,

    /// Maximum number of webhooks a second
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub rate: u64,

    /// Program to call.
    #[command(flatten)]
    pub location: L,
}

/// Arguments of `deliveries pause` and `deliveries resume`.
#[derive(Debug, Args)]
pub struct PauseArgs<L: Args> {
    /// Public host of the tunnel
    pub tunnel: String,

    /// Program to call.
    #[command(flatten)]
    pub location: L,
}

impl FilterArgs {
    /// Returns the conditions as the API reads them.
    #[must_use]
    pub fn query(self, id: Option<Uuid>) -> FilterQuery {
        let state = self.state.map(|state| match state {
            StateFlag::Pending => "pending",
            StateFlag::Delivered => "delivered",
            StateFlag::Dead => "dead",
            StateFlag::Dropped => "dropped",
        });
        FilterQuery {
            id,
            tunnel: self.tunnel,
            route: self.route,
            provider: self.provider,
            event: self.event,
            state: state.map(str::to_owned),
            since_ms: self.since.map(|since| since.0),
            until_ms: self.until.map(|until| until.0),
            text: self.text,
            ..FilterQuery::default()
        }
    }
}

/// Parses a time, or a duration before now.
fn parse_time(text: &str) -> Result<UnixMillis, Reason> {
    if let Some(ago) = parse_duration(text) {
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        return Ok(UnixMillis(Clock::System.now().0.saturating_sub(ago)));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        format!("{text:?} is neither a time such as 2026-12-01T08:00:00Z nor a duration such as 2h")
    })?;
    let millis = time.unix_timestamp_nanos() / 1_000_000;
    Ok(UnixMillis(u64::try_from(millis).unwrap_or_default()))
}
