//! `deliveries …` lists and changes stored webhooks through the API of a running program.

mod args;
mod text;

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use hookward_core::clock::Clock;
use hookward_core::text::printable;
use hookward_observe::api::client::{self, CallError};
use hookward_observe::api::deliveries::{
    DeliveryContent, DeliveryPage, DeliveryStatus, Done, FilterQuery, JobStatus, TunnelQuery,
};
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::sleep;

use crate::OutputFormat;

pub use self::args::{
    ChangeArgs, DeliveriesCommand, FilterArgs, ListArgs, PauseArgs, ShowArgs, StateFlag,
};

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum DeliveriesError {
    /// The program that is called did not answer as expected.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A change ended before all deliveries were changed.
    #[error("the change ended early: {0}; repeat the command to go on")]
    EndedEarly(String),
    /// Standard output is closed.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl<L: Args> DeliveriesCommand<L> {
    /// Returns the location of the program to call.
    pub const fn location(&self) -> &L {
        match self {
            Self::List(args) => &args.location,
            Self::Show(args) => &args.location,
            Self::Redeliver(args) | Self::Drop(args) => &args.location,
            Self::Pause(args) | Self::Resume(args) => &args.location,
        }
    }

    /// Runs the command on the program whose API has this Unix socket. `program` is its name.
    ///
    /// # Errors
    /// [`DeliveriesError`].
    pub async fn run(self, socket: &Path, program: &str) -> Result<(), DeliveriesError> {
        match self {
            Self::List(args) => list(args.filter, args.limit, args.format, socket).await,
            Self::Show(args) => {
                let path = format!("/api/v1/deliveries/{}", args.id);
                let content: DeliveryContent = client::call(socket, Method::GET, &path).await?;
                say(&match args.format {
                    OutputFormat::Json => serde_json::json!(content).to_string(),
                    OutputFormat::Text => text::content(&content, Clock::System.now()),
                })
            }
            Self::Redeliver(args) => {
                let done = format!("due again; see `{program} deliveries list`");
                change(args, "redeliver", &done, socket).await
            }
            Self::Drop(args) => change(args, "drop", "deleted", socket).await,
            Self::Pause(args) => pause(args.tunnel, "pause", socket).await,
            Self::Resume(args) => pause(args.tunnel, "resume", socket).await,
        }
    }
}

async fn list(
    filter: FilterArgs,
    limit: usize,
    format: OutputFormat,
    socket: &Path,
) -> Result<(), DeliveriesError> {
    let mut query = filter.query(None);
    let mut all: Vec<DeliveryStatus> = Vec::new();
    loop {
        query.limit = Some(limit.saturating_sub(all.len()).min(PAGE));
        let path = path("deliveries", &query);
        let page: DeliveryPage = client::call(socket, Method::GET, &path).await?;
        let is_empty = page.deliveries.is_empty();
        all.extend(page.deliveries);
        query.before = page.next;
        if page.next.is_none() || is_empty || all.len() >= limit {
            break;
        }
    }

    say(&match format {
        OutputFormat::Json => serde_json::json!(all).to_string(),
        OutputFormat::Text => text::list(&all, Clock::System.now()),
    })
}

/// Starts a change, and shows its progress until it ends.
async fn change<L: Args>(
    args: ChangeArgs<L>,
    change: &str,
    done: &str,
    socket: &Path,
) -> Result<(), DeliveriesError> {
    let query = FilterQuery {
        rate: Some(args.rate),
        ..args.filter.query(args.id)
    };
    let path = path(&format!("deliveries/{change}"), &query);
    let started: JobStatus = client::call(socket, Method::POST, &path).await?;

    let progress = ProgressBar::new_spinner().with_style(style());
    let ended = loop {
        let jobs = "/api/v1/delivery-jobs";
        let jobs: Vec<JobStatus> = client::call(socket, Method::GET, jobs).await?;
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

    let (changed, matched) = (ended.changed, ended.matched);
    say(&format!(
        "{changed} of {matched} matching webhooks are {done}"
    ))?;
    match ended.failure {
        Some(reason) => Err(DeliveriesError::EndedEarly(printable(&reason))),
        None => Ok(()),
    }
}

fn style() -> ProgressStyle {
    // A constant that indicatif accepts.
    ProgressStyle::with_template("{spinner} {pos} webhooks, {elapsed}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

async fn pause(tunnel: String, verb: &str, socket: &Path) -> Result<(), DeliveriesError> {
    let path = path(&format!("deliveries/{verb}"), &TunnelQuery { tunnel });
    let done: Done = client::call(socket, Method::POST, &path).await?;
    say(&printable(&done.message))
}

/// Returns the path of a resource with its query.
#[must_use]
pub fn path(resource: &str, query: &impl Serialize) -> String {
    // A flat structure of texts and numbers can always be encoded.
    let query = serde_urlencoded::to_string(query).unwrap_or_default();
    format!("/api/v1/{resource}?{query}")
}

/// Prints a result. A closed pipe is not an error.
fn say(text: &str) -> Result<(), DeliveriesError> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// Number of webhooks that are read at once.
const PAGE: usize = 1000;

/// Interval at which the progress is read.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
