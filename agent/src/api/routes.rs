//! Routes of the API. Their OpenAPI document is made from the same declarations.

use std::sync::Arc;

use axum::extract::{Extension, FromRef, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, middleware};
use hookward_observe::api::access::{self, Access, Caller, Guard, ProtectedPages, problem};
use hookward_observe::metrics::{self, CONTENT_TYPE, ProcessSnapshot};
use hookward_pages::serve::show_errors;
use prometheus_client::registry::Registry;
use serde::Deserialize;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::inspector;
use super::metrics::AgentSnapshot;
use super::ngrok;
use super::relay_calls;
use super::requests;
use super::status::{AgentView, ProcessStatus};
use crate::inspector::pages::INSPECTOR;

/// State of the handlers.
#[derive(Clone)]
struct AgentApi {
    view: Arc<AgentView>,
    registry: Arc<Registry>,
    /// Access to the reasons of health checks.
    known: Access,
}

impl FromRef<AgentApi> for Arc<AgentView> {
    fn from_ref(api: &AgentApi) -> Self {
        Self::clone(&api.view)
    }
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Hookward agent",
    description = "Private API of a Hookward agent. /api/tunnels, /api/endpoints, /api/requests/http and \
                   /api/status have ngrok's shape. /metrics and /api/v1 need the token of the file api-token in the \
                   state directory: Authorization: Bearer TOKEN. On another address than loopback, \
                   everything but /livez and /readyz does. \
                   /api/v1/deliveries and /api/v1/delivery-jobs are those of the relay's API, for the \
                   tunnels of this agent."
))]
struct AgentDocument;

/// Creates the router. Without `is_local`, other machines can reach the API.
pub(super) fn router(view: Arc<AgentView>, guard: &Arc<Guard>, is_local: bool) -> Router {
    let mut registry = Registry::default();
    view.observer.metrics().register(&mut registry);
    metrics::register(&mut registry, AgentSnapshot(Arc::clone(&view)));
    metrics::register(&mut registry, ProcessSnapshot::new(&view.clock));
    let api = AgentApi {
        view,
        registry: Arc::new(registry),
        known: Access::metrics(guard),
    };

    let (health, mut document) = OpenApiRouter::with_openapi(AgentDocument::openapi())
        .routes(routes!(livez))
        .routes(routes!(readyz))
        .split_for_parts();
    let (ngrok, of_ngrok) = OpenApiRouter::new()
        .routes(routes!(ngrok::tunnels))
        .routes(routes!(ngrok::tunnel))
        .routes(routes!(ngrok::endpoints))
        .routes(routes!(ngrok::status))
        .routes(routes!(ngrok::requests, ngrok::send_again, ngrok::clear))
        .routes(routes!(ngrok::request))
        .split_for_parts();
    let (private, of_private) = OpenApiRouter::new()
        .routes(routes!(prometheus))
        .routes(routes!(status))
        .routes(routes!(requests::list, requests::clear))
        .routes(routes!(requests::one))
        .routes(routes!(requests::send))
        .split_for_parts();
    document.merge(of_ngrok);
    document.merge(of_private);

    let document = Json(document);
    let private = private.merge(relay_calls::router()).route(
        "/api/v1/openapi.json",
        axum::routing::get(|| async move { document.clone() }),
    );
    let protect = |router: Router<AgentApi>, access: Access| {
        let access = match is_local {
            true => access,
            false => access.under_any_name(),
        };
        router
            .with_state(api.clone())
            .layer(middleware::from_fn_with_state(access, access::check))
    };
    let read = match is_local {
        true => Access::own_user(guard),
        false => Access::full(guard),
    }
    .for_pages(ProtectedPages {
        product: INSPECTOR.product,
        links: INSPECTOR.links,
    });
    protect(health, Access::open(guard))
        .merge(protect(ngrok.merge(inspector::router()), read))
        .merge(protect(private, Access::full(guard)))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "see /api/v1/openapi.json") })
        .layer(middleware::from_fn_with_state(&INSPECTOR, show_errors))
}

/// Liveness: always `ok` while the process runs.
#[utoipa::path(get, path = "/livez", responses((status = 200, body = String, content_type = "text/plain")))]
async fn livez() -> &'static str {
    "ok\n"
}

/// Parameters of the readiness.
#[derive(Deserialize)]
struct ReadyQuery {
    /// `true` to require healthy applications, too.
    #[serde(default)]
    application: bool,
}

/// Readiness: `ok` while a connection to a relay serves the tunnels. With a token, reasons.
#[utoipa::path(get, path = "/readyz",
    params(("application" = Option<bool>, Query, description = "Require healthy applications, too")),
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = 503, body = String, content_type = "text/plain"),
    ))]
async fn readyz(
    State(api): State<AgentApi>,
    Query(query): Query<ReadyQuery>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
) -> Response {
    let connection = match api.view.is_ready() {
        true => None,
        false => Some("no connection to a relay serves the tunnels".to_owned()),
    };
    let applications = match query.application {
        true => api.view.application_problems(),
        false => Vec::new(),
    };
    let problems: Vec<_> = connection.into_iter().chain(applications).collect();

    let (status, word) = match problems.is_empty() {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
    };
    let caller = caller.map(|Extension(caller)| caller);
    match api.known.is_known(caller.as_ref(), &headers) {
        true => {
            let problems = problems.iter().map(|problem| format!("{problem}\n"));
            (status, word.to_owned() + &problems.collect::<String>()).into_response()
        }
        false => (status, word).into_response(),
    }
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String, content_type = "text/plain")))]
async fn prometheus(State(api): State<AgentApi>) -> Response {
    // Reads files of /proc.
    let text = tokio::task::spawn_blocking(move || metrics::text(&api.registry)).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the agent is stopping"),
    }
}

/// State of the agent as a whole.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = ProcessStatus)))]
async fn status(State(api): State<AgentApi>) -> Json<ProcessStatus> {
    Json(api.view.status())
}
