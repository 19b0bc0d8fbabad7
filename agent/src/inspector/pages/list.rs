//! The list of requests.

use askama::Template;
use hookward_core::clock::UnixMillis;
use hookward_pages::chart::{Bars, Lines, Ranking};
use hookward_pages::site::path_with;
use hookward_pages::text::{clock, date_time, day_and_minute, duration, visible};

use super::verdict_class;
use crate::inspector::filter::KEYS;
use crate::inspector::history::{Activity, Summary};

/// Length of a day, in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// Maximum number of rows that the server sends at once.
pub(crate) const ROWS: usize = 100;

/// The list with its filter and charts.
#[derive(Template)]
#[template(path = "requests.html")]
pub(crate) struct RequestsPage {
    pub tunnels: Vec<TunnelCard>,
    pub filter: String,
    /// Webhook URL without a token, for an example.
    pub example: String,
    /// Mistake of the filter.
    pub mistake: Option<String>,
    /// Charts in HTML.
    pub charts: String,
    pub rows: Vec<ListItem>,
    /// Number of the newest request, from which on the page follows.
    pub newest: i64,
    /// Number before which there may be more requests.
    pub older: Option<i64>,
    /// Number of requests in the history.
    pub kept: u64,
    /// Number of requests that were not captured, because there were too many at once.
    pub dropped: u64,
    /// Problem of the history.
    pub problem: Option<String>,
}

/// A tunnel of the agent.
pub(crate) struct TunnelCard {
    /// Id of the element with the URL.
    pub id: String,
    /// Webhook URL without a token.
    pub url: String,
    /// `true` if a route needs a token in the URL.
    pub has_token: bool,
    pub application: String,
    /// State of the application.
    pub health: String,
    pub is_healthy: bool,
}

impl RequestsPage {
    /// Returns the keys of the filter.
    fn keys(&self) -> &'static str {
        KEYS
    }
}

/// Some rows of the list.
#[derive(Template)]
#[template(path = "rows.html")]
pub(crate) struct ListItems {
    pub rows: Vec<ListItem>,
}

/// A row of the list.
pub(crate) struct ListItem {
    number: i64,
    /// Path of its page, which keeps the filter.
    link: String,
    clock: String,
    date_time: String,
    method: String,
    path: String,
    status: String,
    took: String,
    client: String,
    /// Provider and event.
    sender: String,
    verdict: String,
    class: &'static str,
    reason: Option<String>,
    /// `again` or `sample`, if the user sent it; `stored` for an attempt of a stored delivery.
    source: Option<String>,
}

impl ListItem {
    /// Creates a row of a filtered list, as it is at a time.
    pub(crate) fn new(summary: Summary, now: UnixMillis, filter: &str) -> Self {
        let sender = [summary.provider, summary.event];
        let sender: Vec<_> = sender.into_iter().flatten().collect();
        let reason = summary.reason.map(|reason| match summary.check {
            Some(check) => format!("{check}: {reason}"),
            None => reason,
        });
        Self {
            number: summary.number,
            link: request_path(summary.number, filter),
            clock: match summary.at_ms / DAY_MS == now.0 / DAY_MS {
                true => clock(summary.at_ms),
                false => day_and_minute(summary.at_ms),
            },
            date_time: date_time(summary.at_ms),
            method: summary.method,
            path: summary.path,
            status: summary
                .status
                .map_or("–".to_owned(), |status| status.to_string()),
            took: match summary.application_us.unwrap_or(summary.total_us) {
                // The relay counts in milliseconds.
                0 => "< 1 ms".to_owned(),
                micros => duration(micros),
            },
            client: summary.client,
            sender: visible(&sender.join(" ")).into_owned(),
            class: verdict_class(&summary.verdict, summary.status),
            verdict: summary.verdict,
            reason: reason.map(|reason| visible(&reason).into_owned()),
            source: match (summary.source.as_str(), &summary.delivery) {
                ("sender", None) => None,
                ("sender", Some(_)) => Some("stored".to_owned()),
                _ => Some(summary.source),
            },
        }
    }
}

/// Returns the charts of the last hour in HTML.
///
/// # Errors
/// A failure of a template, which is a bug.
pub(crate) fn charts(activity: &Activity) -> askama::Result<String> {
    let total: u64 = activity.requests.iter().sum();
    let highest = activity.requests.iter().copied().max().unwrap_or_default();
    let most = format!("up to {highest} a minute");
    let summary = format!("{total} requests in the last hour, {most}");
    let requests = Bars::new("Requests, last hour", &summary, &most, &activity.requests);

    let longest = activity.p99.iter().flatten().copied().max();
    let longest = longest.map_or("no answers".to_owned(), |micros| {
        format!("up to {}", duration(micros))
    });
    let summary = format!("Time of the application in the last hour, {longest}");
    let series = [
        ("p50", activity.median.clone()),
        ("p99", activity.p99.clone()),
    ];
    let durations = Lines::new("Application", &summary, &longest, &series);

    let refusals = activity.refusals.iter().take(4);
    let refusals: Vec<_> = refusals
        .map(|(check, count)| (check.as_str(), *count))
        .collect();
    let refusals = Ranking::new("Refusals by check, last hour", "None", &refusals);
    Ok(requests.render()? + &durations.render()? + &refusals.render()?)
}

/// Returns the path of a request's page, which keeps the filter of the list.
pub(super) fn request_path(number: i64, filter: &str) -> String {
    path_with(&format!("/requests/{number}"), &[("filter", filter)])
}
