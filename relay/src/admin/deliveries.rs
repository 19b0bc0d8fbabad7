//! Stored deliveries in the admin API. Lists hold no content; a single delivery is shown without its
//! secrets.

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookward_core::clock::UnixMillis;
use hookward_core::text::shown_path;
use hookward_gate::engine::{Grant, TokenSpan};
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::audit::Actor;
use hookward_tunnel::protocol::head::ExchangeRequest;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::api::{RelayApi, done, failed};
use super::status::Done;
use crate::delivery::jobs::Job;
use crate::storage::deliveries::{
    Change, DeliveryDetail, DeliveryFilter, DeliveryRow, DeliveryState, Payload,
};

/// Filter of deliveries; all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FilterQuery {
    /// Public id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Public host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Name of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Id of the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Type of the event, as the provider names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// `pending`, `delivered`, `dead` or `dropped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Earliest time of receipt, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Time of receipt before which all match, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Text in the body or in the last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Number of the delivery before which the page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// Maximum number of deliveries in a page (default 100, at most 1,000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Maximum number of changes a second (default 50).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// Some deliveries, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DeliveryPage {
    /// Deliveries.
    pub deliveries: Vec<DeliveryStatus>,
    /// `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// A delivery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct DeliveryStatus {
    /// Public id (`hookward-delivery-id`).
    pub id: Uuid,
    /// Public host of the tunnel.
    pub tunnel: String,
    /// Name of the route.
    pub route: String,
    /// Id of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Type of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// `pending`, `delivered`, `dead` or `dropped`.
    pub state: String,
    /// Number of attempts that have begun.
    pub attempts: u32,
    /// Number of redeliveries by hand.
    pub redelivered: u32,
    /// Status of the last response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// Reason of the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Time of receipt, in milliseconds since 1970.
    pub received_ms: u64,
    /// Time of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Time of the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_ms: Option<u64>,
    /// Size in the store, in bytes.
    pub bytes: u64,
    /// `true` while its content is stored.
    pub has_content: bool,
}

/// A delivery with its content, without secrets.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct DeliveryContent {
    /// The delivery.
    pub delivery: DeliveryStatus,
    /// The webhook, while it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<StoredRequest>,
    /// Last response of a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<StoredResponse>,
}

/// A stored webhook. Tokens, credentials, signatures and the query are left out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct StoredRequest {
    /// Client address.
    pub client: String,
    /// Method.
    pub method: String,
    /// Path, without the query.
    pub path: String,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
    /// Size of the body, in bytes.
    pub body_bytes: u64,
    /// Beginning of the body, as text.
    pub body: String,
}

/// A response of the application.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct StoredResponse {
    /// Status and header fields, one a line.
    pub head: String,
    /// Beginning of the body, as text.
    pub body: String,
}

/// A change of many deliveries in the background.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct JobStatus {
    /// Number of the job.
    pub job: u64,
    /// `redeliver` or `drop`.
    pub change: String,
    /// Start, in milliseconds since 1970.
    pub started_ms: u64,
    /// Number of deliveries that matched so far.
    pub matched: u64,
    /// Number of deliveries that the change applied to.
    pub changed: u64,
    /// `true` once it has ended.
    pub has_ended: bool,
    /// Reason why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl FilterQuery {
    fn filter(self) -> Result<DeliveryFilter, Box<Response>> {
        let state = match self.state.as_deref() {
            None => None,
            Some(name) => {
                let known = DeliveryState::ALL.into_iter();
                let state = known.into_iter().find(|state| state.as_str() == name);
                let detail = "state is pending, delivered, dead or dropped";
                Some(state.ok_or_else(|| Box::new(problem(StatusCode::BAD_REQUEST, detail)))?)
            }
        };
        Ok(DeliveryFilter {
            id: self.id,
            tunnel: self.tunnel,
            route: self.route,
            provider: self.provider,
            event: self.event,
            state,
            since: self.since_ms.map(UnixMillis),
            until: self.until_ms.map(UnixMillis),
            text: self.text,
        })
    }
}

/// Stored deliveries that match, newest first.
#[utoipa::path(get, path = "/api/v1/deliveries", params(FilterQuery), responses(
    (status = 200, body = DeliveryPage),
    (status = 400, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<RelayApi>,
    Query(query): Query<FilterQuery>,
) -> Response {
    if query.rate.is_some() {
        return problem(StatusCode::BAD_REQUEST, "rate has no effect on a list");
    }
    let (before, most) = (query.before, query.limit.unwrap_or(PAGE).min(LONGEST_PAGE));
    let filter = match query.filter() {
        Ok(filter) => filter,
        Err(response) => return *response,
    };
    match api.store().page(filter, before, most).await {
        Ok(page) => {
            let next = page.rows.last().map(|row| row.seq);
            Json(DeliveryPage {
                next: next.filter(|_| page.has_more),
                deliveries: page.rows.into_iter().map(DeliveryStatus::of).collect(),
            })
            .into_response()
        }
        Err(error) => failed(&error),
    }
}

/// One stored delivery with its content, without secrets.
#[utoipa::path(get, path = "/api/v1/deliveries/{id}", params(("id" = Uuid, Path)), responses(
    (status = 200, body = DeliveryContent),
    (status = 404, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn show(
    State(api): State<RelayApi>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<Uuid>,
) -> Response {
    match api.store().detail(id).await {
        Ok(Some(detail)) => {
            // Content is personal data, so that each look at it has a record.
            let fields = serde_json::json!({ "delivery": id.to_string() });
            api.audit()
                .act("delivery_shown", Actor::api(caller), fields);
            Json(content(detail)).into_response()
        }
        Ok(None) => problem(StatusCode::NOT_FOUND, "there is no delivery with this id"),
        Err(error) => failed(&error),
    }
}

/// Makes a new attempt of every delivery that matches, in the background.
#[utoipa::path(post, path = "/api/v1/deliveries/redeliver", params(FilterQuery), responses(
    (status = 202, body = JobStatus),
    (status = 400, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn redeliver(
    State(api): State<RelayApi>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<FilterQuery>,
) -> Response {
    start(&api, query, Change::Redeliver, caller)
}

/// Deletes the content of every delivery that matches, in the background.
#[utoipa::path(post, path = "/api/v1/deliveries/drop", params(FilterQuery), responses(
    (status = 202, body = JobStatus),
    (status = 400, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn drop(
    State(api): State<RelayApi>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<FilterQuery>,
) -> Response {
    start(&api, query, Change::Drop, caller)
}

fn start(api: &RelayApi, query: FilterQuery, change: Change, caller: Caller) -> Response {
    if query.before.is_some() || query.limit.is_some() {
        // They bound a list. A change of "the first ten" would be one of all.
        let detail = "before and limit have no effect on a change; name conditions";
        return problem(StatusCode::BAD_REQUEST, detail);
    }
    let rate = query.rate.unwrap_or(RATE).max(1);
    let filter = match query.filter() {
        Ok(filter) => filter,
        Err(response) => return *response,
    };
    if filter == DeliveryFilter::default() {
        let detail = "name at least one condition, such as state=dead";
        return problem(StatusCode::BAD_REQUEST, detail);
    }

    match api
        .deliveries()
        .change(filter, change, rate, Actor::api(caller))
    {
        Some(job) => (StatusCode::ACCEPTED, Json(JobStatus::of(&job))).into_response(),
        None => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many changes are in progress: wait until one has ended",
        ),
    }
}

/// Changes of deliveries in the background, oldest first.
#[utoipa::path(get, path = "/api/v1/delivery-jobs", responses((status = 200, body = Vec<JobStatus>)))]
pub(super) async fn jobs(State(api): State<RelayApi>) -> Json<Vec<JobStatus>> {
    let jobs = api.deliveries().jobs();
    Json(jobs.iter().map(|job| JobStatus::of(job)).collect())
}

/// Stops the attempts of a tunnel's stored deliveries. Webhooks are still stored.
#[utoipa::path(post, path = "/api/v1/deliveries/pause", params(TunnelQuery), responses((status = 200, body = Done)))]
pub(super) async fn pause(
    State(api): State<RelayApi>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<TunnelQuery>,
) -> Response {
    set_paused(&api, &query.tunnel, true, caller).await
}

/// Makes the attempts of a tunnel's stored deliveries again.
#[utoipa::path(post, path = "/api/v1/deliveries/resume", params(TunnelQuery), responses((status = 200, body = Done)))]
pub(super) async fn resume(
    State(api): State<RelayApi>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<TunnelQuery>,
) -> Response {
    set_paused(&api, &query.tunnel, false, caller).await
}

/// A tunnel.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct TunnelQuery {
    /// Public host.
    tunnel: String,
}

async fn set_paused(api: &RelayApi, tunnel: &str, paused: bool, caller: Caller) -> Response {
    if api.registry().find(tunnel).is_none() {
        return problem(StatusCode::NOT_FOUND, "there is no tunnel with this host");
    }
    match api
        .deliveries()
        .pause(tunnel, paused, Actor::api(caller))
        .await
    {
        Ok(()) => done(&match paused {
            true => format!("{tunnel}: stored webhooks wait until they are resumed"),
            false => format!("{tunnel}: stored webhooks are delivered"),
        }),
        Err(error) => failed(&error),
    }
}

impl DeliveryStatus {
    fn of(row: DeliveryRow) -> Self {
        Self {
            id: row.id,
            tunnel: row.tunnel,
            route: row.route,
            provider: row.provider,
            event: row.event,
            state: row.state.as_str().to_owned(),
            attempts: row.attempts,
            redelivered: row.redelivered,
            last_status: row.last_status,
            last_error: row.last_error,
            received_ms: row.received.0,
            ended_ms: row.ended.map(|ended| ended.0),
            next_attempt_ms: row.due.map(|due| due.0),
            bytes: row.bytes,
            has_content: row.has_payload,
        }
    }
}

impl JobStatus {
    fn of(job: &Job) -> Self {
        Self {
            job: job.number,
            change: match job.change {
                Change::Redeliver => "redeliver".to_owned(),
                Change::Drop => "drop".to_owned(),
            },
            started_ms: job.started.0,
            matched: job.matched(),
            changed: job.changed(),
            has_ended: job.has_ended(),
            failure: job.failure(),
        }
    }
}

fn content(detail: DeliveryDetail) -> DeliveryContent {
    let text = |bytes: &[u8]| {
        let beginning = bytes
            .get(..bytes.len().min(SHOWN_BYTES))
            .unwrap_or_default();
        String::from_utf8_lossy(beginning).into_owned()
    };
    let response = detail.response.map(|response| StoredResponse {
        head: response.head,
        body: text(&response.body),
    });
    DeliveryContent {
        delivery: DeliveryStatus::of(detail.row),
        request: detail.payload.and_then(|payload| request(payload, text)),
        response,
    }
}

fn request(payload: Payload, text: impl Fn(&[u8]) -> String) -> Option<StoredRequest> {
    let Payload { head, grant, body } = payload;
    let head = ExchangeRequest::decode(head).ok()?;
    let grant: Grant = serde_json::from_slice(&grant).ok()?;
    let is_token = |name: &axum::http::HeaderName| {
        let is_own = |span: &TokenSpan| matches!(span, TokenSpan::Header(token) if token == name);
        grant.tokens.iter().any(is_own)
    };

    let headers = head.headers.iter().map(|(name, value)| {
        let value = match !is_token(name) && is_harmless(name) {
            true => String::from_utf8_lossy(value.as_bytes()).into_owned(),
            false => "(hidden)".to_owned(),
        };
        (name.as_str().to_owned(), value)
    });
    Some(StoredRequest {
        client: head.meta.client.to_string(),
        method: head.method.to_string(),
        path: shown_path(&head.target).into_owned(),
        headers: headers.collect(),
        body_bytes: body.len() as u64,
        body: text(&body),
    })
}

/// Returns `true` for fields that hold no secret. Providers put secrets and signatures into fields of
/// many names, so that all others are hidden.
fn is_harmless(name: &axum::http::HeaderName) -> bool {
    const NAMES: [&str; 8] = [
        "accept",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "host",
        "traceparent",
        "user-agent",
    ];
    const ENDS: [&str; 5] = ["-event", "-event-key", "-event-type", "-topic", "-delivery"];
    let name = name.as_str();
    NAMES.contains(&name) || ENDS.iter().any(|end| name.ends_with(end))
}

/// Number of deliveries in a page.
const PAGE: usize = 100;

/// Maximum number of deliveries in a page.
const LONGEST_PAGE: usize = 1000;

/// Number of changes a second, unless the request names another one.
const RATE: u64 = 50;

/// Maximum number of bytes of a body that are shown.
const SHOWN_BYTES: usize = 64 * 1024;
