//! Captured requests in ngrok's shape. An id is the request id; the newest request with it counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use data_encoding::BASE64;
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::audit::Actor;
use hookward_pages::text::date_time;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::inspector::InspectorApiError;
use crate::api::inspector::request::Wish;
use crate::api::status::AgentView;
use crate::inspector::again::Restored;
use crate::inspector::capture::Source;
use crate::inspector::filter::Filter;
use crate::inspector::history::{Detail, Page};

/// Number of requests in a list, as of ngrok.
const REQUESTS: usize = 50;

/// Maximum number of requests in a list.
const MAX_REQUESTS: usize = 1000;

/// Maximum size of the bodies in a list, in bytes.
const LIST_BYTES: usize = 8 * 1024 * 1024;

/// Parameters of the list.
#[derive(Deserialize)]
pub(in crate::api) struct RequestsQuery {
    limit: Option<usize>,
    tunnel_name: Option<String>,
}

/// The newest captured requests, in the shape of ngrok.
#[utoipa::path(get, path = "/api/requests/http",
    params(("limit" = Option<usize>, Query), ("tunnel_name" = Option<String>, Query, description = "Public host")),
    responses((status = 200, body = Object), (status = 503, body = Object, content_type = "application/problem+json")))]
pub(in crate::api) async fn requests(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<RequestsQuery>,
) -> Result<Json<Value>, InspectorApiError> {
    let history = &view.inspector()?.history;
    let filter = query.tunnel_name.as_deref().map(Filter::of_tunnel);
    let limit = query.limit.unwrap_or(REQUESTS).min(MAX_REQUESTS);
    let found = history
        .list(&filter.unwrap_or_default(), Page::Newest, limit)
        .await?;
    let (mut requests, mut bytes) = (Vec::new(), 0);
    for summary in found {
        let Some(detail) = history.find(summary.number).await? else {
            continue;
        };
        bytes += detail.request.body.len();
        bytes += detail
            .response
            .as_ref()
            .map_or(0, |response| response.body.len());
        if bytes > LIST_BYTES {
            break;
        }
        requests.push(shape(&detail));
    }
    Ok(Json(
        json!({ "requests": requests, "uri": "/api/requests/http" }),
    ))
}

/// One captured request, in the shape of ngrok.
#[utoipa::path(get, path = "/api/requests/http/{id}", params(("id" = String, Path)), responses(
    (status = 200, body = Object),
    (status = 404, body = Object, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn request(
    State(view): State<Arc<AgentView>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, InspectorApiError> {
    Ok(Json(shape(&find(&view, id).await?)))
}

async fn find(view: &AgentView, id: String) -> Result<Detail, InspectorApiError> {
    let number = view.inspector()?.history.number_of(id).await?;
    view.captured(number.ok_or(InspectorApiError::NotFound)?)
        .await
}

/// A request to send again.
#[derive(Deserialize, utoipa::ToSchema)]
pub(in crate::api) struct ReplayRequest {
    /// Request id.
    id: String,
    /// Public host of the tunnel; that of the request otherwise.
    #[serde(default)]
    tunnel_name: Option<String>,
}

/// Sends a captured request to the application again, with a new signature.
#[utoipa::path(post, path = "/api/requests/http", request_body = ReplayRequest, responses(
    (status = 204),
    (status = 404, body = Object, content_type = "application/problem+json"),
    (status = 409, body = Object, content_type = "application/problem+json"),
))]
pub(in crate::api) async fn send_again(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
    Json(replay): Json<ReplayRequest>,
) -> Result<Response, InspectorApiError> {
    let detail = find(&view, replay.id).await?;
    let draft = match Restored::of(&detail) {
        Ok(restored) => restored.draft,
        Err(error) => return Ok(problem(StatusCode::CONFLICT, &error.to_string())),
    };
    let host = replay.tunnel_name.filter(|name| !name.is_empty());
    let wish = Wish {
        host: host.as_deref().unwrap_or(&detail.summary.tunnel),
        client: detail.summary.client.parse().ok(),
        source: Source::Again(detail.summary.number),
        signs: true,
    };
    match view.send(draft, wish, Actor::api(caller)).await {
        Ok(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(reason) => Ok(problem(StatusCode::CONFLICT, &reason)),
    }
}

/// Deletes all captured requests.
#[utoipa::path(delete, path = "/api/requests/http", responses((status = 204)))]
pub(in crate::api) async fn clear(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, InspectorApiError> {
    view.clear_history(caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn shape(detail: &Detail) -> Value {
    let summary = &detail.summary;
    let head = detail.request.parts();
    let uri = head.target().unwrap_or(&summary.path).to_owned();
    let response = detail.response.as_ref().map(|response| {
        let head = response.parts();
        json!({
            "status": head.start_line.split_once(' ').map_or("", |(_, status)| status),
            "status_code": summary.status,
            "proto": "HTTP/1.1",
            "headers": by_name(head.fields),
            "raw": BASE64.encode(&[response.head.as_slice(), b"\r\n", &response.body].concat()),
        })
    });
    json!({
        "uri": format!("/api/requests/http/{}", summary.id),
        "id": summary.id,
        "tunnel_name": summary.tunnel,
        "remote_addr": summary.client,
        "start": date_time(summary.at_ms),
        // In nanoseconds.
        "duration": summary.total_us.saturating_mul(1000),
        "request": {
            "method": summary.method,
            "proto": "HTTP/1.1",
            "headers": by_name(head.fields),
            "uri": uri,
            "raw": BASE64.encode(&detail.request.to_http()),
        },
        "response": response,
    })
}

/// Returns header fields by their names.
fn by_name(fields: Vec<(String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut by_name = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in fields {
        by_name.entry(name).or_default().push(value);
    }
    by_name
}
