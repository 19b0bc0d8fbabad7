//! `hookward-relay deliveries …` lists and changes the stored webhooks of the running relay.

use std::time::Duration;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::text::printable;
use hookward_observe::table::{self, span};
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::sleep;
use uuid::Uuid;

use super::status::{call, get};
use crate::admin::deliveries::{
    DeliveryContent, DeliveryPage, DeliveryStatus, FilterQuery, JobStatus,
};
use crate::admin::status::Done;
use crate::cli::{
    ChangeDeliveriesArgs, DeliveriesCommand, DeliveryFilterArgs, DeliveryStateFlag,
    ListDeliveriesArgs, OutputFormat, PauseArgs, ShowDeliveryArgs,
};
use crate::commands::{CommandError, say};

/// Runs the command.
///
/// # Errors
/// [`CommandError`].
pub(super) async fn run(command: DeliveriesCommand) -> Result<(), CommandError> {
    match command {
        DeliveriesCommand::List(args) => list(args).await,
        DeliveriesCommand::Show(args) => show(args).await,
        DeliveriesCommand::Redeliver(args) => change(args, "redeliver").await,
        DeliveriesCommand::Drop(args) => change(args, "drop").await,
        DeliveriesCommand::Pause(args) => pause(&args, "pause").await,
        DeliveriesCommand::Resume(args) => pause(&args, "resume").await,
    }
}

async fn list(args: ListDeliveriesArgs) -> Result<(), CommandError> {
    let (dir, mut query) = (&args.data_dir.data_dir, filter(args.filter, None));
    let mut all: Vec<DeliveryStatus> = Vec::new();
    loop {
        query.limit = Some(args.limit.saturating_sub(all.len()).min(PAGE));
        let page: DeliveryPage = get(dir, &path("deliveries", &query)).await?;
        all.extend(page.deliveries);
        query.before = page.next;
        if page.next.is_none() || all.len() >= args.limit {
            break;
        }
    }

    match args.format {
        OutputFormat::Json => say(&serde_json::json!(all).to_string()),
        OutputFormat::Text => say(&text(&all, Clock::System.now())),
    }
}

async fn show(args: ShowDeliveryArgs) -> Result<(), CommandError> {
    let path = format!("/api/v1/deliveries/{}", args.id);
    let content: DeliveryContent = get(&args.data_dir.data_dir, &path).await?;
    match args.format {
        OutputFormat::Json => say(&serde_json::json!(content).to_string()),
        OutputFormat::Text => say(&content_text(&content, Clock::System.now())),
    }
}

/// Starts a change, and shows its progress until it ends.
async fn change(args: ChangeDeliveriesArgs, change: &str) -> Result<(), CommandError> {
    let dir = &args.data_dir.data_dir;
    let mut query = filter(args.filter, args.id);
    query.rate = Some(args.rate);
    let started: JobStatus = call(
        dir,
        Method::POST,
        &path(&format!("deliveries/{change}"), &query),
    )
    .await?;

    let progress = ProgressBar::new_spinner().with_style(style());
    let ended = loop {
        let jobs: Vec<JobStatus> = get(dir, "/api/v1/delivery-jobs").await?;
        let job = jobs.into_iter().find(|job| job.job == started.job);
        match job {
            Some(job) if !job.has_ended => {
                progress.set_position(job.matched);
                sleep(POLL_INTERVAL).await;
            }
            job => break job.unwrap_or(started),
        }
    };
    progress.finish_and_clear();

    let done = match change {
        "drop" => "deleted",
        _ => "due again; see `hookward-relay deliveries list`",
    };
    say(&format!(
        "{} of {} matching webhooks are {done}",
        ended.changed, ended.matched
    ))?;
    match ended.failure {
        Some(reason) => Err(CommandError::EndedEarly(reason)),
        None => Ok(()),
    }
}

fn style() -> ProgressStyle {
    // A constant that indicatif accepts.
    ProgressStyle::with_template("{spinner} {pos} webhooks, {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

async fn pause(args: &PauseArgs, verb: &str) -> Result<(), CommandError> {
    #[derive(Serialize)]
    struct Tunnel<'a> {
        tunnel: &'a str,
    }

    let query = Tunnel {
        tunnel: &args.tunnel,
    };
    let path = path(&format!("deliveries/{verb}"), &query);
    let done: Done = call(&args.data_dir.data_dir, Method::POST, &path).await?;
    say(&done.message)
}

fn path(resource: &str, query: &impl Serialize) -> String {
    // A flat structure of texts and numbers can always be encoded.
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    format!("/api/v1/{resource}?{query}")
}

fn filter(args: DeliveryFilterArgs, id: Option<Uuid>) -> FilterQuery {
    let state = args.state.map(|state| match state {
        DeliveryStateFlag::Pending => "pending",
        DeliveryStateFlag::Delivered => "delivered",
        DeliveryStateFlag::Dead => "dead",
        DeliveryStateFlag::Dropped => "dropped",
    });
    FilterQuery {
        id,
        tunnel: args.tunnel,
        route: args.route,
        provider: args.provider,
        event: args.event,
        state: state.map(str::to_owned),
        since_ms: args.since.map(|since| since.0),
        until_ms: args.until.map(|until| until.0),
        text: args.text,
        ..FilterQuery::default()
    }
}

/// Number of webhooks that are read at once.
const PAGE: usize = 1000;

/// Interval at which the progress is read.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

fn text(deliveries: &[DeliveryStatus], now: UnixMillis) -> String {
    let header = [
        "ID", "RECEIVED", "STATE", "TUNNEL", "ROUTE", "EVENT", "ATTEMPTS", "BYTES", "LAST",
    ];
    let rows = deliveries.iter().map(|delivery| {
        let event = [&delivery.provider, &delivery.event];
        let event: Vec<_> = event.into_iter().flatten().map(String::as_str).collect();
        vec![
            delivery.id.to_string(),
            ago(delivery.received_ms, now),
            delivery.state.clone(),
            delivery.tunnel.clone(),
            printable(&delivery.route),
            printable(&event.join(" ")),
            delivery.attempts.to_string(),
            delivery.bytes.to_string(),
            last(delivery),
        ]
    });
    table::text(&header, rows.collect())
}

fn ago(at: u64, now: UnixMillis) -> String {
    format!("{} ago", span(now.0.saturating_sub(at) / 1000))
}

/// Returns the last response or failure.
fn last(delivery: &DeliveryStatus) -> String {
    match (&delivery.last_error, delivery.last_status) {
        (Some(error), _) => printable(error),
        (None, Some(status)) => status.to_string(),
        (None, None) => "-".to_owned(),
    }
}

fn content_text(content: &DeliveryContent, now: UnixMillis) -> String {
    let delivery = &content.delivery;
    let mut lines = vec![
        format!("id          {}", delivery.id),
        format!("state       {}", delivery.state),
        format!("received    {}", ago(delivery.received_ms, now)),
        format!("tunnel      {}", delivery.tunnel),
        format!("route       {}", printable(&delivery.route)),
        format!(
            "attempts    {}, redelivered {}",
            delivery.attempts, delivery.redelivered
        ),
        format!("last        {}", last(delivery)),
    ];
    if let Some(next) = delivery.next_attempt_ms {
        let wait = span(next.saturating_sub(now.0) / 1000);
        lines.push(format!("next        in {wait}"));
    }

    match &content.request {
        Some(request) => {
            lines.push(format!("client      {}", request.client));
            lines.push(String::new());
            lines.push(format!("{} {}", request.method, request.path));
            let fields = request.headers.iter();
            lines.extend(fields.map(|(name, value)| format!("{name}: {}", printable(value))));
            lines.push(String::new());
            lines.push(lines_of(&request.body));
        }
        None => lines.push("content     not stored any more".to_owned()),
    }
    if let Some(response) = &content.response {
        lines.push(String::new());
        lines.push("last response:".to_owned());
        lines.push(lines_of(&response.head));
        lines.push(String::new());
        lines.push(lines_of(&response.body));
    }
    lines.join("\n")
}

/// Returns text of others for a terminal.
fn lines_of(text: &str) -> String {
    text.lines().map(printable).collect::<Vec<_>>().join("\n")
}
