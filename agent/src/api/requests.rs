//! Captured requests in our own form.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::api::deliveries::Done;
use hookward_observe::audit::Actor;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::inspector::InspectorApiError;
use super::inspector::export;
use super::inspector::request::Wish;
use super::status::AgentView;
use crate::inspector::again::Restored;
use crate::inspector::capture::Source;
use crate::inspector::filter::Filter;
use crate::inspector::history::{Page, Summary};

/// Maximum number of requests in a page.
const MAX_REQUESTS: usize = 1000;

/// Parameters of the list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestsQuery {
    /// Words and key:value terms, as on the inspector's page.
    #[serde(default)]
    filter: String,
    /// Number of the request before which the page begins.
    before: Option<i64>,
    /// Maximum number of requests in a page (default 100, at most 1,000).
    limit: Option<usize>,
}

/// Some requests, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct RequestPage {
    /// Requests.
    requests: Vec<Summary>,
    /// `before` of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// Captured requests, newest first.
#[utoipa::path(get, path = "/api/v1/requests", params(RequestsQuery), responses(
    (status = 200, body = RequestPage),
    (status = 400, body = Object, content_type = "application/problem+json"),
    (status = 503, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<RequestsQuery>,
) -> Result<Response, InspectorApiError> {
    let filter = match Filter::parse(&query.filter, view.clock.now()) {
        Ok(filter) => filter,
        Err(mistake) => return Ok(problem(StatusCode::BAD_REQUEST, &mistake.to_string())),
    };
    let limit = query.limit.unwrap_or(100).min(MAX_REQUESTS);
    let place = query.before.map_or(Page::Newest, Page::Before);
    let requests = view
        .inspector()?
        .history
        .list(&filter, place, limit)
        .await?;
    let last = requests.last().filter(|_| requests.len() == limit);
    let next = last.map(|last| last.number);
    Ok(Json(RequestPage { requests, next }).into_response())
}

/// A captured request with its messages and the explanation of its verdict.
#[utoipa::path(get, path = "/api/v1/requests/{number}", params(("number" = i64, Path)), responses(
    (status = 200, body = Object),
    (status = 404, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn one(
    State(view): State<Arc<AgentView>>,
    Path(number): Path<i64>,
) -> Result<Response, InspectorApiError> {
    let detail = view.captured(number).await?;
    Ok(Json(export::line(&detail)).into_response())
}

/// Edits of a request to send. What is absent stays as captured.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Edits {
    /// Method.
    #[serde(default)]
    method: Option<String>,
    /// Path and query.
    #[serde(default)]
    target: Option<String>,
    /// Header fields, one a line: `Name: value`.
    #[serde(default)]
    fields: Option<String>,
    /// Body.
    #[serde(default)]
    body: Option<String>,
    /// `false` to send it without a new signature.
    #[serde(default = "yes")]
    sign: bool,
}

const fn yes() -> bool {
    true
}

/// A request that was sent.
#[derive(Serialize, ToSchema)]
pub(super) struct Sent {
    /// Number in the history, if it is captured.
    number: Option<i64>,
    /// Status of the application's response.
    status: u16,
    /// Names of the providers as which it was signed.
    signed_by: Vec<String>,
}

/// Sends a captured request to the application again, as it was or edited.
#[utoipa::path(post, path = "/api/v1/requests/{number}/send", params(("number" = i64, Path)),
    request_body = Edits, responses(
    (status = 200, body = Sent),
    (status = 404, body = Object, content_type = "application/problem+json"),
    (status = 409, body = Object, content_type = "application/problem+json"),
))]
pub(super) async fn send(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
    Path(number): Path<i64>,
    Json(edits): Json<Edits>,
) -> Result<Response, InspectorApiError> {
    let detail = view.captured(number).await?;
    let mut draft = match Restored::of(&detail) {
        Ok(restored) => restored.draft,
        Err(error) => return Ok(problem(StatusCode::CONFLICT, &error.to_string())),
    };
    draft.method = edits.method.unwrap_or(draft.method);
    draft.target = edits.target.unwrap_or(draft.target);
    draft.fields = edits.fields.unwrap_or(draft.fields);
    draft.body = edits.body.map_or(draft.body, String::into_bytes);
    let wish = Wish {
        host: &detail.summary.tunnel,
        client: detail.summary.client.parse().ok(),
        source: Source::Again(number),
        signs: edits.sign,
    };
    match view.send(draft, wish, Actor::api(caller)).await {
        Ok(sent) => Ok(Json(Sent {
            number: sent.number,
            status: sent.status.as_u16(),
            signed_by: sent.signed_by,
        })
        .into_response()),
        Err(reason) => Ok(problem(StatusCode::CONFLICT, &reason)),
    }
}

/// Deletes all captured requests.
#[utoipa::path(delete, path = "/api/v1/requests", responses((status = 200, body = Done)))]
pub(super) async fn clear(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Done>, InspectorApiError> {
    let removed = view.clear_history(caller).await?;
    let message = format!("{removed} requests are deleted");
    Ok(Json(Done { message }))
}
