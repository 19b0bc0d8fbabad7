//! Pages of the inspector: the list with its live updates ([`router`]), one request (`request`), sample
//! events (`samples`), and exports (`export`). All work without scripts.

pub(super) mod export;
pub(crate) mod request;
mod samples;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::{Extension, FromRef, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use futures_util::Stream;
use futures_util::stream;
use hookward_core::clock::UnixMillis;
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::audit::Actor;
use hookward_pages::serve::with_assets;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::status::{AgentView, HEALTHY, ServedTunnel};
use crate::exchange::TunnelBinding;
use crate::inspector::InspectorView;
use crate::inspector::filter::Filter;
use crate::inspector::history::{Detail, HistoryError, Page, Summary};
use crate::inspector::pages::list::{self, ListItem, ListItems, ROWS, RequestsPage, TunnelCard};
use crate::inspector::pages::{INSPECTOR, REQUESTS};

/// Pause between two messages with new rows, so that a flood needs few.
const ROWS_INTERVAL: Duration = Duration::from_millis(200);

/// Interval at which the charts of an open page are drawn again.
const CHARTS_INTERVAL: Duration = Duration::from_secs(5);

/// Returns the routes.
pub(super) fn router<S>() -> Router<S>
where
    S: Clone + Send + Sync + 'static,
    Arc<AgentView>: FromRef<S>,
{
    let pages = Router::new()
        .route("/", get(requests))
        // Pages of ngrok, which users have as bookmarks.
        .route("/inspect/http", get(|| async { Redirect::permanent("/") }))
        .route("/status", get(|| async { Redirect::permanent("/") }))
        .route("/requests/rows", get(rows))
        .route("/requests/stream", get(stream_rows))
        .route("/requests/clear", post(clear))
        .route("/requests/{number}", get(request::show))
        .route("/requests/{number}/raw", get(request::raw))
        .route("/requests/{number}/edit", get(request::edit))
        .route("/requests/{number}/send", post(request::send))
        .route("/requests/{number}/redeliver", post(request::redeliver))
        .route("/samples", get(samples::list))
        .route("/samples/edit", get(samples::edit))
        .route("/samples/send", post(samples::send))
        .route("/export.jsonl", get(export::lines))
        .route("/export.har", get(export::har));
    with_assets(pages, &INSPECTOR)
}

/// Failure of a page.
pub(super) enum InspectorApiError {
    /// Nothing is captured.
    Off,
    NotFound,
    History(HistoryError),
    Template(askama::Error),
}

impl From<HistoryError> for InspectorApiError {
    fn from(error: HistoryError) -> Self {
        Self::History(error)
    }
}

impl From<askama::Error> for InspectorApiError {
    fn from(error: askama::Error) -> Self {
        Self::Template(error)
    }
}

impl IntoResponse for InspectorApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Off => problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "the inspector keeps no requests: its history could not be opened; the log has the reason",
            ),
            Self::NotFound => problem(
                StatusCode::NOT_FOUND,
                "the request is not in the history; it may be too old",
            ),
            Self::History(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
            Self::Template(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }
}

impl AgentView {
    pub(super) fn inspector(&self) -> Result<&InspectorView, InspectorApiError> {
        self.inspector.as_ref().ok_or(InspectorApiError::Off)
    }

    pub(super) async fn captured(&self, number: i64) -> Result<Detail, InspectorApiError> {
        let found = self.inspector()?.history.find(number).await?;
        found.ok_or(InspectorApiError::NotFound)
    }

    /// Deletes all captured requests. Returns their number.
    pub(super) async fn clear_history(&self, caller: Caller) -> Result<u64, InspectorApiError> {
        let removed = self.inspector()?.history.clear().await?;
        let details = json!({ "requests": removed });
        let audit = self.observer.audit();
        audit.act("history_cleared", Actor::api(caller), details);
        Ok(removed)
    }

    /// Returns all tunnels that were open.
    pub(crate) fn opened(&self) -> Vec<TunnelBinding> {
        let context = self.context.upgrade();
        context.map_or_else(Vec::new, |context| context.opened.all())
    }

    /// Returns a webhook URL without a token.
    fn example(&self) -> String {
        let tunnel = self.opened().into_iter().next();
        let example =
            |tunnel: TunnelBinding| format!("{}{}", tunnel.origin, samples::target_of(&tunnel, ""));
        tunnel.map_or_else(|| "WEBHOOK_URL".to_owned(), example)
    }

    /// Returns the tunnels for the list.
    fn cards(&self) -> Vec<TunnelCard> {
        let served = self.tunnels().into_iter().enumerate();
        let card = |(number, tunnel): (usize, ServedTunnel)| {
            let binding = self.tunnel(&tunnel.host);
            let has_token = |binding: &TunnelBinding| {
                let policy = binding.gate.policy();
                !policy.policy.token_digests().is_empty()
            };
            TunnelCard {
                id: format!("url-{number}"),
                has_token: binding.as_ref().is_some_and(has_token),
                url: match &binding {
                    Some(binding) => {
                        format!(
                            "{}{}",
                            tunnel.url,
                            binding.gate.policy().policy.webhook_path()
                        )
                    }
                    None => tunnel.url,
                },
                is_healthy: tunnel.health == HEALTHY,
                application: tunnel.application,
                health: tunnel.health,
            }
        };
        served.map(card).collect()
    }

    /// Returns the open tunnel of a host.
    fn tunnel(&self, host: &str) -> Option<TunnelBinding> {
        self.context.upgrade()?.opened.find(host)
    }
}

/// Filter of the list, and the position in it.
#[derive(Deserialize)]
struct ListQuery {
    #[serde(default)]
    filter: String,
    before: Option<i64>,
    after: Option<i64>,
}

async fn requests(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<ListQuery>,
) -> Result<Html<String>, InspectorApiError> {
    let mut page = RequestsPage {
        tunnels: view.cards(),
        filter: query.filter,
        example: view.example(),
        mistake: None,
        charts: String::new(),
        rows: Vec::new(),
        newest: 0,
        older: None,
        kept: 0,
        dropped: 0,
        problem: None,
    };
    let Some(inspector) = &view.inspector else {
        page.problem =
            Some("The history could not be opened; the agent's log has the reason.".to_owned());
        return Ok(Html(INSPECTOR.page("Requests", REQUESTS, &[], &page)?));
    };

    let history = &inspector.history;
    let now = view.clock.now();
    page.newest = *history.newest().borrow();
    page.kept = history.count(&Filter::default()).await?;
    page.dropped = inspector.capture.dropped();
    page.charts = list::charts(&history.activity(now).await?)?;
    match Filter::parse(&page.filter, now) {
        Ok(filter) => {
            let place = query.before.map_or(Page::Newest, Page::Before);
            let found = history.list(&filter, place, ROWS).await?;
            page.older = found
                .last()
                .filter(|_| found.len() == ROWS)
                .map(|last| last.number);
            page.rows = found
                .into_iter()
                .map(|summary| ListItem::new(summary, now, &page.filter))
                .collect();
        }
        Err(mistake) => page.mistake = Some(mistake.to_string()),
    }
    Ok(Html(INSPECTOR.page(
        "Requests",
        REQUESTS,
        &["list.js", "copy.js"],
        &page,
    )?))
}

/// Returns further rows in HTML.
async fn rows(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<ListQuery>,
) -> Result<Response, InspectorApiError> {
    let filter = match Filter::parse(&query.filter, view.clock.now()) {
        Ok(filter) => filter,
        Err(mistake) => return Ok(problem(StatusCode::BAD_REQUEST, &mistake.to_string())),
    };
    let place = query.before.map_or(Page::Newest, Page::Before);
    let found = view.inspector()?.history.list(&filter, place, ROWS).await?;
    Ok(Html(rows_of(found, view.clock.now(), &query.filter)?).into_response())
}

fn rows_of(found: Vec<Summary>, now: UnixMillis, filter: &str) -> askama::Result<String> {
    let rows = found
        .into_iter()
        .map(|summary| ListItem::new(summary, now, filter))
        .collect();
    ListItems { rows }.render()
}

/// Streams new rows, and the charts (server-sent events, HTML Living Standard §9.2).
async fn stream_rows(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, InspectorApiError> {
    let filter = match Filter::parse(&query.filter, view.clock.now()) {
        Ok(filter) => filter,
        Err(mistake) => return Ok(problem(StatusCode::BAD_REQUEST, &mistake.to_string())),
    };
    let inspector = view.inspector()?.clone();
    // After a lost connection, the browser sends the last id.
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let after = last.or(query.after);
    let state = ListFollower {
        after: after.unwrap_or_else(|| *inspector.history.newest().borrow()),
        view,
        inspector,
        text: query.filter,
        filter,
        rows_at: Instant::now(),
        charts_at: Instant::now() + CHARTS_INTERVAL,
    };
    let events = follow(state);
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// An open page.
struct ListFollower {
    view: Arc<AgentView>,
    inspector: InspectorView,
    /// Filter as the page has it.
    text: String,
    filter: Filter,
    /// Number of the last request that the page has.
    after: i64,
    /// Earliest time of the next rows.
    rows_at: Instant,
    charts_at: Instant,
}

fn follow(state: ListFollower) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok(event), state))
    })
}

impl ListFollower {
    /// Returns the next event; `None` when the agent stops, or the history fails.
    async fn next(&mut self) -> Option<Event> {
        let history = self.inspector.history.clone();
        let mut newest = history.newest();
        loop {
            if Instant::now() >= self.charts_at {
                return self.charts().await;
            }

            let known = *newest.borrow_and_update();
            // After a damaged file was set aside, numbers begin again.
            self.after = self.after.min(known);
            if known > self.after {
                sleep_until(self.rows_at).await;
                self.rows_at = Instant::now() + ROWS_INTERVAL;
                let page = Page::After(self.after);
                let found = history.list(&self.filter, page, ROWS).await.ok()?;
                let last = found.last().map_or(0, |last| last.number);
                self.after = match found.len() {
                    ROWS => last,
                    _ => known.max(last),
                };
                if found.is_empty() {
                    continue;
                }
                let html = rows_of(found, self.view.clock.now(), &self.text).ok()?;
                let id = self.after.to_string();
                return Some(Event::default().event("rows").id(id).data(html));
            }

            tokio::select! {
                changed = newest.changed() => changed.ok()?,
                () = sleep_until(self.charts_at) => {}
            }
        }
    }

    async fn charts(&mut self) -> Option<Event> {
        self.charts_at = Instant::now() + CHARTS_INTERVAL;
        let now = self.view.clock.now();
        let activity = self.inspector.history.activity(now).await.ok()?;
        let html = list::charts(&activity).ok()?;
        Some(Event::default().event("charts").data(html))
    }
}

async fn clear(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
) -> Result<Redirect, InspectorApiError> {
    view.clear_history(caller).await?;
    Ok(Redirect::to("/"))
}
