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
use hookward_observe::audit::{AuditLog, RecentRecord};
use hookward_pages::text::visible;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::audit_filter::AuditFilter;
use super::{AUDIT, CONSOLE, ConsoleError};
use crate::admin::events::KEEP_ALIVE;
use crate::admin::overview::Overview;

/// Pause between two messages, so that a flood needs few.
const ROWS_INTERVAL: Duration = Duration::from_millis(200);

/// Position in the log, and the filter.
#[derive(Deserialize)]
pub(super) struct TailQuery {
    /// Words and terms, all of which must match.
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
    /// Actor, client and object of the record.
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
const REASON: [&str; 5] = ["check", "code", "reason", "filter", "details"];

impl AuditItem {
    fn new(record: Map<String, Value>) -> Self {
        let text = |name: &&str| match record.get(*name)? {
            Value::String(text) => Some(visible(text).into_owned()),
            Value::Null => None,
            other => Some(visible(&other.to_string()).into_owned()),
        };
        let texts = |names: &[&str]| names.iter().filter_map(text).collect::<Vec<_>>();
        let event = text(&"event").unwrap_or_default();
        Self {
            time: text(&"time").unwrap_or_default(),
            class: class_of(&event),
            event,
            subject: texts(&SUBJECT).join(" · "),
            reason: texts(&REASON).join(": "),
            json: serde_json::to_string_pretty(&record)
                .map(|json| visible(&json).into_owned())
                .unwrap_or_default(),
        }
    }
}

/// Returns the class of an event: its colour, which is never its only sign.
fn class_of(event: &str) -> &'static str {
    match event {
        "forwarded" | "answered" | "stored" | "delivered" => "good",
        "refused" | "dead_letter" | "audit_gap" | "audit_deleted" | "audit_emptied" => "bad",
        event
            if ["_failed", "_lost", "_refused"]
                .iter()
                .any(|end| event.ends_with(end)) =>
        {
            "bad"
        }
        _ => "",
    }
}

/// Returns these records in HTML, as far as they match. `missed` is the number of records before them
/// that the page has missed.
fn rows_of(records: &[RecentRecord], filter: &AuditFilter, missed: u64) -> askama::Result<String> {
    let parsed = records.iter().rev().filter_map(|record| {
        let fields = serde_json::from_str::<Map<String, Value>>(&record.line);
        fields.ok().filter(|fields| filter.matches(fields))
    });
    let rows: Vec<_> = parsed.map(AuditItem::new).collect();
    match rows.is_empty() && missed == 0 {
        true => Ok(String::new()),
        false => AuditItems { missed, rows }.render(),
    }
}

impl TailQuery {
    fn parsed(&self) -> Result<AuditFilter, ConsoleError> {
        AuditFilter::parse(&self.filter).ok_or(ConsoleError::LongFilter)
    }
}

pub(super) async fn show(
    State(overview): State<Arc<Overview>>,
    Query(query): Query<TailQuery>,
) -> Result<Html<String>, ConsoleError> {
    let log = overview.edge.observer.audit();
    let newest = log.newest().ok_or(ConsoleError::NoAuditLog)?;
    let records = log.recent(0);
    let last = records.last().map(|record| record.seq);
    let content = AuditPage {
        newest: last.unwrap_or_else(|| *newest.borrow()),
        rows: rows_of(&records, &query.parsed()?, 0)?,
        filter: visible(&query.filter).into_owned(),
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
    let log = overview.edge.observer.audit().clone();
    let newest = log.newest().ok_or(ConsoleError::NoAuditLog)?;
    // After a lost connection, the browser sends the last id.
    let last = headers.get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok()?.parse().ok());
    let follower = AuditFollower {
        after: last.or(query.after).unwrap_or_else(|| *newest.borrow()),
        filter: query.parsed()?,
        log,
        newest,
        rows_at: Instant::now(),
    };
    let events = unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(event), follower))
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(events).keep_alive(keep_alive).into_response())
}

/// An open page. The listener closes its connection when the relay stops.
struct AuditFollower {
    log: AuditLog,
    newest: watch::Receiver<u64>,
    filter: AuditFilter,
    /// Number of the last record that the page knows of.
    after: u64,
    /// Earliest time of the next message.
    rows_at: Instant,
}

impl AuditFollower {
    /// Returns the next rows, or the position of the page if none matches; `None` when the log ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let newest = *self.newest.borrow_and_update();
            if newest < self.after {
                // A log without a file begins again with the program.
                self.after = 0;
            }
            if newest > self.after {
                sleep_until(self.rows_at).await;
                self.rows_at = Instant::now() + ROWS_INTERVAL;
                let records = self.log.recent(self.after);
                let first = records.first().map_or(newest + 1, |record| record.seq);
                let missed = first.saturating_sub(self.after + 1);
                self.after = records.last().map_or(newest, |record| record.seq);
                let rows = rows_of(&records, &self.filter, missed).ok()?;
                let event = Event::default().id(self.after.to_string());
                return Some(match rows.is_empty() {
                    true => event.event("position").data("no record matches"),
                    false => event.event("rows").data(rows),
                });
            }
            self.newest.changed().await.ok()?;
        }
    }
}
