//! Pages of the inspector: the list, one request, and the actions on it. They work without scripts.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::extract::{Extension, Form, FromRef, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use futures_util::Stream;
use futures_util::stream;
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::audit::Actor;
use hookward_pages::assets::{Asset, SHARED, page_headers};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::status::{AgentView, HEALTHY};
use crate::exchange::TunnelBinding;
use crate::inspector::InspectorView;
use crate::inspector::again::{Draft, Restored};
use crate::inspector::capture::Source;
use crate::inspector::filter::Filter;
use crate::inspector::history::{Detail, HistoryError, Page};
use crate::inspector::pages::detail::RequestPage;
use crate::inspector::pages::edit::EditPage;
use crate::inspector::pages::list::{self, ROWS, RequestsPage, Row, Rows, TunnelCard};
use crate::inspector::pages::{self, Place, SCRIPTS};

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
    Router::new()
        .route("/", get(requests))
        .route("/requests/rows", get(rows))
        .route("/requests/stream", get(stream_rows))
        .route("/requests/clear", post(clear))
        .route("/requests/{number}", get(request))
        .route("/requests/{number}/raw", get(raw))
        .route("/requests/{number}/edit", get(edit))
        .route("/requests/{number}/send", post(send))
        .route("/assets/{name}", get(asset))
        .layer(axum::middleware::map_response(protect))
}

/// Adds the fields that protect a page.
async fn protect(mut response: Response) -> Response {
    response.headers_mut().extend(page_headers());
    response
}

/// Returns an embedded file.
async fn asset(Path(name): Path<String>) -> Response {
    let mut all = SHARED.iter().chain(&SCRIPTS);
    match all.find(|asset| asset.name == name) {
        Some(Asset {
            media_type,
            content,
            ..
        }) => ([(header::CONTENT_TYPE, *media_type)], *content).into_response(),
        None => problem(StatusCode::NOT_FOUND, "there is no such file"),
    }
}

/// Failure of a page.
enum PageError {
    /// Nothing is captured.
    Off,
    NotFound,
    History(HistoryError),
    Template(askama::Error),
}

impl From<HistoryError> for PageError {
    fn from(error: HistoryError) -> Self {
        Self::History(error)
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        Self::Template(error)
    }
}

impl IntoResponse for PageError {
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
    fn inspector(&self) -> Result<&InspectorView, PageError> {
        self.inspector.as_ref().ok_or(PageError::Off)
    }

    async fn captured(&self, number: i64) -> Result<Detail, PageError> {
        let found = self.inspector()?.history.find(number).await?;
        found.ok_or(PageError::NotFound)
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
) -> Result<Html<String>, PageError> {
    let tunnels = view.tunnels().into_iter().map(|tunnel| TunnelCard {
        is_healthy: tunnel.health == HEALTHY,
        url: tunnel.url,
        application: tunnel.application,
        health: tunnel.health,
    });
    let mut page = RequestsPage {
        tunnels: tunnels.collect(),
        filter: query.filter,
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
        return Ok(Html(pages::page("Requests", Place::Requests, &[], &page)?));
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
            page.rows = found.into_iter().map(Row::from).collect();
        }
        Err(mistake) => page.mistake = Some(mistake.to_string()),
    }
    Ok(Html(pages::page(
        "Requests",
        Place::Requests,
        &["list.js"],
        &page,
    )?))
}

/// Returns further rows in HTML.
async fn rows(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<ListQuery>,
) -> Result<Response, PageError> {
    let filter = match Filter::parse(&query.filter, view.clock.now()) {
        Ok(filter) => filter,
        Err(mistake) => return Ok(problem(StatusCode::BAD_REQUEST, &mistake.to_string())),
    };
    let place = query.before.map_or(Page::Newest, Page::Before);
    let found = view.inspector()?.history.list(&filter, place, ROWS).await?;
    Ok(Html(rows_of(found)?).into_response())
}

fn rows_of(found: Vec<crate::inspector::history::Summary>) -> askama::Result<String> {
    let rows = found.into_iter().map(Row::from).collect();
    Rows { rows }.render()
}

/// Streams new rows, and the charts (server-sent events, HTML Living Standard §9.2).
async fn stream_rows(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, PageError> {
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
    let state = Follower {
        after: after.unwrap_or_else(|| *inspector.history.newest().borrow()),
        view,
        inspector,
        filter,
        charts_at: Instant::now() + CHARTS_INTERVAL,
    };
    let events = follow(state);
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response())
}

/// An open page.
struct Follower {
    view: Arc<AgentView>,
    inspector: InspectorView,
    filter: Filter,
    /// Number of the last request that the page has.
    after: i64,
    charts_at: Instant,
}

fn follow(state: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok(event), state))
    })
}

impl Follower {
    /// Returns the next event; `None` when the agent stops, or the history fails.
    async fn next(&mut self) -> Option<Event> {
        let history = self.inspector.history.clone();
        let mut newest = history.newest();
        loop {
            let known = *newest.borrow_and_update();
            if known > self.after {
                let found = history
                    .list(&self.filter, Page::After(self.after), ROWS)
                    .await
                    .ok()?;
                self.after = match found.last() {
                    Some(last) if found.len() == ROWS => last.number,
                    _ => known.max(found.last().map_or(0, |last| last.number)),
                };
                if !found.is_empty() {
                    tokio::time::sleep(ROWS_INTERVAL).await;
                    let id = self.after.to_string();
                    let html = rows_of(found).ok()?;
                    return Some(Event::default().event("rows").id(id).data(html));
                }
                continue;
            }

            tokio::select! {
                changed = newest.changed() => changed.ok()?,
                () = sleep_until(self.charts_at) => {
                    self.charts_at = Instant::now() + CHARTS_INTERVAL;
                    let activity = history.activity(self.view.clock.now()).await.ok()?;
                    let html = list::charts(&activity).ok()?;
                    return Some(Event::default().event("charts").data(html));
                }
            }
        }
    }
}

/// Result of an action, shown on the page of a request.
#[derive(Deserialize, Default)]
struct NoticeQuery {
    #[serde(default)]
    sent: bool,
    signed: Option<String>,
}

async fn request(
    State(view): State<Arc<AgentView>>,
    Path(number): Path<i64>,
    Query(notice): Query<NoticeQuery>,
) -> Result<Html<String>, PageError> {
    let detail = view.captured(number).await?;
    let mut page = request_page(&view, &detail)?;
    if notice.sent {
        let signed = notice.signed.filter(|signed| !signed.is_empty());
        let signed = signed.map(|by| format!(", with a new signature as {by} makes it"));
        page.notice = Some(format!(
            "Sent to the application{}.",
            signed.unwrap_or_default()
        ));
    }
    show(&detail, &page)
}

fn request_page(view: &AgentView, detail: &Detail) -> Result<RequestPage, PageError> {
    let stuck = match (Restored::of(detail), view.tunnel(&detail.summary.tunnel)) {
        (Err(error), _) => Some(error.to_string()),
        (_, None) => Some("this agent has not opened its tunnel".to_owned()),
        (Ok(_), Some(_)) => None,
    };
    Ok(RequestPage::new(detail, stuck, None)?)
}

fn show(detail: &Detail, page: &RequestPage) -> Result<Html<String>, PageError> {
    let title = format!("{} {}", detail.summary.method, detail.summary.path);
    Ok(Html(pages::page(
        &title,
        Place::Elsewhere,
        &["request.js"],
        page,
    )?))
}

/// Returns a request in the form that `hookward explain --request` reads.
async fn raw(
    State(view): State<Arc<AgentView>>,
    Path(number): Path<i64>,
) -> Result<Response, PageError> {
    let detail = view.captured(number).await?;
    let name = format!("attachment; filename=\"request-{number}.http\"");
    let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        ),
        (header::CONTENT_DISPOSITION, name),
    ];
    Ok((headers, detail.request.to_http()).into_response())
}

async fn edit(
    State(view): State<Arc<AgentView>>,
    Path(number): Path<i64>,
) -> Result<Response, PageError> {
    let detail = view.captured(number).await?;
    let restored = match Restored::of(&detail) {
        Ok(restored) => restored,
        Err(error) => return Ok(problem(StatusCode::CONFLICT, &error.to_string())),
    };
    let page = edit_page(number, &detail, restored.draft, restored.missing);
    Ok(Html(pages::page("Edit and send", Place::Elsewhere, &[], &page)?).into_response())
}

fn edit_page(number: i64, detail: &Detail, draft: Draft, missing: Vec<String>) -> EditPage {
    EditPage {
        title: format!(
            "Edit and send: {} {}",
            detail.summary.method, detail.summary.path
        ),
        back: format!("/requests/{number}"),
        action: format!("/requests/{number}/send"),
        tunnels: vec![detail.summary.tunnel.clone()],
        method: draft.method,
        target: draft.target,
        fields: draft.fields,
        body: String::from_utf8(draft.body).ok(),
        signs: true,
        missing,
        problem: None,
    }
}

/// Fields of a request to send.
#[derive(Deserialize)]
struct SendForm {
    /// Set if the other fields replace the captured request.
    edited: Option<String>,
    method: Option<String>,
    target: Option<String>,
    fields: Option<String>,
    body: Option<String>,
    sign: Option<String>,
}

impl SendForm {
    /// Applies the edits to a draft.
    fn apply(self, draft: &mut Draft) {
        if self.edited.is_none() {
            return;
        }
        if let Some(method) = self.method {
            draft.method = method;
        }
        if let Some(target) = self.target {
            draft.target = target;
        }
        if let Some(fields) = self.fields {
            draft.fields = fields;
        }
        if let Some(body) = self.body {
            // Browsers send each line break as CR LF (HTML Living Standard §4.10.21.7).
            let has_crlf = draft.body.windows(2).any(|pair| pair == b"\r\n");
            draft.body = match has_crlf {
                true => body.into_bytes(),
                false => body.replace("\r\n", "\n").into_bytes(),
            };
        }
    }
}

async fn send(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<i64>,
    Form(form): Form<SendForm>,
) -> Result<Response, PageError> {
    let detail = view.captured(number).await?;
    let is_edited = form.edited.is_some();
    let signs = form.sign.is_some();
    let (draft, missing) = match Restored::of(&detail) {
        Ok(Restored { mut draft, missing }) => {
            form.apply(&mut draft);
            (draft, missing)
        }
        Err(error) => return Ok(problem(StatusCode::CONFLICT, &error.to_string())),
    };

    let client = detail.summary.client.parse().ok();
    let wish = Wish {
        host: &detail.summary.tunnel,
        client,
        source: Source::Again(number),
        signs,
    };
    match view.send(draft.clone(), wish, caller).await {
        Ok(sent) => {
            let target = sent.number.unwrap_or(number);
            let signed = sent.signed_by.join(" and ");
            let query = [("sent", "true"), ("signed", &signed)];
            let query = serde_urlencoded::to_string(query).unwrap_or_default();
            let target = format!("/requests/{target}?{query}");
            Ok(Redirect::to(&target).into_response())
        }
        Err(reason) if is_edited => {
            let mut page = edit_page(number, &detail, draft, missing);
            page.signs = signs;
            page.problem = Some(reason);
            let html = pages::page("Edit and send", Place::Elsewhere, &[], &page)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(html)).into_response())
        }
        Err(reason) => {
            let mut page = request_page(&view, &detail)?;
            page.problem = Some(reason);
            let html = show(&detail, &page)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, html).into_response())
        }
    }
}

/// What the user wants to send, and how.
pub(super) struct Wish<'w> {
    /// Host of the tunnel.
    pub host: &'w str,
    pub client: Option<IpAddr>,
    pub source: Source,
    /// `true` to sign anew.
    pub signs: bool,
}

/// A request that was sent.
pub(super) struct SentRequest {
    /// Its number in the history, if it is captured.
    pub number: Option<i64>,
    pub status: StatusCode,
    pub signed_by: Vec<String>,
}

impl AgentView {
    /// Sends a draft to the application.
    ///
    /// # Errors
    /// The reason, for the user.
    pub(super) async fn send(
        &self,
        draft: Draft,
        wish: Wish<'_>,
        caller: Caller,
    ) -> Result<SentRequest, String> {
        let Some(tunnel) = self.tunnel(wish.host) else {
            return Err(format!(
                "this agent has not opened the tunnel {}",
                wish.host
            ));
        };
        let now = self.clock.now();
        let prepared = draft.prepare(&tunnel, wish.signs, wish.client, (wish.source, now));
        let prepared = prepared.map_err(|error| error.to_string())?;

        let details = json!({
            "tunnel": wish.host,
            "again_of": match wish.source {
                Source::Again(number) => Some(number),
                Source::Sender => None,
            },
            "signed_by": prepared.signed_by,
        });
        let audit = self.observer.audit();
        audit.act("request_sent_by_user", Actor::api(caller), details);
        let sent = tunnel.send_for_owner(prepared.request).await;
        let sent = sent.map_err(|error| error.to_string())?;
        let number = match &self.inspector {
            // Without its number, the page of the original is shown.
            Some(inspector) => inspector
                .history
                .arrival(&sent.id.to_string())
                .await
                .unwrap_or(None),
            None => None,
        };
        Ok(SentRequest {
            number,
            status: sent.status,
            signed_by: prepared.signed_by,
        })
    }
}

async fn clear(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
) -> Result<Redirect, PageError> {
    let removed = view.inspector()?.history.clear().await?;
    let audit = view.observer.audit();
    audit.act(
        "history_cleared",
        Actor::api(caller),
        json!({ "requests": removed }),
    );
    Ok(Redirect::to("/"))
}
