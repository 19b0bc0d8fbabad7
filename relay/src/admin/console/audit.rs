//! Page of the audit log: its last records, and new ones as they are written.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse as _, Response};
use futures_util::stream::unfold;
use hookward_observe::audit::RecentRecord;
use hookward_pages::text::visible;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{AUDIT, CONSOLE, ConsoleError};
use crate::admin::overview::Overview;

/// Pause between two messages with new rows, so that a flood needs few.
const ROWS_INTERVAL: Duration = Duration::from_millis(200);

/// Position in the log, and the filter.
#[derive(Deserialize)]
pub(super) struct TailQuery {
    /// Text that each record has, in any case.
    #[serde(default)]
    filter: String,
    /// Number of the last record that the page has.
    after: Option<u64>,
}

/// The page.
#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    filter: String,
    newest: u64,
    rows: String,
}

/// Records in HTML, the newest first.
#[derive(Template)]
#[template(path = "audit_rows.html")]
struct AuditItems {
    /// Number of records before these that the page has missed.
    missed: u64,
    rows: Vec<AuditItem>,
}

/// A record.
struct AuditItem {
    time: String,
    event: String,
    class: &'static str,
    /// Who or what the record is about.
    subject: String,
    reason: String,
    /// The whole record.
    json: String,
}

/// Fields that are the subject of a record, in the order in which people read them.
const SUBJECT: [&str; 10] = [
    "actor", "client", "address", "agent", "method", "path", "tunnel", "route", "delivery",
    "status",
];

/// Fields that are the reason of a record.
const REASON: [&str; 3] = ["check", "code", "reason"];

impl AuditItem {
    fn new(record: &RecentRecord) -> Self {
        let fields: Value = serde_json::from_str(&record.line).unwrap_or_default();
        let details = fields.get("details").unwrap_or(&Value::Null);
        let text = |name: &&str| {
            let value = fields.get(*name).or_else(|| details.get(*name))?;
            match value {
                Value::String(text) => Some(visible(text).into_owned()),
                Value::Null => None,
                other => Some(visible(&other.to_string()).into_owned()),
            }
        };
        let texts = |names: &[&str]| names.iter().filter_map(text).collect::<Vec<_>>();
        let event = text(&"event").unwrap_or_default();
        Self {
            time: text(&"time").unwrap_or_default(),
            class: class_of(&event),
            event,
            subject: texts(&SUBJECT).join(" · "),
            reason: texts(&REASON).join(": "),
            json: visible(&record.line).into_owned(),
        }
    }
}

/// Returns the class of an event: its colour, which is never its only sign.
fn class_of(event: &str) -> &'static str {
    match event {
        "forwarded" | "answered" | "stored" | "delivered" => "good",
        "refused" | "api_refused" | "dead_letter" => "bad",
        event if event.ends_with("failed") || event.ends_with("lost") => "bad",
        _ => "",
    }
}

/// Returns these records in HTML, as far as they match. `missed` is the number of records before them
/// that the page has missed.
fn rows_of(records: &[RecentRecord], filter: &str, missed: u64) -> askama::Result<String> {
    let filter = filter.to_lowercase();
    let matching = records
        .iter()
        .rev()
        .filter(|record| record.line.to_lowercase().contains(&filter));
    let rows: Vec<_> = matching.map(AuditItem::new).collect();
    match rows.is_empty() && missed == 0 {
        true => Ok(String::new()),
        false => AuditItems { missed, rows }.render(),
    }
}

pub(super) async fn show(
    State(overview): State<Arc<Overview>>,
    Query(query): Query<TailQuery>,
) -> Result<Html<String>, ConsoleError> {
    let log = overview.edge.observer.audit();
    if log.is_off() {
        return Err(ConsoleError::NoAuditLog);
    }
    let records = log.recent(0);
    let content = AuditPage {
        newest: records.last().map_or(0, |record| record.seq),
        rows: rows_of(&records, &query.filter, 0)?,
        filter: query.filter,
    };
    Ok(Html(CONSOLE.page(
        "Audit log",
        AUDIT,
        &["audit.js"],
        &content,
    )?))
}

/// Streams new records (server-sent events, HTML Living Standard §9.2).
pub(super) async fn stream(
    State(overview): State<Arc<Overview>>,
    Query(query): Query<TailQuery>,
    headers: HeaderMap,
) -> Result<Response, ConsoleError> {
    let log = overview.edge.observer.audit();
    let newest = log.newest().ok_or(ConsoleError::NoAuditLog)?;
    // After a lost connection, the browser sends the last id.
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let follower = AuditFollower {
        after: last.or(query.after).unwrap_or_else(|| *newest.borrow()),
        overview,
        newest,
        filter: query.filter,
        rows_at: Instant::now(),
    };
    let events = unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::default());
    Ok(events.into_response())
}

/// An open page.
struct AuditFollower {
    overview: Arc<Overview>,
    newest: watch::Receiver<u64>,
    filter: String,
    /// Number of the last record that the page has.
    after: u64,
    /// Earliest time of the next rows.
    rows_at: Instant,
}

impl AuditFollower {
    /// Returns the next rows; `None` when the relay stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let newest = *self.newest.borrow_and_update();
            // A file that was exchanged may begin again.
            self.after = self.after.min(newest);
            if newest > self.after {
                sleep_until(self.rows_at).await;
                self.rows_at = Instant::now() + ROWS_INTERVAL;
                let records = self.overview.edge.observer.audit().recent(self.after);
                let first = records.first().map_or(newest, |record| record.seq);
                let missed = first.saturating_sub(self.after + 1);
                self.after = records.last().map_or(newest, |record| record.seq);
                let rows = rows_of(&records, &self.filter, missed).ok()?;
                if rows.is_empty() {
                    continue;
                }
                let event = Event::default().event("rows").id(self.after.to_string());
                return Some(event.data(rows));
            }

            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                () = self.overview.stop.cancelled() => return None,
            }
        }
    }
}
